"""What the agent knows about its ranks and tells the operator: processes, results, what the ranks said of themselves.

May import the standard library only. No I/O and no decisions: those are `state`'s.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .outcome import ERROR, SUCCEEDED, shorten
from .values import RankId, Report, Result
from .wire import result_json, time_text

if TYPE_CHECKING:
    from .values import Assignment, Effect, Moment

ROUNDS_KEPT = 3
WARNINGS_KEPT = 8
PROGRESS_KEYS = ("epoch", "epochs", "step", "totalSteps", "samples", "loss", "samplesPerSecond", "metrics")
CHECKPOINT_KEYS = ("step", "uri", "committedAt", "sizeBytes")


class Rank:
    """What is known of one rank's process. Times in monotonic seconds."""

    def __init__(self, id: RankId, now: float) -> None:
        self.id = id
        self.asked_at = now
        self.forked = False
        self.stop_at: float | None = None  # when it was killed for a newer round
        self.sent: set[int] = set()  # signals this agent sent it
        self.step: int | None = None
        self.stepped_at = now
        self.longest_step_s: float | None = None
        self.failed: tuple[str, str] | None = None


class Ledger:
    """The current round's ranks and the last rounds' results."""

    def __init__(self, *, workload: bool, address: str, port: int) -> None:
        self.workload, self.address, self.port = workload, address, port
        self.assignment: Assignment | None = None
        self.ranks: dict[int, Rank] = {}  # of this round, once begun
        self.results: list[Result] = []
        self.progress: dict[str, Any] | None = None
        self.checkpoint: dict[str, Any] | None = None
        self.warnings: list[dict[str, Any]] = []

    @property
    def round(self) -> int:
        """The highest round seen, 0 before the first."""
        return self.assignment.round if self.assignment else 0

    @property
    def succeeded(self) -> bool:
        """Every rank of the current round ended with success."""
        own = [result.outcome for result in self.results if result.round == self.round]
        return self.assignment is not None and own == [SUCCEEDED] * len(self.assignment.ranks)

    def open_round(self, assignment: Assignment) -> None:
        """A newer round is the current one; what belongs to rounds long gone is forgotten."""
        self.assignment, self.ranks = assignment, {}
        if 0 not in assignment.ranks:
            self.progress = self.checkpoint = None
        self.results = [result for result in self.results if result.round > assignment.round - ROUNDS_KEPT]

    def add_result(self, id: RankId, outcome: str, code: int | None, message: str, at: Moment) -> None:
        """A rank is over."""
        self.results.append(Result(id.round, id.rank, outcome, code, at.wall, message))

    def hear(self, rank: Rank, event: dict[str, Any], at: Moment) -> list[Effect]:
        """Take in a line a rank wrote; unknown ones are ignored."""
        kind = event["event"]
        if kind == "forked":
            rank.forked = True
            return [Report(urgent=not self.workload)]
        if kind == "step" and isinstance(event.get("step"), int):
            first, rank.step, rank.stepped_at = rank.step is None, event["step"], at.mono
            longest = event.get("longestStepS")
            rank.longest_step_s = float(longest) if isinstance(longest, (int, float)) else rank.longest_step_s
            return [Report(urgent=first)]
        if kind == "progress":
            self.progress = {key: event[key] for key in PROGRESS_KEYS if event.get(key) is not None}
            return [Report(urgent=False)]
        if kind == "checkpoint":
            self.checkpoint = {key: event[key] for key in CHECKPOINT_KEYS if key in event}
            return [Report(urgent=True)]
        if kind in ("warning", "recovered"):
            reason, message = shorten(str(event.get("reason", "")), 63), shorten(str(event.get("message", "")))
            told = {"reason": reason, "message": message, "at": time_text(at.wall)}
            self.warnings = [warning for warning in self.warnings if warning["reason"] != reason]
            self.warnings.append({**told, "over": True} if kind == "recovered" else told)
            del self.warnings[:-WARNINGS_KEPT]
            return [Report(urgent=True)]
        if kind == "failed":
            rank.failed = (str(event.get("outcome", ERROR)), str(event.get("message", "")))
        return []

    def report(self, now: float, draining: bool) -> dict[str, Any]:
        """The report's content, without `sentAt`."""
        return {
            "round": self.round,
            "address": self.address,
            "port": self.port,
            "draining": draining,
            "ranks": [self._rank_json(number, now) for number in (self.assignment.ranks if self.assignment else ())],
            "results": [result_json(result) for result in self.results],
            "progress": self.progress,
            "checkpoint": self.checkpoint,
            "warnings": list(self.warnings),
        }

    def _rank_json(self, number: int, now: float) -> dict[str, Any]:
        rank = self.ranks.get(number)
        stepped = rank is not None and rank.step is not None
        state = "starting"
        if any(result.round == self.round and result.rank == number for result in self.results):
            state = "ended"
        elif rank is not None and (stepped or (rank.forked and not self.workload)):
            state = "running"
        return {
            "rank": number,
            "state": state,
            "step": rank.step if rank else None,
            "quietS": round(now - rank.stepped_at, 3) if rank and stepped and state == "running" else None,
            "longestStepS": rank.longest_step_s if rank else None,
        }
