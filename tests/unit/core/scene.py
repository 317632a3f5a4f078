"""A job on a table: pods and reports are moved by hand, and every plan's answer is carried out at once.

Helper of the tests of the core. Nothing happens here by itself; the simulated cluster is in world.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from dlcloud_operator.api import (
    CheckpointStatus,
    Condition,
    Outcome,
    Phase,
    Problem,
    Progress,
    Recovery,
    TrainingJobSpec,
    TrainingJobStatus,
)
from dlcloud_operator.core import (
    Action,
    AgentWarning,
    CreatePod,
    DeleteJob,
    DeletePod,
    Emit,
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

T0 = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NAME = "digits"


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def spec_of(
    workers: int = 2, script: bool = False, each: dict[str, Any] | None = None, **fields: Any
) -> TrainingJobSpec:
    """A spec as a manifest gives it; `each` goes to `workers`, `fields` are camelCase."""
    program: dict[str, Any] = {"script": {"command": ["python", "train.py"]}} if script else {"workload": "cnn"}
    own = {"workers": {"count": workers, **(each or {})}, "checkpoint": {"uri": "s3://checkpoints/"}, **program}
    return TrainingJobSpec.model_validate({**own, **fields})


class Scene:
    """One job, its pods by name, its reports by uid."""

    def __init__(
        self, workers: int = 2, script: bool = False, each: dict[str, Any] | None = None, **fields: Any
    ) -> None:
        self.now = T0
        self.script = script
        self.pods: dict[str, PodView] = {}
        self.reports: dict[str, Report] = {}
        self.listening_since = T0 - timedelta(hours=1)
        self.last_heard_any: datetime | None = None
        self.events: list[Emit] = []
        self.actions: list[Action] = []
        self.job = JobView(
            key=JobKey("default", NAME),
            uid="job-uid",
            resource_version="1",
            generation=1,
            created_at=T0,
            status=TrainingJobStatus(),
            spec=spec_of(workers, script, each, **fields),
        )
        self._uids = 0

    # --- looking ---

    @property
    def status(self) -> TrainingJobStatus:
        return self.job.status

    @property
    def recovery(self) -> Recovery:
        return self.job.status.recovery

    @property
    def phase(self) -> Phase | None:
        return self.job.status.phase

    def condition(self, kind: str) -> Condition:
        return next(one for one in self.status.conditions if one.type == kind)

    def has_condition(self, kind: str) -> bool:
        return any(one.type == kind and one.status == "True" for one in self.status.conditions)

    def current(self, index: int) -> PodView:
        return max((pod for pod in self.pods.values() if pod.index == index), key=lambda pod: pod.incarnation)

    def of(self, kind: type[Any]) -> list[Any]:
        """The last plan's actions of one kind."""
        return [action for action in self.actions if isinstance(action, kind)]

    @property
    def created(self) -> set[tuple[int, int]]:
        return {(one.index, one.incarnation) for one in self.of(CreatePod)}

    @property
    def deleted(self) -> dict[str, int | None]:
        return {one.name: one.grace_s for one in self.of(DeletePod)}

    @property
    def wake(self) -> datetime | None:
        wakes = [one.at for one in self.of(Wake)]
        assert len(wakes) <= 1
        return wakes[0] if wakes else None

    @property
    def event_reasons(self) -> list[str]:
        return [event.reason for event in self.events]

    # --- moving ---

    def decide(self) -> list[Action]:
        """One plan, its answer not carried out."""
        reports = Reports(self.listening_since, dict(self.reports), self.last_heard_any)
        return plan(self.job, tuple(self.pods.values()), reports, self.now)

    def plan(self, after: float = 0.0) -> list[Action]:
        """Let time pass, plan once, and carry the answer out."""
        self.now += seconds(after)
        self.actions = self.decide()
        seen = dict(self.pods)
        for action in self.actions:
            match action:
                case WriteStatus(status):
                    version = str(int(self.job.resource_version) + 1)
                    read_back = TrainingJobStatus.model_validate(status.to_json())
                    self.job = replace(self.job, status=read_back, resource_version=version)
                case CreatePod(index, incarnation):
                    self._create(index, incarnation)
                case DeletePod(name, uid, grace_s) if name in self.pods and self.pods[name].uid == uid:
                    if grace_s == 0:
                        del self.pods[name]
                    else:
                        self.change(name, deleting=True)
                case Emit():
                    self.events.append(action)
                case DeleteJob():
                    self.job = replace(self.job, deleting=True)
                case _:
                    pass
        self._check_that_nothing_is_left_to_write(seen)
        return self.actions

    def change(self, pod: str | int, **fields: Any) -> PodView:
        name = pod if isinstance(pod, str) else self.current(pod).name
        self.pods[name] = replace(self.pods[name], **fields)
        return self.pods[name]

    def remove(self, index: int) -> PodView:
        return self.pods.pop(self.current(index).name)

    def write(self, **fields: Any) -> None:
        """Change the stored status by hand."""
        self.job = replace(self.job, status=self.job.status.model_copy(update=fields))

    def respec(self, **fields: Any) -> None:
        """What `kubectl apply` of a changed manifest does; `fields` are camelCase."""
        assert self.job.spec is not None
        spec = TrainingJobSpec.model_validate({**self.job.spec.model_dump(by_alias=True), **fields})
        self.job = replace(self.job, spec=spec, generation=self.job.generation + 1)

    def misspell(self, *problems: Problem, parses: bool = False) -> None:
        self.job = replace(self.job, problems=problems, spec=self.job.spec if parses else None)

    def run(self, index: int) -> PodView:
        """The pod's container starts."""
        return self.change(
            index, phase=PodPhase.RUNNING, ip=f"10.0.0.{index}", node=f"n{index}", running_since=self.now, waiting=""
        )

    def exit(
        self, index: int, code: int | None = 1, reason: str = "Error", message: str = "", *results: RankResult
    ) -> PodView:
        """The pod's container ends."""
        phase = PodPhase.SUCCEEDED if code == 0 else PodPhase.FAILED
        return self.change(index, phase=phase, exit=PodExit(self.now, code, reason, message, results))

    def result(self, index: int, outcome: Outcome, code: int | None = None, message: str = "") -> RankResult:
        """How rank `index` of the newest round ended, one rank a worker."""
        return RankResult(self.recovery.last_round, index, outcome, self.now, code, message)

    def report(
        self,
        index: int,
        *results: RankResult,
        round: int | None = None,
        ranks: Sequence[RankView] | None = None,
        progress: Progress | None = None,
        checkpoint: CheckpointStatus | None = None,
        warnings: Sequence[AgentWarning] = (),
        draining: bool = False,
        pod: PodView | None = None,
        heard_since: datetime | None = None,
    ) -> Report:
        """The agent of an index speaks now. It repeats what it told before; its ranks run unless said otherwise."""
        pod = pod or self.current(index)
        number = self.recovery.last_round if round is None else round
        before = self.reports.get(pod.uid)
        told = (*(before.results if before else ()), *results)
        ended = {result.rank for result in told if result.round == number}
        if ranks is None:
            state = RankState.ENDED if index in ended else RankState.RUNNING
            tells = {} if self.script else {"quiet_s": 0.1, "step": 10, "longest_step_s": 0.05}
            ranks = (RankView(index, state, **tells),) if number else ()
        self.reports[pod.uid] = Report(
            pod_uid=pod.uid,
            received_at=self.now,
            round=number,
            address=pod.ip or f"10.0.0.{index}",
            port=29500 + index,
            ranks=tuple(ranks),
            results=told,
            progress=progress,
            checkpoint=checkpoint,
            draining=draining,
            warnings=tuple(warnings),
            heard_since=heard_since,
        )
        self.last_heard_any = self.now
        return self.reports[pod.uid]

    def hear_all(self, **fields: Any) -> None:
        """Every live worker reports now."""
        for index in range(self.job.spec.workers.count if self.job.spec else 0):
            pod = self.current(index)
            if pod.phase is PodPhase.RUNNING and not pod.deleting:
                self.report(index, **fields)

    def restart_operator(self) -> None:
        """A new operator has heard nobody yet."""
        self.reports.clear()
        self.listening_since = self.now
        self.last_heard_any = None

    def _check_that_nothing_is_left_to_write(self, pods: dict[str, PodView]) -> None:
        """Applied to its own answer with nothing changed, a plan writes nothing."""
        reports = Reports(self.listening_since, dict(self.reports), self.last_heard_any)
        again = plan(self.job, tuple(pods.values()), reports, self.now)
        written = [action.status for action in again if isinstance(action, WriteStatus)]
        assert not written, f"{written[0]} after {self.job.status}"

    def _create(self, index: int, incarnation: int) -> None:
        name = f"{NAME}-{index}-{incarnation}"
        assert str(index) in self.recovery.incarnations, "the incarnation is written before the pod is created"
        assert incarnation <= self.recovery.incarnations[str(index)]
        if name in self.pods:
            assert not self.pods[name].deleting, "the name is still taken"
            return
        self._uids += 1
        uid = f"pod-{index}-{incarnation}-{self._uids}"
        self.pods[name] = PodView(name, uid, index, incarnation, PodPhase.PENDING, self.now)


def training(workers: int = 2, script: bool = False, step: int = 10, **fields: Any) -> Scene:
    """A job whose first round trains on all its workers."""
    scene = Scene(workers, script, **fields)
    scene.plan()
    for index in range(workers):
        scene.run(index)
        scene.report(index, round=0)
    scene.plan(after=1)
    assert scene.status.round is not None
    scene.now += seconds(2)
    scene.hear_all()
    if not script:
        scene.report(0, progress=Progress(step=step, total_steps=100, loss=0.5))
    scene.plan()
    assert scene.has_condition("Training")
    scene.events.clear()
    return scene
