"""Which checkpoints are meant: by step, `latest`, `best` or `all`.

May import objects and layout. Reads head.json, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..checkpoint.layout import HEAD, Entry, Head
from ..objects import Objects
from .lines import ToolError

SHOWN = 20
LATEST, BEST, ALL = "latest", "best", "all"


def read_head(objects: Objects) -> Head:
    """The job's head. Raises ToolError when there is none, `Damaged` and the errors of the store."""
    found = objects.get_with_etag(HEAD)
    if found is None:
        raise ToolError(f"{objects.uri()}: there is no checkpoint ({HEAD} is missing)")
    head = Head.parse(found[0], objects.uri(HEAD))
    if not head.checkpoints:
        raise ToolError(f"{objects.uri()}: the job has no checkpoint")
    return head


def choose(entries: Sequence[Entry], word: str) -> list[Entry]:
    """The entries (newest first) that `word` means. Raises ToolError with the steps there are."""
    if word == ALL:
        return list(entries)
    if word == LATEST:
        return list(entries[:1])
    if word == BEST:
        measured = [entry for entry in entries if entry.metric is not None]
        if not measured:
            raise ToolError(f"{word}: no checkpoint has a metric yet; {steps_text(entries)}", usage=True)
        return [max(measured, key=lambda entry: (entry.metric or 0.0, entry.step))]
    if not word.isdecimal():
        raise ToolError(f"{word!r} is no step; give a number, {LATEST} or {BEST}; {steps_text(entries)}", usage=True)
    found = [entry for entry in entries if entry.step == int(word)]
    if not found:
        raise ToolError(f"there is no checkpoint of step {int(word)}; {steps_text(entries)}", usage=True)
    return found[:1]


def steps_text(entries: Sequence[Entry]) -> str:
    """`the checkpoints are those of steps 300, 200, 100`."""
    if not entries:
        return "there is none"
    more = f" and {len(entries) - SHOWN} more" if len(entries) > SHOWN else ""
    steps = ", ".join(str(entry.step) for entry in entries[:SHOWN])
    return f"there {'is step' if len(entries) == 1 else 'are the steps'} {steps}{more}"
