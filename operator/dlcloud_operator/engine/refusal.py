"""What the cluster does not want of a job, and how that gets into the job's message and out of it again.

May import api and core. No clock, no I/O.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from dlcloud_operator.api import Condition, TrainingJobStatus
from dlcloud_operator.core.conditions import PODS_READY
from dlcloud_operator.core.model import JobView
from dlcloud_operator.core.status import BEING_CREATED

MAX_MESSAGE_CHARS = 1024
_QUOTA = "exceeded quota"
_ADMISSION = (" is forbidden", "denied the request", "admission webhook", "violates PodSecurity")
_FIRST = timedelta(seconds=1)
_MAX = timedelta(seconds=60)


@dataclass
class Refusal:
    """An object the cluster refused: shown in the job's message, tried again at `retry_at`."""

    generation: int
    text: str
    retry_at: datetime
    count: int
    shown: str = ""  # the job's message as written with `text` in it
    planned: str = ""  # the same message as the plan gave it
    planned_condition: Condition | None = None  # PodsReady as the plan gave it

    @property
    def reason(self) -> str:
        """The refusal in one word, for a condition."""
        if _QUOTA in self.text:
            return "QuotaExceeded"
        return "AdmissionRefused" if any(sign in self.text for sign in _ADMISSION) else "PodRefused"


def next_refusal(held: Refusal | None, generation: int, text: str, now: datetime) -> Refusal:
    """One more refusal after `held`, with a pause that doubles from 1 s to 60 s."""
    count = 1 if held is None else held.count + 1
    refusal = Refusal(generation, text, now + min(_FIRST * 2 ** min(count - 1, 10), _MAX), count)
    if held is not None:
        refusal.shown, refusal.planned = held.shown, held.planned
        refusal.planned_condition = held.planned_condition
    return refusal


def as_planned(job: JobView, refusal: Refusal | None) -> JobView:
    """The job without the refusal in its message and condition, as the plan itself would have left it."""
    if refusal is None or not refusal.shown or job.status.message != refusal.shown:
        return job
    status = _with_condition(job.status, refusal.planned_condition)
    return replace(job, status=status.model_copy(update={"message": refusal.planned}))


def with_refusal(status: TrainingJobStatus, refusal: Refusal | None) -> TrainingJobStatus:
    """The status with the refusal in its message and in PodsReady; a finished job keeps its own words."""
    if refusal is None or (status.phase is not None and status.phase.finished):
        return status
    if BEING_CREATED in status.message:  # which is not so
        text = status.message.replace(BEING_CREATED, refusal.text, 1)
    else:
        text = f"{status.message}; {refusal.text}" if status.message else refusal.text
    refusal.planned, refusal.shown = status.message, text[:MAX_MESSAGE_CHARS]
    absent = (one for one in status.conditions if one.type == PODS_READY and one.status == "False")
    planned = refusal.planned_condition = next(absent, None)
    if planned is not None:
        # It was False before: a reason of another kind is no transition.
        changes = {"reason": refusal.reason, "message": refusal.text[:MAX_MESSAGE_CHARS]}
        status = _with_condition(status, planned.model_copy(update=changes))
    return status.model_copy(update={"message": refusal.shown})


def _with_condition(status: TrainingJobStatus, condition: Condition | None) -> TrainingJobStatus:
    if condition is None:
        return status
    conditions = [condition if one.type == condition.type else one for one in status.conditions]
    return status.model_copy(update={"conditions": conditions})
