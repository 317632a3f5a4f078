"""What `dlcloud top` shows of a job, as values.

May import the API, the core's words for conditions and the jobs' protocol. Pure: the time is passed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from dlcloud_operator.api import Phase, parse_duration
from dlcloud_operator.core.conditions import OWN
from dlcloud_operator.core.time_left import seconds_left

from ..jobs.source import INTERRUPTED, JobRecord
from ..view.words import duration

_RECENT = timedelta(minutes=10)  # a failure is worth a line for so long
_LATE_SAVES = 3
_UPLOAD = timedelta(minutes=1)


@dataclass(frozen=True)
class JobRow:
    """One job at one moment. `warning` is empty when there is nothing a user should look at."""

    id: str
    phase: str
    running: bool
    workers: str
    restarts: int
    age_s: float
    message: str = ""
    warning: str = ""
    epoch: int | None = None
    epochs: int | None = None
    step: int | None = None
    total_steps: int | None = None
    loss: float | None = None
    samples_per_second: float | None = None
    eta_s: float | None = None
    checkpoint_step: int | None = None
    checkpoint_age_s: float | None = None

    @property
    def share(self) -> float | None:
        """How much of the training is done, 0 to 1."""
        if not self.total_steps or self.step is None:
            return None
        return min(1.0, self.step / self.total_steps)

    def as_json(self) -> dict[str, Any]:
        """For `-o json`."""
        return {
            "id": self.id,
            "phase": self.phase,
            "workers": self.workers,
            "restarts": self.restarts,
            "ageSeconds": round(self.age_s, 1),
            "epoch": self.epoch,
            "epochs": self.epochs,
            "step": self.step,
            "totalSteps": self.total_steps,
            "loss": self.loss,
            "samplesPerSecond": self.samples_per_second,
            "etaSeconds": None if self.eta_s is None else round(self.eta_s, 1),
            "checkpointStep": self.checkpoint_step,
            "checkpointAgeSeconds": None if self.checkpoint_age_s is None else round(self.checkpoint_age_s, 1),
            "message": self.message,
            "warning": self.warning,
        }


@dataclass(frozen=True)
class WorkerRow:
    """One worker of a job."""

    index: int
    state: str
    ranks: tuple[int, ...] = ()
    pod: str = ""


def job_row(record: JobRecord, now: datetime) -> JobRow:
    """The job as it is now; its rate and time to go only while it trains."""
    status = record.job.status
    progress, saved = status.progress, status.checkpoint
    training = record.running and record.phase == Phase.RUNNING
    begun = status.start_time or record.job.created_at
    return JobRow(
        id=record.id,
        phase=record.phase,
        running=record.running,
        workers=status.workers.text or _desired(record),
        restarts=status.restarts,
        age_s=max(0.0, ((status.completion_time or now) - begun).total_seconds()),
        message=record.message,
        warning=warning(record, now),
        epoch=progress.epoch if progress else None,
        epochs=progress.epochs if progress else None,
        step=progress.step if progress else None,
        total_steps=progress.total_steps if progress else None,
        loss=progress.loss if progress else None,
        samples_per_second=progress.samples_per_second if progress and training else None,
        eta_s=seconds_left(progress) if progress and training else None,
        checkpoint_step=saved.step if saved else None,
        checkpoint_age_s=max(0.0, (now - saved.committed_at).total_seconds()) if saved else None,
    )


def warning(record: JobRecord, now: datetime) -> str:
    """The one thing a user should know, the gravest first; empty when all is well."""
    status = record.job.status
    if record.phase in (INTERRUPTED, Phase.FAILED):
        return record.message or f"{record.phase}, no reason was given"
    if not record.running:
        return ""
    for condition in status.conditions:
        if condition.type not in OWN and condition.status == "True":
            return f"{condition.type}: {condition.message}" if condition.message else condition.type
    silent = [(member.index, since) for member, since in _suspects(record)]
    if silent:
        return f"worker {silent[0][0]} is silent for {duration(now - silent[0][1])}"
    if record.phase != Phase.RUNNING and record.message:
        return record.message
    late = _late_save(record, now)
    if late:
        return late
    last = status.failures[-1] if status.failures else None
    if last is not None and now - last.time < _RECENT:
        said = f": {last.message.splitlines()[0]}" if last.message else ""
        return f"round {last.round} ended {duration(now - last.time)} ago: {last.reason}{said}"
    return ""


def worker_rows(record: JobRecord, now: datetime) -> list[WorkerRow]:
    """Every worker, by index."""
    status = record.job.status
    members = {member.index: member for member in status.round.members} if status.round else {}
    silent = {member.index: since for member, since in _suspects(record)}
    count = status.workers.desired or (record.job.spec.workers.count if record.job.spec else len(members))
    rows = []
    for index in range(max(count, 1 + max(members, default=-1))):
        member = members.get(index)
        if index in silent and record.running:
            state = f"silent for {duration(now - silent[index])}"
        elif not record.running:
            state = "ended"
        elif member is None:
            state = "starting" if status.recovery.incarnations.get(str(index)) else "no pod"
        else:
            state = "running" if record.phase == Phase.RUNNING else f"waiting ({record.phase})"
        rows.append(WorkerRow(index, state, tuple(member.ranks) if member else (), member.pod if member else ""))
    return rows


def order(records: Sequence[JobRecord]) -> list[JobRecord]:
    """What runs first, the newest first."""
    newest_first = sorted(records, key=lambda record: record.job.created_at, reverse=True)
    return sorted(newest_first, key=lambda record: not record.running)


def _desired(record: JobRecord) -> str:
    return f"0/{record.job.spec.workers.count}" if record.job.spec else ""


def _suspects(record: JobRecord) -> list[tuple[Any, datetime]]:
    status = record.job.status
    since = status.recovery.suspects
    return [
        (member, since[member.uid]) for member in (status.round.members if status.round else ()) if member.uid in since
    ]


def _late_save(record: JobRecord, now: datetime) -> str:
    """Whether the last checkpoint is older than it should be while the job trains."""
    spec, status = record.job.spec, record.job.status
    if spec is None or spec.checkpoint is None or record.phase != Phase.RUNNING or status.round is None:
        return ""
    begun = status.round.started_at
    newest = max(begun, status.checkpoint.committed_at) if status.checkpoint else begun
    limit = timedelta(seconds=_LATE_SAVES * spec.checkpoint.every_seconds) + parse_duration(spec.limits.init) + _UPLOAD
    if now - newest <= limit or status.progress is None or not status.progress.step:
        return ""
    return (
        f"no checkpoint for {duration(now - newest)}, though one is due every {duration(spec.checkpoint.every_seconds)}"
    )
