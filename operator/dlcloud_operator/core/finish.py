"""The end of a job, and what follows it: which pods go, and when the job itself does.

May import api and the core's facts, draft, model and conditions.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from dlcloud_operator.api import CleanPods, Phase

from .conditions import ADMITTED, COMPLETE, FAILED, PODS_READY, SUSPENDED, TRAINING, find, set_condition
from .draft import Draft
from .facts import LIVE
from .model import DeleteJob, JobView, PodView

LEAVE_WITHIN = timedelta(seconds=15)  # agents that are told of the end write their last words and exit


def succeed(draft: Draft, now: datetime, message: str) -> None:
    """The job is complete."""
    _finish(draft, now, Phase.SUCCEEDED, "AllRanksSucceeded", message)
    draft.emit("Succeeded", message)


def fail(draft: Draft, now: datetime, reason: str, message: str) -> None:
    """The job cannot go on; `reason` is CamelCase."""
    _finish(draft, now, Phase.FAILED, reason, message)
    draft.emit("Failed", f"{reason}: {message}", warning=True)


def after_the_end(job: JobView, pods: Sequence[PodView], now: datetime, draft: Draft) -> DeleteJob | None:
    """Remove pods as `cleanPods` says, and the job after its time to live; nothing else happens to a finished job."""
    ended_at = draft.status.completion_time or now
    clean = job.spec.clean_pods if job.spec is not None else CleanPods.RUNNING
    going = [
        pod
        for pod in pods
        if not pod.deleting
        and (clean is CleanPods.ALL or (clean is CleanPods.RUNNING and (pod.phase in LIVE or pod.lingers)))
    ]
    if now >= ended_at + LEAVE_WITHIN:
        for pod in going:
            draft.delete(pod)
    elif going:
        draft.wake(ended_at + LEAVE_WITHIN)
    ttl = job.spec.ttl_seconds_after_finished if job.spec is not None else None
    if ttl is None:
        return None
    expires_at = ended_at + timedelta(seconds=ttl)
    draft.wake(expires_at)
    return DeleteJob(job.uid) if now >= expires_at else None


def _finish(draft: Draft, now: datetime, phase: Phase, reason: str, message: str) -> None:
    draft.update(phase=phase, message=message[:1024], completion_time=now, round=None)
    draft.remember(unsettled=[], suspects={})
    if reason == "InvalidSpec":
        set_condition(draft, now, ADMITTED, False, reason, message)
    for kind in (PODS_READY, TRAINING, SUSPENDED):
        if find(draft, kind) is not None:
            set_condition(draft, now, kind, False, "Finished")
    set_condition(draft, now, COMPLETE if phase is Phase.SUCCEEDED else FAILED, True, reason, message)
