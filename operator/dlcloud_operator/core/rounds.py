"""When a round is over, and when and how the next one begins.

May import api and the core's facts, draft, causes, verdict, liveness, membership and budget. Numbers only grow; the
operator alone decides them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from itertools import chain

from dlcloud_operator.api import EndedRound, Failure, Member, Outcome, RoundStatus, parse_duration, parse_quantity

from . import causes
from .budget import made_progress, may_end_the_job
from .draft import Draft
from .facts import Facts
from .liveness import stall
from .membership import State, Worker, pause_after
from .model import RankState
from .verdict import cause_of


def end_broken_round(facts: Facts, lost: Mapping[str, str], draft: Draft) -> Failure | None:
    """End the current round when a member cannot go on; returns what ended it."""
    current = draft.status.round
    if current is None:
        return None
    stalled, again_at = stall(facts, current)
    cause = causes.gravest([cause_of(facts, current, lost), stalled, _resized(facts, current)])
    if cause is None:
        draft.wake(again_at)
        return None
    ended = EndedRound(round=current, ended_at=facts.now, cause=cause)
    recovery = draft.status.recovery
    fruitless = 0 if made_progress(facts.spec, recovery, ended) else recovery.fruitless_rounds + 1
    draft.update(round=None)
    draft.remember(unsettled=[*recovery.unsettled, ended], fruitless_rounds=fruitless, last_ended_at=facts.now)
    lost_worker = cause.reason in causes.LOSS
    event = "WorkerLost" if lost_worker else "RoundEnded" if cause.reason is Outcome.STOPPED else "RankFailed"
    draft.emit(event, f"round {current.number}: {causes.tell(cause)}", warning=True)
    return cause


def begin_round(facts: Facts, workers: Sequence[Worker], draft: Draft) -> str:
    """Begin the next round if all workers are there and nothing stands against it; else returns what does, in words."""
    status = draft.status
    recovery = status.recovery
    if status.round is not None or any(worker.state is not State.READY for worker in workers):
        return ""
    if not _addressable(workers):
        return "worker 0 has offered no address and port yet"
    if may_end_the_job(facts, recovery):
        return "finding the cause before another round begins"
    if recovery.last_ended_at is not None:
        pause_ends_at = recovery.last_ended_at + pause_after(recovery.fruitless_rounds)
        if facts.now < pause_ends_at:
            draft.wake(pause_ends_at)
            return "pausing after rounds without progress"
        drain_ends_at = recovery.last_ended_at + parse_duration(facts.spec.limits.drain)
        if facts.now < drain_ends_at and _some_worker_saves(facts, recovery.last_round):
            draft.wake(drain_ends_at)
            return "waiting until the last state is saved"
    begun = form(facts, workers, draft)
    draft.update(round=begun)
    joined = {str(worker.index): worker.incarnation for worker in workers}
    draft.remember(last_round=begun.number, joined=joined, start_failures={})
    ranks = "1 rank" if begun.world_size == 1 else f"{begun.world_size} ranks"
    members = "1 worker" if len(begun.members) == 1 else f"{len(begun.members)} workers"
    draft.emit("RoundStarted", f"round {begun.number}: {members}, {ranks}, master {begun.master}:{begun.port}")
    return ""


def form(facts: Facts, workers: Sequence[Worker], draft: Draft) -> RoundStatus:
    """The next round of these workers, all of them ready: ranks are contiguous by index, worker 0 is the master."""
    recovery = draft.status.recovery
    # Agents refuse what is not above the highest number they saw; with a status restored from a backup they know more.
    seen = max((worker.report.round for worker in workers if worker.report), default=0)
    number = max(recovery.last_round, seen) + 1
    per_worker = facts.spec.ranks_per_worker
    members = [
        Member(
            index=worker.index,
            pod=worker.pod.name,
            uid=worker.pod.uid,
            ranks=list(range(worker.index * per_worker, (worker.index + 1) * per_worker)),
        )
        for worker in workers
        if worker.pod is not None
    ]
    return RoundStatus(
        number=number,
        nonce=_nonce(facts, number),
        world_size=per_worker * len(members),
        master=_address(workers[0]),
        port=workers[0].report.port if workers[0].report else 0,
        threads=max(1, int(parse_quantity(facts.spec.workers.cpu) / per_worker)),
        members=members,
        started_at=facts.now,
        furthest_step_before=recovery.furthest_step,
    )


def _resized(facts: Facts, current: RoundStatus) -> Failure | None:
    if [member.index for member in current.members] == list(range(facts.spec.workers.count)):
        return None
    message = f"the job now has {facts.spec.workers.count} workers, not {len(current.members)}"
    return causes.make(Outcome.STOPPED, facts.now, current.number, message)


def _some_worker_saves(facts: Facts, last_round: int) -> bool:
    """Whether the last round's state is still being saved, by the ranks of a worker that was asked to end or by those
    that stop with them (rank 0 saves for all): the next round would cut that short.

    Scripts and jobs without checkpoints have nothing to save.
    """
    if facts.script or facts.spec.checkpoint is None:
        return False
    exits = [pod.exit.results for pod in facts.pods if pod.exit is not None]
    told = [*(result for report in facts.reports.by_uid.values() for result in report.results), *chain(*exits)]
    # A rank that leaves in order has agreed with all the others on their last step: none of them goes on.
    agreed = any(result.round == last_round and result.outcome is Outcome.DRAINED for result in told)
    for pod in facts.pods:
        report = facts.fresh_report(pod.uid)
        if pod.exit is not None or report is None or report.round != last_round:
            continue
        over = {result.rank for result in report.results if result.round == last_round}
        left = [view for view in report.ranks if view.rank not in over and view.state is not RankState.ENDED]
        if (left and report.draining) or (agreed and any(view.state is RankState.RUNNING for view in left)):
            return True
    return False


def _addressable(workers: Sequence[Worker]) -> bool:
    return bool(workers and workers[0].report and workers[0].report.port > 0 and _address(workers[0]))


def _address(worker: Worker) -> str:
    reported = worker.report.address if worker.report else ""
    return reported or (worker.pod.ip if worker.pod else "")


def _nonce(facts: Facts, number: int) -> str:
    """Unlike any other round's, also when two operators decide on the same number."""
    text = f"{facts.job.uid}/{number}/{facts.job.resource_version}/{facts.now.isoformat()}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]
