"""Objects a job owns beside its pods: whether one is as it should be, and what mends it. Plain JSON values, no I/O.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def covers(actual: Any, wanted: Any) -> bool:
    """Whether an object says all that a manifest says; what an API server filled in beside it does not count."""
    if isinstance(wanted, Mapping):
        if actual is None:
            return all(covers(None, value) for value in wanted.values())
        return isinstance(actual, Mapping) and all(covers(actual.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, Sequence) and not isinstance(wanted, str):
        found = [] if actual is None else actual  # an API server leaves empty lists out
        if not isinstance(found, Sequence) or isinstance(found, str) or len(found) != len(wanted):
            return False
        return all(covers(one, other) for one, other in zip(found, wanted, strict=True))
    return bool(actual == wanted)


def patch_for(actual: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """A merge patch that makes `actual` cover `wanted`, and lets go of what its spec says beside it.

    It carries the uid, so that it cannot hit a later object of the same name.
    """
    there = actual.get("spec") or {}
    spec = wanted.get("spec") or {}
    metadata = {name: wanted["metadata"][name] for name in ("labels", "ownerReferences") if name in wanted["metadata"]}
    return {
        "metadata": {"uid": actual["metadata"]["uid"], **metadata},
        "spec": {**{key: None for key in there if key not in spec}, **spec},
    }
