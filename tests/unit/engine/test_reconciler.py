"""How plans are carried out: in order, fenced, and without hot loops. The plans are written by hand here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest

from dlcloud_operator.api import Phase, Progress, TrainingJobStatus
from dlcloud_operator.core.model import (
    Action,
    CreatePod,
    DeleteJob,
    DeletePod,
    Emit,
    JobKey,
    JobView,
    PodView,
    Reports,
    Wake,
    WriteStatus,
)
from dlcloud_operator.engine.network_policy import NetworkPolicies
from dlcloud_operator.engine.observer import Observer, PassResult
from dlcloud_operator.engine.reconciler import Objects, Reconciler

from .memory_cluster import KEY, T0, MemoryCluster, NameRenderer, job_view
from .test_assignment import decided

Script = Callable[[JobView], Sequence[Action]]


@dataclass
class Published:
    """A rendezvous without agents."""

    jobs: list[JobView] = field(default_factory=list)
    forgotten: list[JobKey] = field(default_factory=list)

    def publish(self, job: JobView) -> None:
        self.jobs.append(job)

    def forget(self, key: JobKey) -> None:
        self.forgotten.append(key)

    def reports_for(self, key: JobKey) -> Reports:
        return Reports(listening_since=T0)


class Desk(Observer):
    """A reconciler, a cluster with one job, a clock that tests move, and the plan they write."""

    def __init__(self, script: Script, objects: Objects = lambda job: ()) -> None:
        self.script = script
        self.time = T0
        self.cluster = MemoryCluster(lambda: self.time)
        self.cluster.put_job(job_view())
        self.rendezvous = Published()
        self.results: list[PassResult] = []
        self.reconciler = Reconciler(
            self.cluster,
            NameRenderer(),
            self.rendezvous,
            lambda: self.time,
            planner=self._plan,
            objects=objects,
            observer=self,
        )

    def _plan(self, job: JobView, pods: Sequence[PodView], reports: Reports, now: datetime) -> Sequence[Action]:
        return self.script(job)

    def reconciled(self, key: JobKey, result: PassResult, seconds: float) -> None:
        self.results.append(result)

    def go(self, after_s: float = 0.0, key: JobKey = KEY) -> datetime | None:
        self.time += timedelta(seconds=after_s)
        return asyncio.run(self.reconciler.reconcile(key))

    @property
    def status(self) -> TrainingJobStatus:
        return self.cluster.jobs[KEY].status


def seconds(wake: datetime | None, desk: Desk) -> float | None:
    return None if wake is None else (wake - desk.time).total_seconds()


def status(**changes: Any) -> TrainingJobStatus:
    return TrainingJobStatus(phase=Phase.PENDING, message="waiting", **changes)


def changes_to(wanted: TrainingJobStatus, *then: Action, urgent: bool = True) -> Script:
    """A plan that wants a status, like the real one: it writes only what differs."""

    def script(job: JobView) -> Sequence[Action]:
        return [*([] if job.status == wanted else [WriteStatus(wanted, urgent)]), *then]

    return script


def test_actions_are_carried_out_in_their_order() -> None:
    desk = Desk(changes_to(status(), CreatePod(0, 1), CreatePod(1, 1), Emit("Started", "two pods")))
    assert desk.go() is None
    assert desk.status == status()
    assert [pod.name for pod in desk.cluster.pods()] == ["mnist-0-1", "mnist-1-1"]
    assert desk.cluster.events == [Emit("Started", "two pods")]


def test_a_pod_is_deleted_by_its_uid() -> None:
    desk = Desk(lambda job: [CreatePod(0, 1)])
    desk.go()
    uid = desk.cluster.pods()[0].uid
    desk.script = lambda job: [DeletePod("mnist-0-1", "another")]
    desk.go()
    assert len(desk.cluster.pods()) == 1
    desk.script = lambda job: [DeletePod("mnist-0-1", uid)]
    desk.go()
    assert desk.cluster.pods() == []


def test_the_job_is_deleted_with_its_pods() -> None:
    desk = Desk(lambda job: [CreatePod(0, 1), DeleteJob(job.uid)])
    desk.go()
    assert (desk.cluster.jobs, desk.cluster.pods()) == ({}, [])


def test_a_job_of_another_uid_is_not_deleted() -> None:
    desk = Desk(lambda job: [DeleteJob("an earlier life")])
    desk.go()
    assert KEY in desk.cluster.jobs


def test_a_gone_job_is_forgotten() -> None:
    desk = Desk(lambda job: [])
    desk.go()
    assert desk.reconciler.knows(KEY)
    desk.cluster.remove_job(KEY)
    assert desk.go() is None
    assert desk.rendezvous.forgotten == [KEY]
    assert not desk.reconciler.knows(KEY)


def test_the_earliest_wake_is_the_answer() -> None:
    desk = Desk(lambda job: [Wake(T0 + timedelta(seconds=9)), Wake(T0 + timedelta(seconds=4))])
    assert seconds(desk.go(), desk) == 4


def test_a_wake_in_the_past_does_not_spin() -> None:
    desk = Desk(lambda job: [Wake(T0 - timedelta(seconds=9))])
    assert (seconds(desk.go(), desk) or 0) >= 0.02


def test_a_round_is_handed_out_as_it_was_read_back() -> None:
    desk = Desk(changes_to(status(round=decided(1))))
    desk.go()
    assert [job.status.round for job in desk.rendezvous.jobs] == [None, decided(1)]
    assert desk.rendezvous.jobs[-1] == desk.cluster.jobs[KEY]


def test_what_stands_in_the_status_is_handed_out_without_a_write() -> None:
    desk = Desk(lambda job: [])
    desk.cluster.put_job(job_view(status=status(round=decided(5))))
    desk.go()
    assert [job.status.round for job in desk.rendezvous.jobs] == [decided(5)]


# --- conflicts ---


def test_after_a_conflict_nothing_of_the_plan_happens_and_no_round_is_handed_out() -> None:
    desk = Desk(changes_to(status(round=decided(1)), CreatePod(0, 1), Emit("Started", "")))
    desk.cluster.before_write = desk.cluster.touch
    assert seconds(desk.go(), desk) == 0
    assert (desk.cluster.pods(), desk.cluster.events) == ([], [])
    assert all(job.status.round is None for job in desk.rendezvous.jobs)


def test_after_a_conflict_the_next_pass_succeeds() -> None:
    desk = Desk(changes_to(status(), CreatePod(0, 1)))
    desk.cluster.before_write = desk.cluster.touch
    desk.go()
    desk.cluster.before_write = lambda: None
    desk.go()
    assert (desk.status, len(desk.cluster.pods())) == (status(), 1)


def test_conflicts_in_a_row_are_tried_ever_more_slowly() -> None:
    desk = Desk(changes_to(status()))
    desk.cluster.before_write = desk.cluster.touch
    pauses = [seconds(desk.go(), desk) or 0.0 for _ in range(14)]
    assert pauses[0] == 0
    assert 0 < pauses[1] < 0.1
    assert pauses == sorted(pauses)
    assert pauses[-1] == 2
    desk.cluster.before_write = lambda: None
    desk.go()
    desk.cluster.before_write = desk.cluster.touch
    desk.script = changes_to(status(restarts=1))
    assert seconds(desk.go(), desk) == 0


def test_creating_a_pod_again_is_a_success() -> None:
    desk = Desk(lambda job: [CreatePod(0, 1)])
    desk.go()
    before = desk.cluster.pods()
    assert desk.go() is None
    assert desk.cluster.pods() == before


# --- progress ---


def at_step(step: int, *then: Action) -> Script:
    return changes_to(status(progress=Progress(step=step)), *then, urgent=False)


def test_progress_is_written_at_most_every_five_seconds() -> None:
    desk = Desk(at_step(1))
    desk.go()
    for step in range(2, 21):  # 0.5 s apart: up to 9.5 s after the first
        desk.script = at_step(step)
        desk.go(after_s=0.5)
    written = [one.progress.step for one in desk.cluster.writes if one.progress]
    assert written == [1, 11]


def test_held_progress_is_written_when_its_time_has_come() -> None:
    desk = Desk(at_step(1))
    desk.go()
    desk.script = at_step(2)
    wake = desk.go(after_s=1)
    assert seconds(wake, desk) == 4
    assert desk.go(after_s=4) is None
    assert desk.status.progress == Progress(step=2)


def test_a_job_met_in_mid_training_has_its_progress_written_in_its_turn() -> None:
    desk = Desk(lambda job: [])
    desk.cluster.put_job(job_view(status=status(round=decided(1))))
    desk.script = changes_to(status(round=decided(1), progress=Progress(step=7)), urgent=False)
    assert seconds(desk.go(), desk) == 5
    assert not desk.cluster.writes


def test_an_urgent_write_does_not_wait() -> None:
    desk = Desk(at_step(1))
    desk.go()
    desk.script = changes_to(status(round=decided(1)))
    assert desk.go(after_s=0.1) is None
    assert desk.status.round == decided(1)


def test_events_wait_with_the_write_they_belong_to() -> None:
    desk = Desk(at_step(1))
    desk.go()
    desk.script = at_step(2, Emit("Note", "told with step 2"))
    desk.go(after_s=1)
    assert desk.cluster.events == []
    desk.go(after_s=4)
    assert desk.cluster.events == [Emit("Note", "told with step 2")]


# --- refusals ---

QUOTA = 'pods "mnist-0-1" is forbidden: exceeded quota'


def refused() -> Desk:
    desk = Desk(changes_to(status(), CreatePod(0, 1), CreatePod(1, 1)))
    desk.cluster.refuse = QUOTA
    return desk


def test_a_refusal_is_shown_in_the_jobs_message_in_the_clusters_words() -> None:
    desk = refused()
    desk.go()
    assert desk.status.message == f"waiting; worker 0 cannot be created: {QUOTA}"
    assert [event.reason for event in desk.cluster.events] == ["FailedCreate"]


def test_a_refused_pod_is_tried_again_ever_more_slowly() -> None:
    desk = refused()
    pauses = []
    for _ in range(9):
        wake = desk.go()
        assert wake is not None
        pauses.append(seconds(wake, desk))
        desk.time = wake
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_between_two_tries_the_cluster_is_left_alone() -> None:
    desk = refused()
    desk.go()
    calls, writes = len(desk.cluster.create_calls), len(desk.cluster.writes)
    for _ in range(5):
        assert desk.go(after_s=0.1) is not None
    assert (len(desk.cluster.create_calls), len(desk.cluster.writes)) == (calls, writes)
    assert len(desk.cluster.events) == 1


def test_many_pods_are_not_all_tried_after_a_refusal() -> None:
    desk = Desk(lambda job: [CreatePod(index, 1) for index in range(100)])
    desk.cluster.refuse = QUOTA
    desk.go()
    assert len(desk.cluster.create_calls) <= 16


def test_the_message_is_the_plans_own_again_after_the_quota_was_raised() -> None:
    desk = refused()
    desk.go()
    desk.cluster.refuse = ""
    assert desk.go(after_s=1) is None
    desk.go()
    assert desk.status.message == "waiting"
    assert len(desk.cluster.pods()) == 2


def test_the_message_is_the_plans_own_again_when_no_pod_is_wanted_any_more() -> None:
    desk = refused()
    desk.go()
    desk.script = changes_to(status())
    assert desk.go() is None
    assert desk.status.message == "waiting"


def test_a_changed_job_is_tried_at_once() -> None:
    desk = refused()
    desk.go()
    desk.cluster.refuse = ""
    desk.cluster.put_job(job_view(generation=2, status=desk.status))
    desk.go()
    assert len(desk.cluster.pods()) == 2


def test_progress_does_not_become_urgent_by_a_refusal() -> None:
    desk = refused()
    desk.go()
    desk.script = changes_to(status(progress=Progress(step=1)), CreatePod(0, 1), urgent=False)
    writes = len(desk.cluster.writes)
    desk.go(after_s=0.1)
    assert len(desk.cluster.writes) == writes


def test_an_error_of_the_transport_is_the_callers() -> None:
    desk = Desk(changes_to(status()))

    def fail() -> None:
        raise OSError("no route to host")

    desk.cluster.before_write = fail
    with pytest.raises(OSError, match="no route"):
        desk.go()


# --- names that belong to somebody else ---


def test_a_pods_name_taken_by_a_stranger_is_shown_and_tried_again_ever_more_slowly() -> None:
    desk = Desk(changes_to(status(), CreatePod(0, 1)))
    desk.cluster.add_pod("mnist-0-1", "stranger", job_view(uid="another job"))
    assert seconds(desk.go(), desk) == 1
    assert desk.status.message == (
        'waiting; worker 0 cannot be created: pod "mnist-0-1" exists already and belongs to default/mnist'
    )
    assert seconds(desk.go(after_s=1), desk) == 2


def test_a_job_goes_on_when_the_strangers_pod_is_gone() -> None:
    desk = Desk(changes_to(status(), CreatePod(0, 1)))
    desk.cluster.add_pod("mnist-0-1", "stranger", job_view(uid="another job"))
    desk.go()
    desk.cluster.lose_pod("mnist-0-1")
    desk.go(after_s=1)
    desk.go()
    assert [pod.uid for pod in desk.cluster.pods()] != ["stranger"]
    assert desk.status.message == "waiting"


# --- objects beside the pods ---

POLICIES = NetworkPolicies("dlcloud-system", 8443)
FORBIDDEN = 'networkpolicies.networking.k8s.io is forbidden: User "dlcloud" cannot create resource'


def policed(*then: Action) -> Desk:
    return Desk(changes_to(status(), *then), POLICIES.objects)


def test_a_jobs_objects_are_made_before_its_pods() -> None:
    desk = policed(CreatePod(0, 1))
    made_before: list[int] = []
    create = desk.cluster.create_pod

    async def noting(job: JobView, manifest: Any) -> None:
        made_before.append(len(desk.cluster.ensured))
        await create(job, manifest)

    desk.cluster.create_pod = noting  # type: ignore[method-assign]
    desk.go()
    assert made_before == [1]


def test_what_is_as_it_should_be_is_not_made_again() -> None:
    desk = policed(CreatePod(0, 1))
    for _ in range(3):
        desk.go()
    assert len(desk.cluster.ensured) == 1


def test_a_job_without_pods_needs_no_objects() -> None:
    desk = policed()
    desk.go()
    assert desk.cluster.ensured == []


def test_a_finished_job_is_left_alone() -> None:
    desk = policed(CreatePod(0, 1))
    desk.go()
    desk.cluster.objects.clear()
    desk.script = changes_to(status().model_copy(update={"phase": Phase.SUCCEEDED}))
    desk.go()
    desk.go()
    assert len(desk.cluster.ensured) == 1


def test_an_object_of_a_running_job_that_was_deleted_is_made_again() -> None:
    desk = policed(CreatePod(0, 1))
    desk.go()
    desk.cluster.objects.clear()
    desk.script = changes_to(status())
    desk.go()
    assert len(desk.cluster.objects) == 1


def test_other_settings_reach_the_objects_of_running_jobs_and_leave_their_pods_alone() -> None:
    desk = policed(CreatePod(0, 1))
    desk.go()
    pods = desk.cluster.pods()
    stricter = NetworkPolicies("dlcloud-system", 8443, [{"ports": [{"protocol": "TCP", "port": 443}]}])
    desk.reconciler = Reconciler(
        desk.cluster, NameRenderer(), desk.rendezvous, lambda: desk.time, desk._plan, stricter.objects
    )
    desk.script = changes_to(status())
    desk.go()
    (policy,) = desk.cluster.objects.values()
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert desk.cluster.pods() == pods


def test_without_its_objects_no_pod_of_a_job_is_created() -> None:
    desk = policed(CreatePod(0, 1))
    desk.cluster.refuse_object = FORBIDDEN
    assert seconds(desk.go(), desk) == 1
    assert desk.cluster.pods() == []
    assert desk.status.message == f"waiting; the NetworkPolicy mnist cannot be made: {FORBIDDEN}"
    assert desk.results == [PassResult.REFUSED]


def test_a_refused_object_of_a_running_job_is_tried_again_ever_more_slowly_until_it_is_allowed() -> None:
    desk = policed(CreatePod(0, 1))
    desk.go()
    desk.cluster.objects.clear()
    desk.cluster.refuse_object = FORBIDDEN
    desk.script = changes_to(status())
    pauses = []
    for _ in range(3):
        wake = desk.go()
        assert wake is not None
        pauses.append(seconds(wake, desk))
        assert desk.go() == wake  # in between the cluster is left alone
        desk.time = wake
    assert pauses == [1, 2, 4]
    assert len(desk.cluster.pods()) == 1
    desk.cluster.refuse_object = ""
    desk.go()
    desk.go()
    assert desk.status.message == "waiting"


# --- what an observer is told ---


def test_the_end_of_every_pass_is_observed() -> None:
    desk = Desk(changes_to(status()))
    desk.cluster.before_write = desk.cluster.touch
    desk.go()
    desk.cluster.before_write = lambda: None
    desk.go()

    def fail() -> None:
        raise OSError("no route to host")

    desk.cluster.before_write = fail
    desk.script = changes_to(status(restarts=1))
    with pytest.raises(OSError, match="no route"):
        desk.go()
    assert desk.results == [PassResult.CONFLICT, PassResult.OK, PassResult.ERROR]


# --- many running jobs ---


@pytest.mark.parametrize(("running", "every_s"), [(1, 5.0), (200, 5.0), (450, 6.0), (1000, 8.2)])
def test_the_more_jobs_run_the_less_often_progress_is_written(running: int, every_s: float) -> None:
    desk = Desk(lambda job: [])
    for number in range(running - 1):
        key = JobKey("default", f"job{number}")
        desk.cluster.put_job(job_view(key, uid=f"uid-{number}", status=status(round=decided(1))))
        desk.go(key=key)
    desk.cluster.put_job(job_view(status=status(round=decided(1))))
    desk.script = changes_to(status(round=decided(1), progress=Progress(step=1)), urgent=False)
    desk.go()
    desk.script = changes_to(status(round=decided(1), progress=Progress(step=2)), urgent=False)
    assert seconds(desk.go(), desk) == every_s


@pytest.mark.parametrize("end", ["gone", "finished", "between rounds"])
def test_a_job_that_runs_no_more_does_not_count(end: str) -> None:
    desk = Desk(lambda job: [])
    keys = [JobKey("default", f"job{number}") for number in range(450)]
    for number, key in enumerate(keys):
        desk.cluster.put_job(job_view(key, uid=f"uid-{number}", status=status(round=decided(1))))
        desk.go(key=key)
    ended = {
        "finished": status(round=decided(1)).model_copy(update={"phase": Phase.FAILED}),
        "between rounds": status(),
    }
    for key in keys:
        job = desk.cluster.jobs[key]
        desk.cluster.remove_job(key)
        if end != "gone":
            desk.cluster.put_job(job_view(key, uid=job.uid, status=ended[end]))
        desk.go(key=key)
    desk.script = at_step(1)
    desk.go()
    desk.script = at_step(2)
    assert seconds(desk.go(), desk) == 5
