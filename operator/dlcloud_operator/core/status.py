"""What the user sees of a job that goes on: phase, workers, conditions, message.

May import api and the core's facts, draft, model, causes, conditions, liveness and membership. It describes what was
decided; nothing is decided from it. No text here changes with the mere passing of time, or every plan would write.
"""

from __future__ import annotations

from collections.abc import Sequence

from dlcloud_operator.api import Phase, RoundStatus, WorkerCounts

from . import causes
from .conditions import ADMITTED, PODS_READY, STORE_TROUBLES, TRAINING, find, set_condition
from .draft import Draft
from .facts import Facts
from .liveness import deaf_since
from .membership import State, Worker
from .model import RankState
from .verdict import member_is_done

BEING_CREATED = "the pod is being created"
_SHOWN_REASONS = 3
_ORDINARY = frozenset({"", "ContainerCreating"})  # what every pod waits for


def describe(facts: Facts, workers: Sequence[Worker], held_by: str, draft: Draft) -> None:
    """Write phase, workers, conditions and message. `held_by`: why no round begins though all workers are there."""
    status = draft.status
    desired = len(workers)
    ready = sum(worker.ready for worker in workers)
    restarting = status.phase in (Phase.RUNNING, Phase.RESTARTING)
    phase = Phase.RUNNING if status.round else Phase.RESTARTING if restarting else Phase.PENDING
    draft.update(phase=phase, workers=WorkerCounts(desired=desired, ready=ready, text=f"{ready}/{desired}"))
    waiting = _waiting_for(workers)
    set_condition(draft, facts.now, ADMITTED, True, "SpecAccepted")
    if ready == desired:
        set_condition(draft, facts.now, PODS_READY, True, "AllWorkersReady")
    else:
        set_condition(draft, facts.now, PODS_READY, False, _why_not_ready(workers), waiting)
    if status.round is None:
        set_condition(draft, facts.now, TRAINING, False, phase.value if restarting else "WaitingForWorkers")
        draft.update(message=_message_between_rounds(draft, waiting, held_by)[:1024])
        return
    name = f"round {status.round.number}"
    before = find(draft, TRAINING)
    # Once true for a round it stays true until the round ends: an operator that restarted has not heard the agents yet.
    known = before is not None and before.status == "True" and before.message == name
    trains = known or _all_ranks_run(facts, status.round)
    set_condition(draft, facts.now, TRAINING, trains, "AllRanksTrain" if trains else "RoundStarting", name)
    draft.update(message=_message_in_round(facts, workers, status.round, trains, draft)[:1024])


def _message_in_round(facts: Facts, workers: Sequence[Worker], current: RoundStatus, trains: bool, draft: Draft) -> str:
    deaf = deaf_since(facts)
    if deaf is not None and any(worker.state is State.UNHEARD for worker in workers):
        return f"no agent has reported since {deaf:%Y-%m-%d %H:%M:%SZ}; training goes on, nobody is given up for it"
    count = "1 worker" if len(workers) == 1 else f"{len(workers)} workers"
    parts = [f"training on {count}" if trains else f"round {current.number} is starting on {count}"]
    for worker in workers:
        if worker.suspect_since is not None:
            parts.append(f"worker {worker.index} is silent since {worker.suspect_since:%H:%M:%SZ}")
    for kind in STORE_TROUBLES:
        trouble = find(draft, kind)
        if trouble is not None and trouble.status == "True":
            parts.append(trouble.message)
    last = _last_end(draft)
    if last:
        parts.append(f"round {current.number} follows {last}")
    return "; ".join(parts[:4])


def _message_between_rounds(draft: Draft, waiting: str, held_by: str) -> str:
    last = _last_end(draft)
    parts = [f"restarting after {last}"] if last and draft.status.phase is Phase.RESTARTING else []
    parts += [text for text in (waiting, held_by) if text]
    return "; ".join(parts) or "starting"


def _last_end(draft: Draft) -> str:
    """What ended the last round, as far as it is known."""
    status = draft.status
    unsettled = [ended.cause for ended in status.recovery.unsettled if ended.cause is not None]
    ends = sorted([*status.failures, *unsettled], key=lambda cause: cause.round)
    return f"round {ends[-1].round}: {causes.tell(ends[-1])}" if ends else ""


def _waiting_for(workers: Sequence[Worker]) -> str:
    absent = [worker for worker in workers if not worker.ready]
    if not absent:
        return ""
    reasons: list[str] = []
    for worker in absent:
        reason = _absence(worker)
        if reason not in reasons:
            reasons.append(reason)
    if len(reasons) > 1 and BEING_CREATED in reasons:
        reasons.remove(BEING_CREATED)  # the others say more
    count = "1 worker" if len(workers) == 1 else f"{len(workers)} workers"
    more = f" and {len(reasons) - _SHOWN_REASONS} more reasons" if len(reasons) > _SHOWN_REASONS else ""
    return f"waiting for {len(absent)} of {count}: {'; '.join(reasons[:_SHOWN_REASONS])}{more}"


def _why_not_ready(workers: Sequence[Worker]) -> str:
    """The reason of the first pod that something keeps from starting, in the scheduler's or the kubelet's word."""
    pods = [worker.pod for worker in workers if worker.state is State.PENDING and worker.pod is not None]
    return next((pod.waiting_reason for pod in pods if pod.waiting_reason not in _ORDINARY), "WaitingForWorkers")


def _absence(worker: Worker) -> str:
    match worker.state:
        case State.PENDING:
            return (worker.pod.waiting if worker.pod else "").strip()[:300] or BEING_CREATED
        case State.STARTING | State.UNHEARD:
            return "the agent has not reported yet"
        case State.SUSPECT:
            return f"worker {worker.index} is silent since {worker.suspect_since:%H:%M:%SZ}"
        case State.PAUSED:
            return f"worker {worker.index} ended before it could join ({worker.why}), pausing before the next try"
        case _:
            return BEING_CREATED  # those replaced in this very plan as well


def _all_ranks_run(facts: Facts, current: RoundStatus) -> bool:
    for member in current.members:
        if member_is_done(facts, current, member):
            continue
        report = facts.report(member.uid)
        if report is None or report.round != current.number:
            return False
        started = {view.rank for view in report.ranks if view.state is not RankState.STARTING}
        if not started.issuperset(member.ranks):
            return False
    return True
