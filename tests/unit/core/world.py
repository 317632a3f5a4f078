"""A small cluster with agents that train, deterministic, in simulated time.

Helper of test_world.py. Time goes by in steps of half a second. The operator plans at a change of a pod, at a report
with news and at its own wakes only, as the engine promises. Another job's pod is heard as long as anybody is: without
it a single hung agent could not be told from a deaf operator. Invariants are checked at every status that is written.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from dlcloud_operator.api import CheckpointStatus, Member, Outcome, Phase, Progress, RoundStatus, TrainingJobStatus
from dlcloud_operator.core import (
    Action,
    CreatePod,
    DeleteJob,
    DeletePod,
    JobKey,
    JobView,
    PodExit,
    PodPhase,
    PodView,
    RankResult,
    RankState,
    RankView,
    Report,
    Reports,
    Wake,
    WriteStatus,
    plan,
)

from .scene import NAME, T0, spec_of

TICK = timedelta(seconds=0.5)
HEARTBEAT = timedelta(seconds=5)
STEPS = 60  # one a second
COMMIT_EVERY = 5
START_S = 2.0
INIT_S = 1.0
PEERS_NOTICE_S = 1.0


@dataclass
class Rank:
    """A process of one round."""

    round: int
    rank: int
    started_at: datetime
    frozen: bool = False
    result: RankResult | None = None


@dataclass
class Pod:
    """A pod, its node and its agent in one."""

    view: PodView
    starts_at: datetime
    round: int = 0
    ranks: dict[int, Rank] = field(default_factory=dict)
    results: list[RankResult] = field(default_factory=list)
    reported_at: datetime | None = None
    news: bool = True
    cut_off: bool = False  # its node is gone: it is neither heard nor does it hear
    hung: bool = False  # its agent does nothing at all
    removed_at: datetime | None = None

    @property
    def alive(self) -> bool:
        return self.view.phase is PodPhase.RUNNING and not self.cut_off and not self.hung


class World:
    """One job from its creation to its end. Faults are methods; `run` lets time pass."""

    def __init__(self, workers: int, script: bool, max_failures: int = 3) -> None:
        self.now = T0
        self.script = script
        self.pods: dict[str, Pod] = {}
        self.job = JobView(
            key=JobKey("default", NAME),
            uid="job-uid",
            resource_version="1",
            generation=1,
            created_at=T0,
            status=TrainingJobStatus(),
            spec=spec_of(
                workers,
                script,
                restart={"maxFailures": max_failures, "window": "1h"},
                limits={"start": "2m", "init": "1m", "drain": "10s"},
            ),
        )
        self.workers = workers
        self.committed = 0
        self.steps: dict[int, float] = {}
        self.uids = 0
        # the operator's memory
        self.heard: dict[str, Report] = {}
        self.listening_since = T0 - timedelta(minutes=1)
        self.last_heard_any: datetime | None = None
        self.wake: datetime | None = T0
        self.told = True
        self.away_until = T0
        # faults of the operator's own, used up one by one
        self.conflicts = 0
        self.die_after: list[int] = []
        self.drop_reports_until = T0
        self.late_reports: list[tuple[datetime, Report]] = []
        self.report_delay = timedelta()
        # what must never happen twice or go back
        self.members: dict[tuple[int, int], str] = {}
        self.newest_round = 0
        self.writes = 0
        self.plans = 0
        self.expired = False

    @property
    def status(self) -> TrainingJobStatus:
        return self.job.status

    @property
    def finished(self) -> bool:
        return self.status.phase is not None and self.status.phase.finished

    # --- faults ---

    def pod_at(self, position: int) -> Pod | None:
        pods = sorted((pod for pod in self.pods.values() if pod.view.phase in _LIVE), key=lambda pod: pod.view.name)
        return pods[position % len(pods)] if pods else None

    def kill_pod(self, position: int) -> None:
        """The container is killed; nobody says a word."""
        if pod := self.pod_at(position):
            self._end_pod(pod, 137, "Error", speaks=False)

    def oom_pod(self, position: int) -> None:
        if (pod := self.pod_at(position)) and pod.view.phase is PodPhase.RUNNING:
            self._end_pod(pod, 137, "OOMKilled", speaks=False)

    def delete_pod(self, position: int) -> None:
        """`kubectl delete pod`, drained by its agent."""
        if pod := self.pod_at(position):
            self._delete(pod, None)

    def remove_pod(self, position: int) -> None:
        """`kubectl delete pod --force`."""
        if pod := self.pod_at(position):
            self._remove(pod)

    def preempt_pod(self, position: int) -> None:
        if pod := self.pod_at(position):
            pod.view = replace(pod.view, preempted=True)
            self._delete(pod, None)

    def lose_node(self, position: int) -> None:
        """No reset, no word: the node object tells after 40 s, and the pod's object stays for good."""
        if (pod := self.pod_at(position)) and pod.view.phase is PodPhase.RUNNING:
            pod.cut_off = True
            pod.removed_at = None

    def hang_agent(self, position: int) -> None:
        if (pod := self.pod_at(position)) and pod.view.phase is PodPhase.RUNNING:
            pod.hung = True

    def kill_rank(self, position: int) -> None:
        self._end_a_rank(position, Outcome.SIGNAL, -9)

    def crash_rank(self, position: int) -> None:
        self._end_a_rank(position, Outcome.ERROR, 1)

    def busy_port(self, position: int) -> None:
        self._end_a_rank(position, Outcome.PORT_BUSY, 73)

    def freeze_rank(self, position: int) -> None:
        if not self.script and (rank := self._running_rank(position)):
            rank[1].frozen = True

    def restart_operator(self, away_s: int) -> None:
        self.away_until = self.now + timedelta(seconds=away_s)
        self._forget()

    def conflict(self, count: int) -> None:
        self.conflicts += count % 3 + 1

    def die_between_actions(self, after: int) -> None:
        self.die_after.append(after % 6)

    def lose_reports(self, for_s: int) -> None:
        self.drop_reports_until = self.now + timedelta(seconds=for_s)

    def delay_reports(self, by_s: int) -> None:
        self.report_delay = timedelta(seconds=by_s % 4)

    def plan_again(self, _: int) -> None:
        """An event is delivered twice, or for nothing."""
        self.told = True

    def suspend_and_resume(self, _: int) -> None:
        assert self.job.spec is not None
        spec = self.job.spec.model_copy(update={"suspend": not self.job.spec.suspend})
        self.job = replace(self.job, spec=spec, generation=self.job.generation + 1, resource_version=self._version())
        self.told = True

    def end_faults(self) -> None:
        """From now on all goes well; what was broken stays broken."""
        self.conflicts = 0
        self.die_after.clear()
        self.drop_reports_until = self.now
        self.report_delay = timedelta()
        if self.job.spec is not None and self.job.spec.suspend:
            self.suspend_and_resume(0)

    # --- time ---

    def run(self, for_s: float) -> None:
        end = self.now + timedelta(seconds=for_s)
        while self.now < end and not (self.finished and not self.told):
            self.now += TICK
            self._cluster()
            self._train()
            self._report()
            self._operate()

    def _cluster(self) -> None:
        for pod in list(self.pods.values()):
            if pod.view.phase is PodPhase.PENDING and not pod.view.deleting and self.now >= pod.starts_at:
                address = f"10.0.{pod.view.index}.{pod.view.incarnation}"
                self._change(pod, phase=PodPhase.RUNNING, ip=address, node=pod.view.uid, running_since=self.now)
            if pod.cut_off and not pod.view.node_lost and self._silent_for(pod) > timedelta(seconds=40):
                self._change(pod, node_lost=True)
            if pod.removed_at is not None and self.now >= pod.removed_at and not pod.cut_off:
                self._remove(pod)

    def _silent_for(self, pod: Pod) -> timedelta:
        return self.now - (pod.reported_at or pod.view.created_at)

    def _train(self) -> None:
        finished = self.finished
        published = self.status.round
        for pod in self.pods.values():
            if not pod.alive:
                continue
            if finished:
                self._end_pod(pod, 0 if self.status.phase is Phase.SUCCEEDED else 1, "Completed", speaks=True)
            elif self.now >= self.away_until and published is not None and not pod.view.deleting:
                mine = next((member for member in published.members if member.uid == pod.view.uid), None)
                if mine is not None and published.number > pod.round:
                    self._begin(pod, published, mine)
        for number in {rank.round for pod in self.pods.values() for rank in pod.ranks.values() if not rank.result}:
            self._train_round(number)

    def _begin(self, pod: Pod, begun: RoundStatus, mine: Member) -> None:
        for rank in pod.ranks.values():
            if rank.result is None:
                self._end_rank(pod, rank, Outcome.STOPPED, -9)
        pod.round = begun.number
        pod.ranks = {number: Rank(begun.number, number, self.now) for number in mine.ranks}
        pod.news = True
        self.steps.setdefault(begun.number, float(self.committed))

    def _train_round(self, number: int) -> None:
        everyone = [(pod, rank) for pod in self.pods.values() for rank in pod.ranks.values() if rank.round == number]
        there = [(pod, rank) for pod, rank in everyone if rank.result is None and pod.view.phase is PodPhase.RUNNING]
        started = [one for one in there if self.now - one[1].started_at >= timedelta(seconds=INIT_S)]
        newest = max(rank.round for pod in self.pods.values() for rank in pod.ranks.values())
        if len(there) == self.workers == len(started) and number == newest:
            if any(rank.frozen or pod.cut_off or pod.hung for pod, rank in there):
                return
            before = self.steps[number]
            self.steps[number] += TICK.total_seconds()
            if int(self.steps[number]) > int(before):
                for pod, _ in there:
                    pod.news = True
            if int(self.steps[number]) % COMMIT_EVERY == 0 or self.steps[number] >= STEPS:
                self.committed = max(self.committed, int(self.steps[number]))
            if self.steps[number] >= STEPS:
                for pod, rank in there:
                    self._end_rank(pod, rank, Outcome.SUCCEEDED, 0)
        elif len(there) < self.workers and self.steps[number] < STEPS:
            self._notice_missing_peers(number, everyone)

    def _notice_missing_peers(self, number: int, everyone: list[tuple[Pod, Rank]]) -> None:
        """A peer's end is noticed by a reset, unless it went with its node."""
        members = {uid for (of, _), uid in self.members.items() if of == number}
        quiet = {pod.view.uid for pod, _ in everyone if pod.cut_off or pod.hung}
        dead = [rank for _, rank in everyone if rank.result and rank.result.outcome is not Outcome.STOPPED]
        gone = members - {pod.view.uid for pod, _ in everyone} - quiet
        over = [pod for pod, _ in everyone if pod.view.phase is not PodPhase.RUNNING and not pod.cut_off]
        for pod, rank in everyone:
            ready = self.now - rank.started_at >= timedelta(seconds=INIT_S + PEERS_NOTICE_S)
            if rank.result is None and pod.alive and ready and (dead or over or (gone and self._all_began(number))):
                outcome = Outcome.ERROR if self.script else Outcome.PEER_LOST
                self._end_rank(pod, rank, outcome, 1 if self.script else 72)

    def _all_began(self, number: int) -> bool:
        return bool(self.steps.get(number, 0) > 0)

    def _report(self) -> None:
        if self.now >= max(self.drop_reports_until, self.away_until):
            self.last_heard_any = self.now
        for pod in self.pods.values():
            due = pod.news or pod.reported_at is None or self.now - pod.reported_at >= HEARTBEAT
            if not pod.alive or not due or self.now - pod.starts_at < timedelta(seconds=0.5):
                continue
            if self.now < max(self.drop_reports_until, self.away_until):
                continue
            pod.news, pod.reported_at = False, self.now
            if self.report_delay:
                self.late_reports.append((self.now + self.report_delay, self._report_of(pod)))
            else:
                self._hear(self._report_of(pod))
        due_now = [report for at, report in self.late_reports if at <= self.now]
        self.late_reports = [one for one in self.late_reports if one[0] > self.now]
        for report in reversed(due_now):  # the newest first: they overtake each other
            if self.now >= self.away_until:
                self._hear(replace(report, received_at=self.now))

    def _report_of(self, pod: Pod) -> Report:
        step = int(self.steps.get(pod.round, 0))
        views = []
        for rank in pod.ranks.values():
            starting = self.now - rank.started_at < timedelta(seconds=INIT_S)
            state = RankState.ENDED if rank.result else RankState.STARTING if starting else RankState.RUNNING
            quiet_s = (self.now - rank.started_at).total_seconds() if self._stands_still(rank) else 0.1
            tells = not self.script
            views.append(RankView(rank.rank, state, quiet_s if tells else None, step if tells else None, 0.5))
        first = pod.view.index == 0 and not self.script
        return Report(
            pod_uid=pod.view.uid,
            received_at=self.now,
            round=pod.round,
            address=pod.view.ip,
            port=29500 + pod.round,
            ranks=tuple(views),
            results=tuple(result for result in pod.results if result.round > pod.round - 3),
            progress=Progress(step=step, total_steps=STEPS) if first and pod.round else None,
            checkpoint=CheckpointStatus(step=self.committed, uri="s3://c/m", committed_at=T0)
            if first and self.committed
            else None,
            draining=pod.view.deleting,
        )

    def _stands_still(self, rank: Rank) -> bool:
        return any(
            other.round == rank.round and other.result is None and (other.frozen or pod.cut_off or pod.hung)
            for pod in self.pods.values()
            for other in pod.ranks.values()
        )

    def _hear(self, report: Report) -> None:
        before = self.heard.get(report.pod_uid)
        self.last_heard_any = self.now
        if before is not None and report.round < before.round:
            return
        self.heard[report.pod_uid] = report
        if before is None or _news(before) != _news(report):
            self.told = True

    # --- the operator ---

    def _operate(self) -> None:
        if self.now < self.away_until:
            return
        for _ in range(20):
            if not self.told and (self.wake is None or self.now < self.wake):
                return
            self.told = False
            self._plan_once()
        raise AssertionError("the operator plans without end")

    def _plan_once(self) -> None:
        self.plans += 1
        pods = tuple(pod.view for pod in self.pods.values())
        reports = Reports(self.listening_since, dict(self.heard), self.last_heard_any)
        actions = plan(self.job, pods, reports, self.now)
        self._check(actions)
        wakes = [action.at for action in actions if isinstance(action, Wake)]
        self.wake = min(wakes, default=None)
        dies_after = self.die_after.pop(0) if self.die_after else None
        for position, action in enumerate(actions):
            if position == dies_after:
                self._forget()
                return
            if isinstance(action, WriteStatus) and self.conflicts:
                self.conflicts -= 1
                self.told = True
                return
            self._carry_out(action)

    def _check(self, actions: list[Action]) -> None:
        waits_for_the_cluster = any(
            pod.view.phase is PodPhase.PENDING or pod.view.deleting for pod in self.pods.values()
        ) or any(isinstance(action, CreatePod | DeletePod) for action in actions)
        suspended = self.status.phase is Phase.SUSPENDED or (self.job.spec and self.job.spec.suspend)
        wakes = any(isinstance(action, Wake) for action in actions)
        assert wakes or waits_for_the_cluster or suspended or self.finished or _finishes(actions), (
            "a wait without an end"
        )

    def _carry_out(self, action: Action) -> None:
        match action:
            case WriteStatus(status):
                self._write(status)
            case CreatePod(index, incarnation):
                self._create(index, incarnation)
            case DeletePod(name, uid, grace_s):
                pod = self.pods.get(name)
                if pod is not None and pod.view.uid == uid:
                    self._delete(pod, grace_s)
            case DeleteJob():
                self.expired = True
            case _:
                pass

    def _write(self, status: TrainingJobStatus) -> None:
        before = self.status
        self.writes += 1
        after = TrainingJobStatus.model_validate(status.to_json())
        for index, incarnation in before.recovery.incarnations.items():
            assert after.recovery.incarnations[index] >= incarnation, "an incarnation went back"
        assert after.recovery.last_round >= before.recovery.last_round, "round numbers went back"
        begun = after.round
        if begun is not None and begun != before.round:
            assert begun.number > self.newest_round, "a round number was used twice"
            self.newest_round = begun.number
            assert begun.world_size == len(begun.members) == self.workers
        for member in begun.members if begun else ():
            known = self.members.setdefault((begun.number, member.index), member.uid)  # type: ignore[union-attr]
            assert known == member.uid, "two members for one index of a round"
        assert before.phase is None or not before.phase.finished, "a finished job went on"
        self.job = replace(self.job, status=after, resource_version=self._version())

    def _create(self, index: int, incarnation: int) -> None:
        name = f"{NAME}-{index}-{incarnation}"
        assert self.status.recovery.incarnations.get(str(index), 0) >= incarnation, "created before it was written"
        if name in self.pods:
            if self.pods[name].view.deleting:
                self.told = True  # a conflict: observe again
            return
        self.uids += 1
        view = PodView(name, f"uid-{self.uids}", index, incarnation, PodPhase.PENDING, self.now)
        self.pods[name] = Pod(view, self.now + timedelta(seconds=START_S))
        self.told = True

    def _forget(self) -> None:
        """A new operator: nothing heard, nothing planned."""
        self.heard.clear()
        self.listening_since = max(self.now, self.away_until)
        self.last_heard_any = None
        self.told = True
        for pod in self.pods.values():
            pod.news = True

    def _version(self) -> str:
        return str(int(self.job.resource_version) + 1)

    # --- pods and ranks ---

    def _change(self, pod: Pod, **fields: object) -> None:
        pod.view = replace(pod.view, **fields)  # type: ignore[arg-type]
        self.told = True

    def _delete(self, pod: Pod, grace_s: int | None) -> None:
        if grace_s == 0 or pod.view.phase in (PodPhase.SUCCEEDED, PodPhase.FAILED):
            self._remove(pod)
            return
        if pod.view.deleting:
            return
        self._change(pod, deleting=True)
        pod.removed_at = self.now + timedelta(seconds=2 if pod.alive else 30)
        if pod.alive:
            for rank in pod.ranks.values():
                if rank.result is None:
                    self._end_rank(pod, rank, Outcome.DRAINED, 75)

    def _remove(self, pod: Pod) -> None:
        self.pods.pop(pod.view.name, None)
        self.told = True

    def _end_pod(self, pod: Pod, code: int, reason: str, speaks: bool) -> None:
        phase = PodPhase.SUCCEEDED if code == 0 else PodPhase.FAILED
        results = tuple(pod.results[-3:]) if speaks else ()
        self._change(pod, phase=phase, exit=PodExit(self.now, code, reason, "", results))

    def _running_rank(self, position: int) -> tuple[Pod, Rank] | None:
        pod = self.pod_at(position)
        ranks = [rank for rank in pod.ranks.values() if rank.result is None] if pod and pod.alive else []
        return (pod, ranks[0]) if pod and ranks else None

    def _end_a_rank(self, position: int, outcome: Outcome, code: int) -> None:
        if found := self._running_rank(position):
            self._end_rank(*found, outcome, code)

    def _end_rank(self, pod: Pod, rank: Rank, outcome: Outcome, code: int) -> None:
        rank.result = RankResult(rank.round, rank.rank, outcome, self.now, code, outcome.value)
        pod.results.append(rank.result)
        pod.news = True


_LIVE = (PodPhase.PENDING, PodPhase.RUNNING)


def _news(report: Report) -> object:
    """What the rendezvous server calls news: all but the numbers of a heartbeat."""
    states = [(view.rank, view.state) for view in report.ranks]
    return (report.round, report.port, report.draining, states, report.results, report.progress, report.checkpoint)


def _finishes(actions: list[Action]) -> bool:
    written = [action.status.phase for action in actions if isinstance(action, WriteStatus)]
    return any(phase is not None and (phase.finished or phase is Phase.SUSPENDED) for phase in written)
