"""What failures cost: the user's budget, rounds without progress, and when they end the job.

May import api and the core's facts, draft, causes, verdict and membership.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from dlcloud_operator.api import EndedRound, Failure, Outcome, Recovery, TrainingJobSpec, parse_duration

from . import causes
from .draft import Draft
from .facts import Facts
from .membership import State, Worker, start_failure
from .verdict import gather, is_settled, settle_again_at

MAX_FRUITLESS = 3
AWAY_ROUNDS = 20  # in a row; each waits for most of limits.init, 90 s: at least half an hour
FREE_STARTS = 2
KEPT_FAILURES = 5
# A script tells no steps: a round that lived so long got somewhere. What counts is bounded by the budget as well; what
# does not is bounded by this alone, and a silent fork already takes 20 s.
SCRIPT_PROGRESS = timedelta(seconds=10)
UNCOUNTED_SCRIPT_PROGRESS = timedelta(seconds=60)
MAX_UNSETTLED = 16
MAX_UNSETTLED_MEMBERS = 4096  # they stand in the status, and an object has at most 1.5 MB


@dataclass(frozen=True)
class Ruin:
    """Why the job cannot go on; `reason` is CamelCase, as in a condition."""

    reason: str
    message: str


def settle_rounds(facts: Facts, lost: Mapping[str, str], draft: Draft) -> Ruin | None:
    """Gather what is newly known of ended rounds, and settle those whose cause is certain."""
    unsettled = [gather(facts, ended, lost) for ended in draft.status.recovery.unsettled]
    excess = len(unsettled) - _room_for(unsettled)
    ruin = None
    open_rounds = []
    for position, ended in enumerate(unsettled):
        if position < excess or is_settled(facts, ended, lost):
            cause = _cause_of(ended)
            draft.update(failures=[*draft.status.failures, cause][-KEPT_FAILURES:])
            recovery, this_ruin = tally(facts.spec, draft.status.recovery, ended)
            draft.update(recovery=recovery)
            ruin = ruin or this_ruin
        else:
            draft.wake(settle_again_at(facts, ended))
            open_rounds.append(ended)
    draft.remember(unsettled=open_rounds)
    return ruin


def tally(spec: TrainingJobSpec, recovery: Recovery, ended: EndedRound) -> tuple[Recovery, Ruin | None]:
    """What the end of a round changes, were its cause settled now."""
    cause = _cause_of(ended)
    counted_at = list(recovery.counted_at)
    if cause.counted:
        newest = max([ended.ended_at, *counted_at])
        window = parse_duration(spec.restart.window)
        counted_at = sorted(time for time in [*counted_at, ended.ended_at] if newest - time < window)
        counted_at = counted_at[-(spec.restart.max_failures + 1) :]
    fruitless = recovery.rounds_without_progress
    if cause.reason in causes.NOT_FRUITLESS or made_progress(spec, recovery, ended):
        fruitless = 0
    elif cause.reason not in causes.NEITHER:
        fruitless += 1
    recovery = recovery.model_copy(update={"counted_at": counted_at, "rounds_without_progress": fruitless})
    return recovery, _ruin(spec, cause, len(counted_at), recovery)


def may_end_the_job(facts: Facts, recovery: Recovery) -> bool:
    """Whether unsettled rounds, by what is known of them, would end the job: then none follows them yet."""
    for ended in recovery.unsettled:
        recovery, ruin = tally(facts.spec, recovery, ended)
        if ruin is not None:
            return True
    return False


def made_progress(spec: TrainingJobSpec, recovery: Recovery, ended: EndedRound) -> bool:
    """Whether the job got further than before that round; a commit counts as the step it holds."""
    if spec.script is not None:
        least = SCRIPT_PROGRESS if _cause_of(ended).counted else UNCOUNTED_SCRIPT_PROGRESS
        return ended.ended_at - ended.round.started_at >= least
    return recovery.furthest_step > ended.round.furthest_step_before


def count_start_failures(facts: Facts, workers: Sequence[Worker], draft: Draft) -> Ruin | None:
    """Count deaths of pods that never joined a round. Per worker: many flaky starts are not one bad image."""
    streaks = dict(draft.status.recovery.start_failures)
    # No program of the user's began: some tries are free even to a job that allows no failure.
    allowed = max(FREE_STARTS, facts.spec.restart.max_failures)
    ruin = None
    for worker in workers:
        if not _died_at_start(worker):
            continue
        streak = streaks[str(worker.index)] = streaks.get(str(worker.index), 0) + 1
        cause = start_failure(worker, draft.status.recovery.last_round, facts.now)
        if cause is None:
            continue
        draft.update(failures=[*draft.status.failures, cause][-KEPT_FAILURES:])
        draft.emit("WorkerFailed", causes.tell(cause), warning=True)
        if streak > allowed and ruin is None:
            message = f"worker {worker.index} ended {streak} times in a row before it could join a round"
            ruin = Ruin("TooManyFailures", f"{message}; the last: {causes.tell(cause)}")
    draft.remember(start_failures=streaks)
    return ruin


def _ruin(spec: TrainingJobSpec, cause: Failure, counted: int, recovery: Recovery) -> Ruin | None:
    told, fruitless = causes.tell(cause), recovery.rounds_without_progress
    if cause.reason in causes.FATAL:
        return Ruin(cause.reason.value, told)
    if cause.counted and counted > spec.restart.max_failures:
        failures = "1 failure" if counted == 1 else f"{counted} failures"
        allowed = f"restart.maxFailures allows {spec.restart.max_failures}"
        return Ruin("TooManyFailures", f"{failures} within {spec.restart.window}, {allowed}; the last: {told}")
    if fruitless >= MAX_FRUITLESS:
        return Ruin("NoProgress", f"{fruitless} rounds in a row ended without progress; the last: {told}")
    if cause.reason in causes.NEITHER and recovery.fruitless_rounds >= AWAY_ROUNDS:
        waited = f"{recovery.fruitless_rounds} rounds in a row could not go on"
        kept = "the checkpoints stay, resumeFrom goes on from them"
        return Ruin(cause.reason.value, f"{waited}; {kept}; the last: {told}")
    return None


def _cause_of(ended: EndedRound) -> Failure:
    if ended.cause is not None:
        return ended.cause
    return causes.make(Outcome.STOPPED, ended.ended_at, ended.round.number, "the round was stopped")


def _room_for(unsettled: Sequence[EndedRound]) -> int:
    members = max((len(ended.round.members) for ended in unsettled), default=1)
    return max(1, min(MAX_UNSETTLED, MAX_UNSETTLED_MEMBERS // max(1, members)))


def _died_at_start(worker: Worker) -> bool:
    if worker.was_member or worker.pod is None:
        return False
    if worker.state is State.NEVER_CAME:
        return True
    taken = worker.pod.deleting or worker.pod.preempted or worker.pod.node_lost
    return worker.state is State.DEAD and not taken
