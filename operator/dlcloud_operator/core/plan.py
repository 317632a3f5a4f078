"""The heart of the operator: from one observation of a job to what has to happen now. Read it from top to bottom.

May import api and the core. Pure: no clock, no I/O, no randomness; the status is the only memory. Applied to its own
answer with nothing changed, it writes nothing. Whatever waits has a `Wake` at its end, or waits for the cluster itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from dlcloud_operator.api import LABEL_JOB, TrainingJobStatus

from . import causes
from .budget import count_start_failures, settle_rounds
from .draft import Draft
from .facts import Facts
from .finish import after_the_end, fail, succeed
from .membership import look, lost_by_silence, remove_stale_pods, replace_pods
from .model import Action, JobView, PodView, Reports
from .progress import note_progress, note_time_left
from .rounds import begin_round, end_broken_round
from .status import describe
from .suspend import resume, suspend
from .verdict import all_done


def plan(job: JobView, pods: Sequence[PodView], reports: Reports, now: datetime) -> list[Action]:
    """What to do about a job, in order; an empty list when there is nothing to do and nothing to wait for.

    `pods` are those owned by the job's uid, terminating ones included. Never raises for any observation.
    """
    if job.deleting:
        return []
    draft = Draft(job, now)
    if not _is_finished(job.status):
        _go_on(job, pods, reports, now, draft)
        note_time_left(draft)
    goodbye = after_the_end(job, pods, now, draft) if _is_finished(draft.status) else None
    actions = draft.actions()
    return [*actions, goodbye] if goodbye is not None else actions


def _go_on(job: JobView, pods: Sequence[PodView], reports: Reports, now: datetime, draft: Draft) -> None:
    draft.update(observed_generation=job.generation, selector=f"{LABEL_JOB}={job.key.name}")
    if job.given_store is not None and job.status.object_store is None:
        draft.update(object_store=job.given_store)  # the job's state lies there, whatever the operator is given later
    if job.spec is None or job.problems:
        fail(draft, now, "InvalidSpec", _problems(job))
        return
    facts = Facts(job, job.spec, tuple(pods), reports, now)
    note_progress(facts, draft)
    if _training_is_complete(facts):
        succeed(draft, now, _success(facts))
    elif job.spec.suspend:
        suspend(facts, draft)
    else:
        resume(facts, draft)
        if _deadline_passed(facts, draft):
            message = f"the job took longer than activeDeadlineSeconds allows: {job.spec.active_deadline_seconds} s"
            fail(draft, now, "DeadlineExceeded", message)
        else:
            _train(facts, draft)


def _train(facts: Facts, draft: Draft) -> None:
    workers = look(facts, draft.status)
    lost = lost_by_silence(workers)
    ended_by = end_broken_round(facts, lost, draft)
    workers = look(facts, draft.status)  # who was done with the round is not done with the job
    ruin = settle_rounds(facts, lost, draft) or count_start_failures(facts, workers, draft)
    if ruin is not None:
        fail(draft, facts.now, ruin.reason, ruin.message)
        return
    if ended_by is not None and ended_by.reason not in causes.NOT_A_RESTART:
        draft.update(restarts=draft.status.restarts + 1)
    replace_pods(facts, workers, draft)
    remove_stale_pods(facts, draft)
    held_by = begin_round(facts, workers, draft)
    describe(facts, workers, held_by, draft)


def _is_finished(status: TrainingJobStatus) -> bool:
    return status.phase is not None and status.phase.finished


def _training_is_complete(facts: Facts) -> bool:
    """Also when a round was given up but all its ranks then ended well: the work is done."""
    status = facts.job.status
    rounds = [status.round] if status.round else []
    rounds += [ended.round for ended in status.recovery.unsettled]
    return any(all_done(facts, one) for one in rounds)


def _success(facts: Facts) -> str:
    ranks = facts.spec.world_size
    return f"all {ranks} ranks ended well" if ranks > 1 else "the rank ended well"


def _deadline_passed(facts: Facts, draft: Draft) -> bool:
    started_at, seconds = draft.status.start_time, facts.spec.active_deadline_seconds
    if started_at is None or seconds is None:
        return False
    draft.wake(started_at + timedelta(seconds=seconds))
    return facts.now >= started_at + timedelta(seconds=seconds)


def _problems(job: JobView) -> str:
    told = [str(problem) for problem in job.problems[:3]] or ["the spec cannot be read"]
    more = [f"and {len(job.problems) - 3} more"] if len(job.problems) > 3 else []
    return "; ".join([*told, *more])
