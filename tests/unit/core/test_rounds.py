"""How a round ends, and how the next one follows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dlcloud_operator.api import Outcome, Phase
from dlcloud_operator.core import CreatePod, PodPhase, RankResult, RankState, RankView, WriteStatus

from .scene import Scene, seconds, training


def fail_rank(scene: Scene, index: int, outcome: Outcome = Outcome.ERROR, code: int = 1, message: str = "") -> None:
    scene.report(index, scene.result(index, outcome, code, message))


def test_a_dead_rank_ends_the_round_and_the_next_begins_in_the_same_plan() -> None:
    scene = training()
    fail_rank(scene, 1)
    actions = scene.plan()
    assert scene.status.round is not None
    assert scene.status.round.number == 2
    assert sum(isinstance(action, WriteStatus) for action in actions) == 1
    assert not scene.created
    assert not scene.deleted
    assert scene.status.restarts == 1
    assert scene.phase is Phase.RUNNING
    assert scene.event_reasons == ["RankFailed", "RoundStarted"]


def test_a_lost_pod_is_replaced_and_the_others_stay() -> None:
    scene = training(workers=3)
    scene.remove(1)
    scene.plan()
    assert scene.created == {(1, 2)}
    assert not scene.deleted
    assert scene.status.round is None
    assert scene.phase is Phase.RESTARTING


def test_a_failed_pod_is_replaced_under_a_new_name_and_its_object_stays_for_the_log() -> None:
    scene = training()
    scene.exit(1, 137)
    scene.plan()
    assert scene.created == {(1, 2)}
    assert not scene.deleted


def test_a_pod_that_is_terminating_on_a_dead_node_is_replaced_at_once() -> None:
    scene = training()
    scene.change(1, deleting=True, node_lost=True)
    scene.plan()
    assert scene.created == {(1, 2)}


@pytest.mark.parametrize("fields", [{"preempted": True}, {"deleting": True}])
def test_a_pod_that_is_taken_away_ends_the_round(fields: dict[str, bool]) -> None:
    scene = training()
    scene.change(1, **fields)
    scene.plan()
    assert scene.status.round is None
    assert scene.created == {(1, 2)}


def test_a_pod_that_drains_without_being_deleted_is_replaced() -> None:
    scene = training()
    scene.report(1, draining=True)
    scene.plan()
    assert scene.created == {(1, 2)}
    assert scene.deleted == {"digits-1-1": None}


def test_another_pod_under_the_same_name_is_no_member() -> None:
    scene = training()
    scene.change(1, uid="somebody-else")
    scene.plan()
    assert scene.status.round is None
    assert not scene.created


def test_the_replacement_joins_the_next_round_with_its_own_uid() -> None:
    scene = training()
    scene.exit(1, 137)
    scene.plan()
    new = scene.run(1)
    scene.report(0)
    scene.report(1, round=0)
    scene.plan(after=1)
    assert scene.status.round is not None
    assert [member.uid for member in scene.status.round.members] == [scene.current(0).uid, new.uid]


def test_several_lost_pods_are_created_at_once() -> None:
    scene = training(workers=4)
    for index in (0, 2, 3):
        scene.exit(index, 137)
    scene.plan()
    assert scene.created == {(0, 2), (2, 2), (3, 2)}


def test_the_status_names_an_incarnation_before_its_pod_is_created() -> None:
    scene = training()
    scene.exit(1, 137)
    kinds = [type(action) for action in scene.plan()]
    assert kinds.index(WriteStatus) < kinds.index(CreatePod)


def test_ranks_that_are_done_wait_for_the_others() -> None:
    scene = training()
    scene.report(0, scene.result(0, Outcome.SUCCEEDED, 0))
    scene.plan()
    assert scene.status.round is not None
    assert scene.status.round.number == 1


def test_a_worker_that_exited_well_is_not_replaced_while_its_round_runs() -> None:
    scene = training()
    scene.report(0, scene.result(0, Outcome.SUCCEEDED, 0))
    scene.exit(0, 0, "Completed")
    scene.plan()
    assert scene.status.round is not None
    assert not scene.created


def test_a_worker_that_exited_well_is_replaced_when_its_round_breaks() -> None:
    scene = training()
    scene.report(0, scene.result(0, Outcome.SUCCEEDED, 0))
    scene.exit(0, 0, "Completed")
    scene.plan()
    fail_rank(scene, 1)
    scene.plan()
    assert scene.created == {(0, 2)}


def test_a_busy_port_ends_the_round_and_counts_as_no_restart() -> None:
    scene = training()
    fail_rank(scene, 0, Outcome.PORT_BUSY, 73)
    scene.plan()
    assert scene.status.round is not None
    assert (scene.status.round.number, scene.status.restarts) == (2, 0)


def test_rank_numbers_of_another_worker_are_not_believed() -> None:
    scene = training()
    scene.report(1, scene.result(0, Outcome.ERROR, 1))
    scene.plan()
    assert scene.status.round is not None
    assert scene.status.round.number == 1


def test_results_of_an_earlier_round_do_not_end_this_one() -> None:
    scene = training()
    fail_rank(scene, 1)
    scene.plan()
    scene.now += seconds(1)
    scene.report(0, RankResult(1, 0, Outcome.STOPPED, scene.now, -9))
    scene.report(1)
    scene.plan()
    assert scene.status.round is not None
    assert scene.status.round.number == 2


def test_a_second_end_without_progress_pauses_before_the_next_round() -> None:
    scene = training()
    fail_rank(scene, 1)
    scene.plan()
    scene.now += seconds(3)
    scene.hear_all()
    fail_rank(scene, 1)  # round 2 made no step beyond the first
    scene.report(0, scene.result(0, Outcome.PEER_LOST, 72))
    scene.plan()
    assert scene.status.round is not None
    scene.now += seconds(3)
    scene.hear_all()
    scene.write(recovery=scene.recovery.model_copy(update={"rounds_without_progress": 0}))
    fail_rank(scene, 1)
    scene.report(0, scene.result(0, Outcome.PEER_LOST, 72))
    scene.plan()
    assert scene.status.round is None
    assert scene.wake == scene.now + seconds(1)
    assert scene.status.message.endswith("pausing after rounds without progress")
    scene.plan(after=1)
    assert scene.status.round is not None


def test_a_round_that_got_further_is_followed_without_a_pause() -> None:
    scene = training()
    for step in (20, 30, 40, 50):
        scene.now += seconds(1)
        scene.hear_all(ranks=[RankView(0, RankState.RUNNING, 0.1, step)])
        scene.plan()
        fail_rank(scene, 1, Outcome.PORT_BUSY)
        scene.plan()
        assert scene.status.round is not None


def test_the_next_round_waits_while_a_leaving_worker_saves() -> None:
    scene = training()
    old = scene.change(1, deleting=True)
    scene.report(1, draining=True, pod=old)
    scene.plan()
    scene.run(1)
    scene.now += seconds(1)
    scene.report(0)
    scene.report(1, round=0)
    scene.report(1, draining=True, pod=old, ranks=[RankView(1, RankState.RUNNING, 0.1)])
    scene.plan()
    assert scene.status.round is None
    assert scene.status.message.endswith("waiting until the last state is saved")
    scene.hear_all()
    scene.report(1, draining=True, pod=old, ranks=[RankView(1, RankState.RUNNING, 0.1)])
    scene.now += seconds(14)
    scene.report(0, round=1)
    scene.report(1, round=0)
    scene.respec(limits={"drain": "15500ms"})
    scene.plan()
    assert scene.wake == scene.now + seconds(0.5)
    scene.report(1, scene.result(1, Outcome.DRAINED, 75), draining=True, pod=old)
    scene.report(0, scene.result(0, Outcome.DRAINED, 75), round=1)
    scene.plan()
    assert scene.status.round is not None


@pytest.mark.parametrize("gone", [False, True], ids=["its pod is terminating", "its pod is gone"])
def test_the_next_round_waits_while_rank_0_saves_for_a_worker_that_has_left(gone: bool) -> None:
    scene = training()
    old = scene.change(1, deleting=True)
    scene.report(1, scene.result(1, Outcome.DRAINED, 75), draining=True, pod=old)
    scene.plan()
    if gone:
        del scene.pods[old.name]
    scene.run(1)
    scene.report(1, round=0)
    scene.report(0, round=1)
    scene.plan()
    assert scene.status.round is None
    assert scene.status.message.endswith("waiting until the last state is saved")
    scene.report(0, scene.result(0, Outcome.DRAINED, 75), round=1)
    scene.plan()
    assert scene.status.round is not None


def test_the_next_round_does_not_wait_for_peers_that_wait_for_the_first_step() -> None:
    scene = training()
    old = scene.change(1, deleting=True)
    scene.report(1, scene.result(1, Outcome.DRAINED, 75), draining=True, pod=old)
    scene.plan()
    scene.run(1)
    scene.report(1, round=0)
    scene.report(0, round=1, ranks=[RankView(0, RankState.STARTING)])
    scene.plan()
    assert scene.status.round is not None


def test_a_worker_that_never_ends_its_saving_is_not_waited_for_beyond_the_limit() -> None:
    scene = training(limits={"drain": "20s"})
    old = scene.change(1, deleting=True)
    for _ in range(5):
        scene.hear_all(round=1)
        scene.report(1, draining=True, pod=old, round=1, ranks=[RankView(1, RankState.RUNNING, 0.1)])
        scene.plan()
        if scene.current(1).phase is PodPhase.PENDING:
            scene.run(1)
        scene.report(1, round=0)
        scene.now += seconds(5)
    assert scene.status.round is not None


def test_a_script_job_does_not_wait_for_a_leaving_worker() -> None:
    scene = training(script=True)
    old = scene.change(1, deleting=True)
    scene.report(1, draining=True, pod=old)
    scene.plan()
    scene.run(1)
    scene.report(1, round=0)
    scene.plan()
    assert scene.status.round is not None


def test_after_a_conflict_the_next_plan_decides_the_same() -> None:
    scene = training()
    fail_rank(scene, 1)
    lost = [action for action in scene.decide() if not isinstance(action, WriteStatus)]
    scene.job = replace(scene.job, resource_version="99")
    again = [action for action in scene.plan() if not isinstance(action, WriteStatus)]
    assert again == lost
    assert scene.status.round is not None
    assert scene.status.round.number == 2


def test_scaling_down_while_it_runs_begins_a_smaller_round() -> None:
    scene = training(workers=3)
    scene.respec(workers={"count": 2})
    scene.plan()
    assert scene.deleted == {"digits-2-1": None}
    assert scene.status.round is not None
    assert scene.status.round.world_size == 2
    assert scene.recovery.counted_at == []


def test_superseded_pods_that_still_run_are_deleted() -> None:
    scene = training()
    old = scene.change(1, preempted=True)
    scene.plan()
    scene.change(old.name, deleting=False)
    scene.plan()
    assert scene.deleted == {old.name: None}


def test_only_the_newest_two_dead_pods_of_a_worker_are_kept() -> None:
    scene = training(workers=1)
    for _ in range(4):
        if scene.current(0).phase is PodPhase.PENDING:
            scene.run(0)
            scene.report(0, round=0)
            scene.plan()
        scene.exit(0, 137)
        scene.plan(after=40)
    alive = [name for name, pod in scene.pods.items() if not pod.deleting and pod.phase is PodPhase.FAILED]
    assert alive == ["digits-0-3", "digits-0-4"]


def test_a_name_is_not_used_again_once_its_pod_joined_a_round() -> None:
    scene = training(workers=1)
    scene.remove(0)
    scene.plan()
    scene.pods.clear()
    scene.plan()
    assert scene.created == {(0, 2)}, "the create of the second may be lost, the first existed"
