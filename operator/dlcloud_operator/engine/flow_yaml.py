"""Writes a value as flow YAML in ASCII: the one way a value gets into a template.

May import the standard library only. Not JSON: YAML 1.1 reads surrogate pairs, 1e+22 and U+2028 otherwise than meant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def flow_yaml(value: Any) -> str:
    """One line of YAML that any reader takes for exactly this value. Raises ValueError for what JSON has not."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{value} cannot be written: only finite numbers can")
        text = repr(float(value))
        return text if "." in text else text.replace("e", ".0e")
    if isinstance(value, str):
        return '"' + "".join(map(_character, value)) + '"'
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"? {flow_yaml(str(key))} : {flow_yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(flow_yaml, value)) + "]"
    raise ValueError(f"{type(value).__name__} cannot be written as YAML")


def _character(character: str) -> str:
    if " " <= character <= "~":
        return _ESCAPES.get(character, character)
    if character in _ESCAPES:
        return _ESCAPES[character]
    code = ord(character)
    if 0xD800 <= code <= 0xDFFF:  # half of a pair is no character in any encoding
        return "\\uFFFD"
    return f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"
