"""A run at one moment, as values, and the tracker that gathers it from jobs, reports, events and log lines.

May import the API and the core's values. No clock (times are passed in), no I/O, no drawing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from dlcloud_operator.api import CheckpointStatus, Failure, Phase, Progress
from dlcloud_operator.core.model import JobView, RankState, Report

RATE_WINDOW = timedelta(seconds=10)
KEPT_EVENTS = 200
KEPT_LOG_LINES = 200


@dataclass(frozen=True)
class RankRow:
    """One rank; `steps_per_second` is None until two different steps were seen."""

    rank: int
    worker: int
    state: RankState
    step: int | None = None
    quiet_s: float | None = None
    steps_per_second: float | None = None


@dataclass(frozen=True)
class EventLine:
    """Something that happened to the job, in one line."""

    at: datetime
    reason: str
    message: str
    warning: bool = False


@dataclass(frozen=True)
class Snapshot:
    """All a user may see. `stopping` is the line shown while the run is being stopped, else empty."""

    name: str
    started_at: datetime
    now: datetime
    phase: Phase | None = None
    message: str = ""
    round_number: int = 0
    world_size: int = 0
    workers: str = ""
    restarts: int = 0
    progress: Progress | None = None
    checkpoint: CheckpointStatus | None = None
    failures: tuple[Failure, ...] = ()
    ranks: tuple[RankRow, ...] = ()
    events: tuple[EventLine, ...] = ()
    log: tuple[str, ...] = ()
    log_total: int = 0  # lines ever seen: tells which of `log` are new
    stopping: str = ""

    @property
    def elapsed(self) -> timedelta:
        """Since the run began."""
        return self.now - self.started_at


@dataclass
class _Rate:
    """Steps a second of one rank within one round, from what its agent told."""

    seen: deque[tuple[datetime, int]] = field(default_factory=deque)

    def add(self, at: datetime, step: int) -> None:
        if self.seen and step < self.seen[-1][1]:
            self.seen.clear()
        if not self.seen or step > self.seen[-1][1]:
            self.seen.append((at, step))
        while len(self.seen) > 2 and at - self.seen[0][0] > RATE_WINDOW:
            self.seen.popleft()

    def value(self) -> float | None:
        if len(self.seen) < 2:
            return None
        (first_at, first), (last_at, last) = self.seen[0], self.seen[-1]
        seconds = (last_at - first_at).total_seconds()
        return (last - first) / seconds if seconds > 0 else None


class Tracker:
    """Gathers what a snapshot shows. Called on one thread; keeps no more than the newest events and lines."""

    def __init__(self, name: str, started_at: datetime) -> None:
        self._name = name
        self._started_at = started_at
        self._job: JobView | None = None
        self._reports: dict[str, Report] = {}
        self._rates: dict[tuple[int, int], _Rate] = {}
        self.progress: Progress | None = None  # the latest that is known
        self._checkpoint: CheckpointStatus | None = None
        self._events: deque[EventLine] = deque(maxlen=KEPT_EVENTS)
        self._log: deque[str] = deque(maxlen=KEPT_LOG_LINES)
        self._log_total = 0
        self.stopping = ""

    def job(self, view: JobView) -> None:
        """The job as it is now."""
        self._job = view
        status = view.status
        if status.checkpoint:
            self.saved(status.checkpoint)
        if status.progress and (self.progress is None or view.status.phase in (Phase.SUCCEEDED, Phase.FAILED)):
            self.progress = status.progress

    def report(self, report: Report) -> None:
        """An agent spoke; its word is newer than the job's status, which is written less often."""
        self._reports[report.pod_uid] = report
        if report.progress is not None:
            self.progress = report.progress
        if report.checkpoint is not None:
            self.saved(report.checkpoint)
        for rank in report.ranks:
            if rank.step is not None:
                self._rates.setdefault((report.round, rank.rank), _Rate()).add(report.received_at, rank.step)
        self._rates = {key: rate for key, rate in self._rates.items() if key[0] >= report.round - 1}

    def saved(self, checkpoint: CheckpointStatus) -> None:
        """A checkpoint is committed; the newest counts."""
        held = self._checkpoint
        if held is None or (checkpoint.uri != held.uri and checkpoint.committed_at >= held.committed_at):
            self._checkpoint = checkpoint

    def events(self, events: Iterable[EventLine]) -> None:
        """New events, oldest first."""
        self._events.extend(events)

    def log(self, lines: Iterable[str]) -> None:
        """New lines of the ranks' output, oldest first."""
        for line in lines:
            self._log.append(line)
            self._log_total += 1

    def snapshot(self, now: datetime) -> Snapshot:
        """The run at `now`."""
        if self._job is None:
            return Snapshot(self._name, self._started_at, now, stopping=self.stopping)
        status = self._job.status
        return Snapshot(
            name=self._name,
            started_at=self._started_at,
            now=now,
            phase=status.phase,
            message=status.message,
            round_number=status.round.number if status.round else 0,
            world_size=status.round.world_size if status.round else 0,
            workers=status.workers.text,
            restarts=status.restarts,
            progress=self.progress,
            checkpoint=self._checkpoint,
            failures=tuple(status.failures),
            ranks=tuple(self._rank_rows(now)),
            events=tuple(self._events),
            log=tuple(self._log),
            log_total=self._log_total,
            stopping=self.stopping,
        )

    def _rank_rows(self, now: datetime) -> Iterable[RankRow]:
        current = self._job.status.round if self._job else None
        if current is None:
            return
        for member in current.members:
            report = self._reports.get(member.uid)
            known = {rank.rank: rank for rank in report.ranks} if report and report.round == current.number else {}
            for number in member.ranks:
                seen = known.get(number)
                if seen is None or report is None:
                    yield RankRow(number, member.index, RankState.STARTING)
                    continue
                since = (now - report.received_at).total_seconds()
                rate = self._rates.get((report.round, number))
                yield RankRow(
                    rank=number,
                    worker=member.index,
                    state=seen.state,
                    step=seen.step,
                    quiet_s=None if seen.quiet_s is None else max(0.0, seen.quiet_s + since),
                    steps_per_second=rate.value() if rate else None,
                )
