"""How a stopped local job begins again: the same job, the same uid, higher round numbers. Pure.

May import the API and the core. It is what the core itself does after a suspension; only a failure is cleared first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from dlcloud_operator.api import Phase, TrainingJob, TrainingJobSpec, TrainingJobStatus
from dlcloud_operator.api.trainingjob import Metadata
from dlcloud_operator.core import plan
from dlcloud_operator.core.model import JobView, Reports, WriteStatus

_ENDS = ("Complete", "Failed")
RESUMED = "JobResumed"


def continued(job: JobView, now: datetime, incarnations: Mapping[str, int]) -> JobView:
    """The job as it may be started again: suspended, all pods gone, `suspend` false; one that never began is unchanged.

    `incarnations`: worker index -> highest that ever existed, by the pods' folders. A failed job's budget starts anew.
    """
    if job.spec is None:
        return job
    spec = _suspend(job.spec, False)
    if job.status.phase is None:
        return replace(job, spec=spec)
    before = _not_ended(job.status, now) if job.status.phase is Phase.FAILED else job.status
    stopped = replace(job, status=before, spec=_suspend(job.spec, True))
    status = before
    for action in plan(stopped, (), Reports(listening_since=now), now):
        if isinstance(action, WriteStatus):
            status = action.status
    known = status.recovery.incarnations
    highest = {index: max(known.get(index, 0), incarnations.get(index, 0)) for index in sorted({*known, *incarnations})}
    # As if all had joined a round: the next pod of an index then gets a name, and a log file, of its own.
    recovery = status.recovery.model_copy(update={"incarnations": highest, "joined": highest})
    return replace(job, spec=spec, status=status.model_copy(update={"recovery": recovery}))


def above_round(job: JobView, number: int) -> JobView:
    """The job whose next round is above `number`: what the store has seen may be newer than what the disk kept."""
    recovery = job.status.recovery
    if number <= recovery.last_round:
        return job
    return replace(
        job, status=job.status.model_copy(update={"recovery": recovery.model_copy(update={"last_round": number})})
    )


def manifest_of(job: JobView) -> TrainingJob:
    """The job as a manifest would give it. Raises ValueError for one without a spec."""
    if job.spec is None:
        raise ValueError(f"{job.key} has no spec")
    return TrainingJob(metadata=Metadata(name=job.key.name, namespace=job.key.namespace), spec=job.spec)


def _suspend(spec: TrainingJobSpec, value: bool) -> TrainingJobSpec:
    return spec.model_copy(update={"suspend": value})


def _not_ended(status: TrainingJobStatus, now: datetime) -> TrainingJobStatus:
    conditions = [
        condition.model_copy(update={"status": "False", "reason": RESUMED, "message": "", "last_transition_time": now})
        if condition.type in _ENDS and condition.status == "True"
        else condition
        for condition in status.conditions
    ]
    return status.model_copy(
        update={
            "phase": Phase.PENDING,
            "completion_time": None,
            "conditions": conditions,
            "recovery": status.recovery.model_copy(update={"counted_at": []}),
        }
    )
