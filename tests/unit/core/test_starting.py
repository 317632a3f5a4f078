"""From a manifest to the first round."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dlcloud_operator.api import Outcome, Phase, Problem, TrainingJobStatus
from dlcloud_operator.core import CreatePod, PodPhase, WriteStatus

from .scene import T0, Scene, seconds, training


def test_all_pods_are_created_at_once_after_the_status_that_names_them() -> None:
    scene = Scene(workers=4)
    actions = scene.plan()
    kinds = [type(action) for action in actions]
    assert kinds.index(WriteStatus) < kinds.index(CreatePod)
    assert scene.created == {(0, 1), (1, 1), (2, 1), (3, 1)}
    assert scene.recovery.incarnations == {"0": 1, "1": 1, "2": 1, "3": 1}


def test_a_new_job_is_pending_with_its_start_time_selector_and_generation() -> None:
    scene = Scene()
    scene.plan()
    status = scene.status
    assert (status.phase, status.start_time) == (Phase.PENDING, T0)
    assert (status.selector, status.observed_generation) == ("dlcloud.dev/job=digits", 1)
    assert (status.workers.text, status.workers.desired) == ("0/2", 2)


def test_a_create_that_was_lost_is_repeated_under_the_same_name() -> None:
    scene = Scene()
    scene.plan()
    scene.pods.clear()
    actions = scene.plan()
    assert scene.created == {(0, 1), (1, 1)}
    assert not any(isinstance(action, WriteStatus) for action in actions)


def test_a_name_that_is_still_terminating_is_not_used_again() -> None:
    scene = Scene()
    scene.plan()
    scene.change(0, deleting=True)
    scene.plan()
    assert scene.created == {(0, 2)}


def test_no_round_begins_before_every_worker_runs_and_reports() -> None:
    scene = Scene()
    scene.plan()
    scene.run(0)
    scene.run(1)
    scene.report(0, round=0)
    scene.plan()
    assert scene.status.round is None
    assert scene.status.message == "waiting for 1 of 2 workers: the agent has not reported yet"
    scene.report(1, round=0)
    scene.plan()
    assert scene.status.round is not None


def test_a_pod_that_is_still_pending_is_no_member_even_if_it_reports() -> None:
    scene = Scene(workers=1)
    scene.plan()
    scene.report(0, round=0)
    scene.plan()
    assert scene.status.round is None


def test_the_first_round_names_members_ranks_master_and_threads() -> None:
    scene = Scene(workers=2, each={"gpus": 2, "cpu": "5"})
    scene.plan()
    for index in range(2):
        scene.run(index)
        scene.report(index, round=0)
    scene.plan()
    begun = scene.status.round
    assert begun is not None
    assert (begun.number, begun.world_size, begun.threads, begun.started_at) == (1, 4, 2, T0)
    assert (begun.master, begun.port) == ("10.0.0.0", 29500)
    assert [(member.index, member.pod, member.ranks) for member in begun.members] == [
        (0, "digits-0-1", [0, 1]),
        (1, "digits-1-1", [2, 3]),
    ]
    assert scene.recovery.last_round == 1
    assert scene.phase is Phase.RUNNING


def test_a_fraction_of_a_core_still_gives_one_thread() -> None:
    scene = Scene(workers=1, each={"cpu": "500m"})
    scene.plan()
    scene.run(0)
    scene.report(0, round=0)
    scene.plan()
    assert scene.status.round is not None
    assert scene.status.round.threads == 1


def test_two_operators_that_decide_on_the_same_number_use_different_nonces() -> None:
    nonces = set()
    for version in ("7", "8"):
        scene = Scene(workers=1)
        scene.plan()
        scene.job = replace(scene.job, resource_version=version)
        scene.run(0)
        scene.report(0, round=0)
        scene.plan()
        assert scene.status.round is not None
        nonces.add(scene.status.round.nonce)
    assert len(nonces) == 2


def test_agents_that_saw_higher_rounds_than_the_status_knows_get_a_higher_one() -> None:
    scene = Scene(workers=1)
    scene.plan()
    scene.run(0)
    scene.report(0, round=41)
    scene.plan()
    assert scene.status.round is not None
    assert scene.status.round.number == 42


def test_a_status_that_was_wiped_adopts_the_pods_that_exist() -> None:
    scene = training()
    scene.change(0, name="digits-0-3", incarnation=3)
    scene.job = replace(scene.job, status=TrainingJobStatus())
    scene.plan()
    assert not scene.created
    assert scene.recovery.incarnations == {"0": 3, "1": 1}


def test_the_message_quotes_the_scheduler() -> None:
    scene = Scene(workers=4)
    scene.plan()
    for index in range(3):
        scene.run(index)
        scene.report(index, round=0)
    scene.change(3, waiting="0/3 nodes have 1 free nvidia.com/gpu")
    scene.plan()
    assert scene.status.message == "waiting for 1 of 4 workers: 0/3 nodes have 1 free nvidia.com/gpu"
    assert scene.condition("PodsReady").status == "False"


def test_a_pending_pod_is_never_given_up() -> None:
    scene = Scene()
    scene.plan()
    scene.plan(after=86400)
    assert not scene.created
    assert not scene.deleted


def test_mistakes_fail_the_job_before_any_pod_exists() -> None:
    scene = Scene()
    scene.misspell(Problem("spec.parameters.epoch", "unknown; did you mean epochs?"))
    scene.plan()
    assert not scene.created
    assert scene.phase is Phase.FAILED
    assert scene.condition("Failed").reason == "InvalidSpec"
    assert scene.status.message == "spec.parameters.epoch: unknown; did you mean epochs?"
    assert scene.condition("Admitted").status == "False"


def test_many_mistakes_are_counted_and_the_first_are_told() -> None:
    scene = Scene()
    scene.misspell(*(Problem(f"spec.f{number}", "wrong") for number in range(5)), parses=True)
    scene.plan()
    assert scene.status.message == "spec.f0: wrong; spec.f1: wrong; spec.f2: wrong; and 2 more"


def test_a_job_that_is_being_deleted_is_left_alone() -> None:
    scene = Scene()
    scene.job = replace(scene.job, deleting=True)
    assert scene.plan() == []


# --- pods that die before they join a round ---


def die_at_start(scene: Scene, code: int | None = 127, message: str = "python3: not found") -> None:
    scene.run(0)
    scene.exit(0, code, "Error", message)
    scene.plan()


def test_a_pod_that_dies_at_its_start_is_made_again_at_once() -> None:
    scene = Scene(workers=1)
    scene.plan()
    die_at_start(scene)
    assert scene.created == {(0, 2)}
    assert scene.status.failures[-1].reason is Outcome.ERROR
    assert scene.status.failures[-1].message == "python3: not found"


def test_pauses_between_deaths_at_the_start_grow() -> None:
    scene = Scene(workers=1, restart={"maxFailures": 9})
    scene.plan()
    pauses = []
    for _ in range(8):
        die_at_start(scene)
        died_at = scene.now
        while not scene.created:
            assert scene.wake is not None
            scene.now = scene.wake
            scene.plan()
        pauses.append((scene.now - died_at).total_seconds())
    assert pauses == [0, 1, 2, 4, 8, 16, 30, 30]


def test_a_worker_that_never_gets_to_a_round_fails_the_job_with_its_words() -> None:
    scene = Scene(workers=1, restart={"maxFailures": 0})
    scene.plan()
    for pause_s in (0, 1, 2):
        die_at_start(scene)
        assert scene.phase is Phase.PENDING
        scene.plan(after=pause_s)
    assert scene.phase is Phase.FAILED
    assert scene.condition("Failed").reason == "TooManyFailures"
    assert scene.status.message == (
        "worker 0 ended 3 times in a row before it could join a round; "
        "the last: worker 0: Error (exit code 127): python3: not found"
    )


def test_one_bad_start_of_each_of_many_workers_costs_nothing() -> None:
    scene = Scene(workers=8, restart={"maxFailures": 1})
    scene.plan()
    for index in range(8):
        scene.run(index)
        scene.exit(index, 1)
    scene.plan()
    assert scene.created == {(index, 2) for index in range(8)}
    assert scene.phase is Phase.PENDING


def test_a_program_that_cannot_be_started_fails_the_job_in_the_end() -> None:
    scene = Scene(workers=1, restart={"maxFailures": 0})
    scene.plan()
    for _ in range(3):
        scene.run(0)
        scene.exit(0, 128, "StartError", "the image has no python3")
        scene.plan()
        scene.plan(after=60)
    assert scene.phase is Phase.FAILED
    assert "the image has no python3" in scene.status.message


def test_a_pod_too_small_to_start_says_what_to_raise() -> None:
    scene = Scene(workers=1, restart={"maxFailures": 0})
    scene.plan()
    for _ in range(3):
        scene.run(0)
        scene.exit(0, 137, "OOMKilled")
        scene.plan()
        scene.plan(after=60)
    assert scene.phase is Phase.FAILED
    assert "raise workers.memory" in scene.status.message


def test_joining_a_round_forgives_deaths_at_the_start() -> None:
    scene = Scene(workers=1)
    scene.plan()
    die_at_start(scene)
    scene.run(0)
    scene.report(0, round=0)
    scene.plan()
    assert scene.recovery.start_failures == {}


@pytest.mark.parametrize(
    "fields",
    [{"preempted": True}, {"node_lost": True}, {"deleting": True}],
    ids=["preempted", "node lost", "deleted"],
)
def test_a_pod_taken_away_at_its_start_costs_nothing(fields: dict[str, bool]) -> None:
    scene = Scene(workers=1, restart={"maxFailures": 0})
    scene.plan()
    scene.run(0)
    scene.exit(0, 137)
    scene.change(0, **fields)
    scene.plan()
    assert scene.created == {(0, 2)}
    assert scene.recovery.start_failures == {}


def test_a_node_that_refuses_pods_is_not_asked_without_end_and_without_pause() -> None:
    scene = Scene(workers=1, restart={"maxFailures": 0})
    scene.plan()
    for _ in range(4):
        scene.change(0, phase=PodPhase.FAILED)
        scene.plan()
        scene.plan(after=30)
    assert scene.phase is Phase.PENDING
    scene.change(0, phase=PodPhase.FAILED, created_at=scene.now)
    scene.plan()
    assert not scene.created
    assert scene.wake == scene.now + seconds(8)
    assert scene.status.message.startswith("waiting for 1 of 1 worker: worker 0 ended before it could join")


def test_a_pod_whose_agent_never_reports_is_replaced_after_the_limit() -> None:
    scene = Scene(workers=1, limits={"start": "5m"})
    scene.plan()
    scene.now += seconds(7200)  # it waited two hours for a node: that does not count
    old = scene.run(0)
    scene.plan()
    assert scene.wake == scene.now + seconds(300)
    scene.plan(after=299)
    assert not scene.created
    scene.plan(after=1)
    assert scene.created == {(0, 2)}
    assert scene.deleted == {old.name: 0}
    assert scene.status.failures[-1].message == "its agent did not report within 5m (limits.start)"


def test_agents_that_never_report_end_the_job_at_last() -> None:
    scene = Scene(workers=1, limits={"start": "5m"}, restart={"maxFailures": 1})
    scene.plan()
    for _ in range(3):
        assert scene.phase is Phase.PENDING
        scene.run(0)
        scene.plan(after=300)
    assert scene.condition("Failed").reason == "TooManyFailures"
