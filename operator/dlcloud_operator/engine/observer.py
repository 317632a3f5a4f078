"""Who may watch the engine at work: hooks that do nothing unless somebody measures.

May import core. A hook is called on the event loop, must return at once and must not raise.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dlcloud_operator.core.model import JobKey


class PassResult(StrEnum):
    """How one pass over a job ended."""

    OK = "ok"
    CONFLICT = "conflict"  # the job changed meanwhile: planned again
    REFUSED = "refused"  # the cluster does not want an object of the job
    ERROR = "error"  # of the transport, or of ours: backed off


@dataclass(frozen=True)
class QueueState:
    """A keyed queue at one moment; ages in seconds, 0 when there is nothing to age."""

    urgent: int = 0  # keys that wait for a worker
    resync: int = 0  # the same, in the lane that may wait
    busy: int = 0  # keys being handled
    oldest_age_s: float = 0.0
    oldest_busy_s: float = 0.0


class Observer:
    """Does nothing; override what is of interest."""

    def reconciled(self, key: JobKey, result: PassResult, seconds: float) -> None:
        """A pass over a job ended after so long."""

    def rendezvous_answered(self, verb: str, status: int) -> None:
        """A request was answered; `verb` is assignment, report or other, and never a stranger's text."""


SILENT = Observer()
