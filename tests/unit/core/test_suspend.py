"""Suspending and going on."""

from __future__ import annotations

from dlcloud_operator.api import CheckpointStatus, Outcome, Phase
from dlcloud_operator.core import PodPhase

from .scene import Scene, seconds, training


def suspended() -> Scene:
    scene = training(activeDeadlineSeconds=600)
    scene.respec(suspend=True)
    scene.plan()
    scene.pods.clear()
    scene.plan(after=1)
    assert scene.phase is Phase.SUSPENDED
    return scene


def test_pods_leave_with_the_time_to_save() -> None:
    scene = training()
    scene.respec(suspend=True)
    scene.plan()
    assert scene.deleted == {"digits-0-1": None, "digits-1-1": None}
    assert scene.status.message == "saving and stopping: 2 of 2 workers left"
    assert scene.phase is not Phase.SUSPENDED
    assert scene.condition("Suspended").status == "False"


def test_a_job_is_suspended_once_no_pod_is_left() -> None:
    scene = suspended()
    assert scene.has_condition("Suspended")
    assert scene.status.workers.text == "0/2"
    assert scene.event_reasons == ["Suspended"]


def test_what_a_pod_saved_just_before_it_vanished_is_in_the_status() -> None:
    scene = training()
    scene.respec(suspend=True)
    scene.plan()
    saved = CheckpointStatus(step=44, uri="s3://b/manifests/44.json", committed_at=scene.now)
    scene.report(0, scene.result(0, Outcome.DRAINED, 75), checkpoint=saved)
    scene.pods.clear()
    scene.plan()
    assert scene.phase is Phase.SUSPENDED
    assert scene.status.checkpoint == saved


def test_suspending_costs_nothing() -> None:
    scene = training()
    scene.respec(suspend=True)
    scene.plan()
    scene.report(0, scene.result(0, Outcome.DRAINED, 75))
    scene.exit(1, 1)
    scene.plan()
    assert scene.status.failures == []
    assert scene.recovery.unsettled == []
    assert scene.recovery.counted_at == []
    assert not scene.created


def test_a_dead_nodes_pods_do_not_hold_up_a_suspension() -> None:
    scene = training()
    scene.respec(suspend=True)
    scene.change(1, node_lost=True)
    scene.plan()
    scene.remove(0)
    scene.plan()
    assert scene.phase is Phase.SUSPENDED


def test_a_job_that_is_created_suspended_makes_no_pods() -> None:
    scene = Scene(suspend=True)
    scene.plan()
    assert scene.phase is Phase.SUSPENDED
    assert not scene.created
    assert scene.status.start_time is None


def test_a_suspended_job_has_no_deadline() -> None:
    scene = suspended()
    scene.plan(after=3600)
    assert scene.phase is Phase.SUSPENDED
    assert scene.wake is None


def test_resuming_makes_new_pods_and_starts_the_deadline_anew() -> None:
    scene = suspended()
    scene.now += seconds(3600)
    scene.respec(suspend=False)
    scene.plan()
    assert scene.created == {(0, 2), (1, 2)}
    assert scene.phase is Phase.PENDING
    assert scene.status.start_time == scene.now
    assert scene.condition("Suspended").status == "False"
    assert scene.event_reasons == ["Suspended", "Resumed"]


def test_resuming_while_old_pods_still_stop_makes_new_ones_beside_them() -> None:
    scene = training()
    scene.respec(suspend=True)
    scene.plan()
    scene.respec(suspend=False)
    scene.plan(after=1)
    assert scene.created == {(0, 2), (1, 2)}


def test_round_numbers_go_on_after_a_suspension() -> None:
    scene = suspended()
    scene.respec(suspend=False)
    scene.plan()
    for index in range(2):
        scene.run(index)
        scene.report(index, round=0)
    scene.plan()
    assert scene.status.round is not None
    assert scene.status.round.number == 2
    assert scene.status.restarts == 0


def test_workers_may_be_fewer_after_a_suspension() -> None:
    scene = suspended()
    scene.respec(suspend=False, workers={"count": 1})
    scene.plan()
    assert scene.created == {(0, 2)}


def test_a_job_whose_ranks_all_ended_well_is_complete_and_not_suspended() -> None:
    scene = training(workers=1)
    scene.report(0, scene.result(0, Outcome.SUCCEEDED, 0))
    scene.respec(suspend=True)
    scene.plan()
    assert scene.phase is Phase.SUCCEEDED


def test_dead_pods_stay_for_their_logs() -> None:
    scene = training()
    scene.exit(1, 1)
    scene.respec(suspend=True)
    scene.plan()
    assert set(scene.deleted) == {"digits-0-1"}
    assert scene.pods["digits-1-1"].phase is PodPhase.FAILED


def test_a_pod_of_which_another_container_still_runs_leaves_as_well() -> None:
    scene = training()
    scene.exit(1, 0, "Completed")
    scene.change(1, lingers=True)
    scene.respec(suspend=True)
    scene.plan()
    assert set(scene.deleted) == {"digits-0-1", "digits-1-1"}
