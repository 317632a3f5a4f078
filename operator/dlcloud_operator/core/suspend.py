"""Suspending a job and going on: its pods leave with the time to save, and it keeps its checkpoints and its name.

May import api and the core's facts, draft, conditions and model.
"""

from __future__ import annotations

from dlcloud_operator.api import Phase, WorkerCounts

from .conditions import PODS_READY, SUSPENDED, TRAINING, find, set_condition
from .draft import Draft
from .facts import LIVE, Facts
from .liveness import node_is_lost

STOPPING = "Stopping"
STOPPED = "JobSuspended"
RESUMED = "JobResumed"


def suspend(facts: Facts, draft: Draft) -> None:
    """Have all pods leave; the round ends without a verdict, and the deadline's clock stops."""
    live = [pod for pod in facts.pods if pod.phase in LIVE or pod.lingers]
    for pod in live:
        if not pod.deleting:
            draft.delete(pod)
    # A dead node's pods never go; nothing of this job runs there that a later round does not fence.
    left = [pod for pod in live if not (node_is_lost(pod) and pod.deleting)]
    draft.update(round=None, start_time=None)
    draft.remember(
        unsettled=[], suspects={}, start_failures={}, rounds_without_progress=0, fruitless_rounds=0, last_ended_at=None
    )
    desired = facts.spec.workers.count
    draft.update(workers=WorkerCounts(desired=desired, ready=0, text=f"0/{desired}"))
    if left:
        message = f"saving and stopping: {len(left)} of {desired} workers left"
        set_condition(draft, facts.now, SUSPENDED, False, STOPPING, message)
        if draft.status.phase is None:
            draft.update(phase=Phase.PENDING)
    else:
        message = "suspended; set spec.suspend to false to go on"
        if set_condition(draft, facts.now, SUSPENDED, True, STOPPED, message):
            draft.emit("Suspended", "all workers have stopped")
        draft.update(phase=Phase.SUSPENDED)
    draft.update(message=message)
    for kind in (PODS_READY, TRAINING):
        set_condition(draft, facts.now, kind, False, "Suspended")


def resume(facts: Facts, draft: Draft) -> None:
    """Go on after a suspension; the deadline counts anew, as it does for batch/v1 jobs."""
    condition = find(draft, SUSPENDED)
    if condition is not None and condition.reason in (STOPPING, STOPPED):
        set_condition(draft, facts.now, SUSPENDED, False, RESUMED)
        draft.update(phase=Phase.PENDING)
        draft.emit("Resumed", "the job goes on")
    if draft.status.start_time is None:
        draft.update(start_time=facts.now)
