"""Waiting for what happens on a real cluster: `until`, with a look three times a second.

May import the rig. Its own `until` looks fifty times a second: on a cluster that shares its cores with the pods, that
alone would keep the API server busy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ..rig import processes

POLL_S = 0.3
T = TypeVar("T")


def until(what: str, look: Callable[[], T | None], limit_s: float, *needs: processes.Program) -> T:
    """What `look` returns once it is true. Raises RigError after `limit_s`, or when a program of `needs` has ended."""
    return processes.until(what, look, limit_s, *needs, poll_s=POLL_S)
