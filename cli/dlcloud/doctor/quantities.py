"""Kubernetes quantities as numbers, as servers write them (the API's own reader takes what manifests may say)."""

from __future__ import annotations

import re

_UNITS = {
    "n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50, "Ei": 2.0**60,
}  # fmt: skip
_QUANTITY = re.compile(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([a-zA-Z]*)")


def quantity(text: object) -> float:
    """`500m`, `2Gi`, `1e3` as cores or bytes; 0 for what is none."""
    match = _QUANTITY.fullmatch(str(text).strip())
    try:
        return float(match[1]) * _UNITS[match[2]] if match else 0.0
    except (ValueError, KeyError):
        return 0.0
