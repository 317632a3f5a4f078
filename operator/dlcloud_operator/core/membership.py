"""Which pod stands for each worker index now, what it is good for, and which pods have to be made or removed.

May import api and the core's facts, draft, model, liveness, verdict and budget. It forms no round and names no cause.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto

from dlcloud_operator.api import Failure, Outcome, TrainingJobStatus

from . import causes
from .draft import Draft
from .facts import LIVE, OVER, SUSPECT_AFTER, Facts
from .liveness import Hearing, listen
from .model import PodPhase, PodView, Report
from .verdict import member_is_done, words_of_memory

KEPT_DEAD_PODS = 2  # the last failure's log and the one before; more would fill quotas and `kubectl get pods`
LONGEST_PAUSE = timedelta(seconds=30)


class State(Enum):
    """What a worker's newest pod is good for."""

    MISSING = auto()
    PENDING = auto()
    STARTING = auto()  # runs, its agent has not spoken yet
    READY = auto()
    UNHEARD = auto()  # spoke before; that it does not now means nothing yet
    SUSPECT = auto()  # silent while others speak
    DONE = auto()  # all its ranks succeeded in the round that still runs
    PAUSED = auto()  # died before it joined a round; made again after a pause
    DEAD = auto()
    LEAVING = auto()  # deleted, preempted or draining
    LOST = auto()  # given up for its silence, or with its node
    NEVER_CAME = auto()  # runs, but its agent did not report in time


REPLACED = frozenset({State.DEAD, State.LEAVING, State.LOST, State.NEVER_CAME})


@dataclass(frozen=True)
class Worker:
    """One index of the job. `incarnation`: the newest that may exist, 0 before the first. `was_member`: of a round."""

    index: int
    incarnation: int
    state: State
    pod: PodView | None = None
    report: Report | None = None
    why: str = ""
    again_at: datetime | None = None
    was_member: bool = False
    suspect_since: datetime | None = None

    @property
    def ready(self) -> bool:
        """Whether users should see it as working; a member nobody can hear at the moment still is."""
        return self.state in (State.READY, State.DONE) or (self.state is State.UNHEARD and self.was_member)


def look(facts: Facts, status: TrainingJobStatus) -> tuple[Worker, ...]:
    """All workers of the job, by index, as `status` knows them."""
    current = [status.round] if status.round else []
    pods: dict[int, PodView] = {}
    for pod in facts.pods:
        if pod.index not in pods or pod.incarnation > pods[pod.index].incarnation:
            pods[pod.index] = pod
    done = {member.index for one in current for member in one.members if member_is_done(facts, one, member)}
    count = facts.spec.workers.count
    return tuple(_worker(facts, status, index, pods.get(index), index in done) for index in range(count))


def lost_by_silence(workers: Sequence[Worker]) -> Mapping[str, str]:
    """The uids of pods that are given up though their object looks alive, and why."""
    return {worker.pod.uid: worker.why for worker in workers if worker.state is State.LOST and worker.pod}


def pause_after(failures: int) -> timedelta:
    """How long to wait after so many failures in a row: nothing, then 1, 2, 4 ... 30 s."""
    return min(LONGEST_PAUSE, timedelta(seconds=2 ** min(failures - 2, 10))) if failures > 1 else timedelta()


def start_failure(worker: Worker, round_number: int, now: datetime) -> Failure | None:
    """Why a pod ended before it joined a round, when that is not the cluster's doing."""
    pod = worker.pod
    if pod is None or worker.was_member:
        return None
    if worker.state is State.NEVER_CAME:
        return causes.make(Outcome.STALLED, now, round_number, worker.why, worker.index)
    if worker.state is not State.DEAD or pod.deleting or pod.preempted or pod.node_lost:
        return None
    end = pod.exit
    if end is None or end.reason == "Evicted":
        return None
    if end.reason == "OOMKilled":
        words = words_of_memory(pod)
        return causes.make(Outcome.OUT_OF_MEMORY, end.at, round_number, words, worker.index, None, end.exit_code)
    if end.exit_code is None or not 0 <= end.exit_code <= 128:
        return None  # killed from outside, or refused by its node; 128: its program could not be started
    message = end.message or "the pod ended before its agent could join a round"
    return causes.make(Outcome.ERROR, end.at, round_number, message, worker.index, None, end.exit_code)


def replace_pods(facts: Facts, workers: Sequence[Worker], draft: Draft) -> None:
    """Have every missing pod made, all at once; a used-up one is replaced under the next incarnation."""
    incarnations = dict(draft.status.recovery.incarnations)
    for worker in workers:
        incarnation = worker.incarnation
        # A name is used again only when it is not known that its pod existed: a create that was lost is repeated.
        gone = worker.state is State.MISSING and (incarnation == 0 or worker.was_member)
        if worker.state in REPLACED or gone:
            incarnation += 1
        if incarnation > 0:
            incarnations[str(worker.index)] = incarnation
        if worker.state in REPLACED or worker.state is State.MISSING:
            draft.create(worker.index, incarnation)
        draft.wake(worker.again_at)
    suspects = {w.pod.uid: w.suspect_since for w in workers if w.pod is not None and w.suspect_since is not None}
    draft.remember(incarnations=incarnations, suspects=suspects)


def remove_stale_pods(facts: Facts, draft: Draft) -> None:
    """Delete what a newer incarnation or a smaller job left behind; the newest dead pods stay for their logs."""
    recovery = draft.status.recovery
    dead: dict[int, list[PodView]] = {}
    for pod in facts.pods:
        outside = pod.index >= facts.spec.workers.count
        if pod.deleting or (not outside and pod.incarnation >= recovery.incarnations.get(str(pod.index), 0)):
            continue
        if outside or pod.phase in LIVE or pod.lingers:
            draft.delete(pod, 0 if _silent(facts, pod) else None)
        else:
            dead.setdefault(pod.index, []).append(pod)
    for pods in dead.values():
        for pod in sorted(pods, key=lambda one: one.incarnation)[:-KEPT_DEAD_PODS]:
            draft.delete(pod)


def _worker(facts: Facts, status: TrainingJobStatus, index: int, newest: PodView | None, done: bool) -> Worker:
    recovery = status.recovery
    joined = recovery.joined.get(str(index), 0)
    noted = max(recovery.incarnations.get(str(index), 0), newest.incarnation if newest else 0, joined)
    pod = newest if newest is not None and newest.incarnation == noted else None
    was_member = noted > 0 and joined == noted
    report = facts.report(pod.uid) if pod is not None else None

    def worker(state: State, why: str = "", again_at: datetime | None = None, since: datetime | None = None) -> Worker:
        return Worker(index, noted, state, pod, report, why, again_at, was_member, since)

    if done:
        return worker(State.DONE)
    if pod is None:
        return worker(State.MISSING)
    if pod.phase in OVER:
        ended_at = pod.exit.at if pod.exit else pod.created_at  # a pod its node refused has no exit
        again_at = ended_at + pause_after(recovery.start_failures.get(str(index), 0) + 1)
        free = pod.deleting or pod.preempted or pod.node_lost
        if free or facts.now >= again_at:
            return worker(State.DEAD)
        return worker(State.PAUSED, _last_words(pod), again_at)
    if pod.deleting or pod.preempted or (report is not None and report.draining):
        return worker(State.LEAVING)
    if pod.phase is PodPhase.PENDING:
        return worker(State.PENDING)
    suspect_since = recovery.suspects.get(pod.uid)
    heard = listen(facts, pod, was_member, suspect_since)
    if heard.hearing is Hearing.SUSPECT:
        return worker(State.SUSPECT, heard.why, heard.again_at, suspect_since or facts.now)
    return worker(_STATES[heard.hearing], heard.why, heard.again_at)


_STATES = {
    Hearing.HEARD: State.READY,
    Hearing.NEVER: State.STARTING,
    Hearing.NEVER_CAME: State.NEVER_CAME,
    Hearing.UNKNOWN: State.UNHEARD,
    Hearing.LOST: State.LOST,
}


def _silent(facts: Facts, pod: PodView) -> bool:
    """Whether nobody is there who could save anything: a grace period would only hold its place."""
    report = facts.report(pod.uid)
    heard_at = max(report.received_at if report else facts.reports.listening_since, facts.reports.listening_since)
    return pod.phase is not PodPhase.PENDING and facts.now - heard_at >= SUSPECT_AFTER


def _last_words(pod: PodView) -> str:
    end = pod.exit
    if end is None:
        return "the pod failed"
    words = end.message.strip().splitlines()[-1:]
    code = f"exit code {end.exit_code}" if end.exit_code is not None else (end.reason or "the pod failed")
    return ": ".join([code, *words])[:300]
