"""What a check finds. May import the standard library only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """How it stands: `warn` hinders something, `fail` prevents a run, `skip` could not be or need not be looked at."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True)
class Finding:
    """One line of the answer; `remedy` says what to do, and is empty where nothing is to be done."""

    state: State
    message: str
    remedy: str = ""


@dataclass(frozen=True)
class Check:
    """One thing to look at. Checks of one `lane` run one after the other, lanes beside each other.

    `look` may take a few seconds; what it raises is its finding. `name` never changes: scripts look for it.
    """

    name: str
    lane: str
    look: Callable[[], Finding]


class Skipped(Exception):
    """A check cannot look: the message says what is in the way."""


def ok(message: str) -> Finding:
    """All is well."""
    return Finding(State.OK, message)


def warn(message: str, remedy: str = "") -> Finding:
    """Something will be slower, or missing."""
    return Finding(State.WARN, message, remedy)


def fail(message: str, remedy: str = "") -> Finding:
    """A run will not work."""
    return Finding(State.FAIL, message, remedy)


def skip(message: str) -> Finding:
    """Not looked at, and why."""
    return Finding(State.SKIP, message)


def split_remedy(text: str) -> tuple[str, str]:
    """Our own messages say what to do behind the first `; `."""
    message, _, remedy = text.partition("; ")
    return message, remedy


def size_text(size_bytes: float) -> str:
    """`3.2 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size_bytes) < 1024:
            return f"{size_bytes:.0f} {unit}" if unit in ("B", "KiB") else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"
