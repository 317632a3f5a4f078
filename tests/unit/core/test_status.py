"""What the user sees."""

from __future__ import annotations

import math
from typing import Any

import pytest

from dlcloud_operator.api import CheckpointStatus, Outcome, Phase, Progress
from dlcloud_operator.core import AgentWarning, RankState, RankView, WriteStatus

from .scene import T0, Scene, seconds, training


def write_of(scene: Scene) -> WriteStatus:
    writes = scene.of(WriteStatus)
    assert len(writes) == 1
    return writes[0]


def test_a_training_job_says_so() -> None:
    scene = training(workers=4)
    assert (scene.phase, scene.status.workers.text) == (Phase.RUNNING, "4/4")
    assert scene.status.message == "training on 4 workers"
    assert {one.type: one.status for one in scene.status.conditions} == {
        "Admitted": "True",
        "PodsReady": "True",
        "Training": "True",
    }


def test_a_transition_time_moves_with_the_answer_alone() -> None:
    scene = training()
    began = scene.condition("Training").last_transition_time
    assert began > T0
    scene.now += seconds(10)
    scene.report(1, scene.result(1, Outcome.ERROR))
    scene.report(0)
    scene.plan()
    stopped = scene.condition("Training")
    assert (stopped.status, stopped.last_transition_time) == ("False", scene.now)
    scene.now += seconds(5)
    scene.report(0, ranks=[RankView(0, RankState.STARTING)])
    scene.plan()
    assert scene.condition("Training").last_transition_time == stopped.last_transition_time
    scene.now += seconds(5)
    scene.report(0)
    scene.report(1)
    scene.plan()
    assert scene.condition("Training").last_transition_time == scene.now


def test_progress_alone_is_not_urgent() -> None:
    scene = training()
    scene.report(0, progress=Progress(epoch=1, step=20, total_steps=100, loss=0.25))
    scene.plan(after=1)
    assert not write_of(scene).urgent
    assert scene.status.progress is not None
    assert (scene.status.progress.step, scene.status.progress.loss) == (20, 0.25)


def test_a_checkpoint_alone_is_not_urgent() -> None:
    scene = training()
    saved = CheckpointStatus(step=10, uri="s3://checkpoints/m.json", committed_at=scene.now)
    scene.report(0, checkpoint=saved)
    scene.plan(after=1)
    assert not write_of(scene).urgent
    assert scene.status.checkpoint == saved


def test_an_end_of_a_round_is_urgent() -> None:
    scene = training()
    scene.report(1, scene.result(1, Outcome.ERROR))
    scene.plan()
    assert write_of(scene).urgent


def test_a_heartbeat_writes_nothing() -> None:
    scene = training()
    scene.report(0, progress=Progress(step=10, total_steps=100, loss=0.5))
    scene.plan()
    for _ in range(20):
        scene.now += seconds(5)
        scene.hear_all(progress=Progress(step=10, total_steps=100, loss=0.5, reported_at=scene.now))
        scene.plan()
        assert scene.of(WriteStatus) == []


def test_numbers_that_are_not_finite_never_reach_the_status() -> None:
    scene = training()
    bad = Progress(step=20, loss=0.5).model_copy(
        update={"loss": math.nan, "metrics": {"accuracy": math.inf, "f1": 0.5}, "samples_per_second": -math.inf}
    )
    scene.report(0, progress=bad)
    scene.plan()
    assert scene.status.progress is not None
    assert (scene.status.progress.loss, scene.status.progress.samples_per_second) == (None, None)
    assert scene.status.progress.metrics == {"f1": 0.5}
    assert scene.has_condition("LossNotFinite")
    assert scene.event_reasons == ["LossNotFinite"]
    scene.report(0, progress=Progress(step=30, loss=0.4))
    scene.plan()
    assert not scene.has_condition("LossNotFinite")


def test_an_agents_warning_becomes_a_condition_and_one_event() -> None:
    scene = training()
    warning = AgentWarning("CheckpointDamaged", "fell back to step 10", scene.now)
    for _ in range(3):
        scene.report(0, warnings=[warning])
        scene.plan(after=1)
    assert scene.condition("CheckpointDamaged").message == "fell back to step 10"
    assert scene.event_reasons == ["CheckpointDamaged"]


def test_an_agent_cannot_declare_its_job_complete() -> None:
    scene = training()
    scene.report(0, warnings=[AgentWarning("Complete", "", scene.now), AgentWarning("Failed", "", scene.now)])
    scene.plan()
    assert not scene.has_condition("Complete")
    assert not scene.has_condition("Failed")


def test_more_warnings_than_fit_are_dropped() -> None:
    scene = training()
    scene.report(0, warnings=[AgentWarning(f"W{number}", "", scene.now) for number in range(40)])
    scene.plan()
    assert len(scene.status.conditions) == 16
    scene.plan(after=1)
    assert scene.of(WriteStatus) == []


def test_only_worker_0_tells_progress() -> None:
    scene = training()
    scene.report(1, progress=Progress(step=99))
    scene.plan()
    assert scene.status.progress is not None
    assert scene.status.progress.step == 10


def test_progress_survives_the_pod_that_told_it() -> None:
    scene = training()
    scene.remove(0)
    scene.reports.clear()
    scene.plan()
    assert scene.status.progress is not None
    assert scene.status.progress.step == 10


def test_a_restart_tells_its_cause_and_what_it_waits_for() -> None:
    scene = training()
    scene.exit(1, 137, "OOMKilled")
    scene.plan()
    scene.change(1, waiting="0/3 nodes are available: 3 Insufficient memory")
    scene.report(0)
    scene.plan()
    assert scene.phase is Phase.RESTARTING
    assert scene.status.message == (
        "restarting after round 1: worker 1: OutOfMemory (exit code 137): pod digits-1-1 ran out of memory "
        "(raise workers.memory or use smaller batches); "
        "waiting for 1 of 2 workers: 0/3 nodes are available: 3 Insufficient memory"
    )


def test_a_new_generation_is_acknowledged() -> None:
    scene = training()
    scene.respec(ttlSecondsAfterFinished=5)
    scene.plan()
    assert scene.status.observed_generation == 2
    assert scene.condition("Training").observed_generation == 2


def test_a_status_fits_the_limits_of_its_schema() -> None:
    scene = training(workers=1)
    scene.report(0, scene.result(0, Outcome.ERROR, 1, "é" * 4000))
    scene.plan()
    scene.change(0, phase="Pending", waiting="x" * 5000)
    scene.plan()
    type(scene.status).model_validate(scene.status.to_json())


AWAY = "the checkpoint of step 2 cannot be saved since 10:00:00Z: the store is away"


def test_a_store_that_is_away_stands_in_the_message_until_it_is_back() -> None:
    scene = training()
    scene.report(0, warnings=[AgentWarning("CheckpointUploadFailed", AWAY, scene.now)])
    scene.plan()
    assert AWAY in scene.status.message
    scene.report(0, warnings=[AgentWarning("CheckpointUploadFailed", "saved again", scene.now, over=True)])
    scene.plan(after=1)
    assert AWAY not in scene.status.message
    assert not scene.has_condition("CheckpointUploadFailed")
    assert scene.event_reasons == ["CheckpointUploadFailed", "Recovered"]
    scene.plan(after=1)
    assert scene.event_reasons == ["CheckpointUploadFailed", "Recovered"], "told once"


def test_the_end_of_what_nobody_warned_of_is_no_news() -> None:
    scene = training()
    scene.report(0, warnings=[AgentWarning("CheckpointUploadFailed", "saved again", scene.now, over=True)])
    scene.plan()
    assert scene.event_reasons == []
    assert all(condition.type != "CheckpointUploadFailed" for condition in scene.status.conditions)


def test_a_trouble_that_returns_is_told_again() -> None:
    scene = training()
    for over in (False, True, False):
        scene.report(0, warnings=[AgentWarning("CheckpointUploadFailed", AWAY, scene.now, over)])
        scene.plan(after=1)
    assert scene.has_condition("CheckpointUploadFailed")
    assert scene.event_reasons == ["CheckpointUploadFailed", "Recovered", "CheckpointUploadFailed"]


# --- what keeps pods from starting ---


def test_a_pod_that_does_not_fit_gives_the_condition_the_schedulers_reason() -> None:
    scene = Scene(workers=4)
    scene.plan()
    for index in range(3):
        scene.run(index)
        scene.report(index, round=0)
    scene.change(3, waiting="0/3 nodes have 1 free nvidia.com/gpu", waiting_reason="Unschedulable")
    scene.plan(after=1)
    assert scene.status.message == "waiting for 1 of 4 workers: 0/3 nodes have 1 free nvidia.com/gpu"
    ready = scene.condition("PodsReady")
    assert (ready.status, ready.reason, ready.message) == ("False", "Unschedulable", scene.status.message)


def test_a_real_trouble_gives_the_reason_before_what_every_pod_waits_for() -> None:
    scene = Scene(workers=2)
    scene.plan()
    scene.change(0, waiting="the container is being created", waiting_reason="ContainerCreating")
    scene.change(1, waiting="image 'x' cannot be pulled: not found", waiting_reason="ImagePull")
    scene.plan(after=1)
    assert scene.condition("PodsReady").reason == "ImagePull"


def test_pods_that_are_being_created_are_just_waited_for() -> None:
    scene = Scene(workers=1)
    scene.plan()
    scene.change(0, waiting="the container is being created", waiting_reason="ContainerCreating")
    scene.plan(after=1)
    assert scene.condition("PodsReady").reason == "WaitingForWorkers"


def test_another_reason_is_no_transition() -> None:
    scene = Scene(workers=1)
    scene.plan()
    began_at = scene.condition("PodsReady").last_transition_time
    scene.change(0, waiting="image 'x' cannot be pulled: not found", waiting_reason="ImagePull")
    scene.plan(after=60)
    assert scene.condition("PodsReady").last_transition_time == began_at


# --- numbers ---


def test_numbers_have_the_digits_a_table_has_room_for() -> None:
    scene = training()
    told = Progress(step=20, loss=0.123456789, samples_per_second=4123.456, metrics={"accuracy": 0.98765432})
    scene.report(0, progress=told)
    scene.plan()
    progress = scene.status.progress
    assert progress is not None
    assert (progress.loss, progress.samples_per_second) == (0.123457, 4123.0)
    assert progress.metrics == {"accuracy": 0.987654}


def test_the_time_left_is_told_while_it_trains_and_no_longer() -> None:
    scene = training()
    scene.report(0, progress=Progress(step=20, total_steps=200, samples=1280, samples_per_second=64.0))
    scene.plan()
    assert scene.status.progress is not None and scene.status.progress.eta == "3m00s"
    scene.respec(suspend=True)
    scene.pods.clear()
    scene.plan(after=1)
    assert scene.phase is Phase.SUSPENDED
    assert scene.status.progress.eta is None and scene.status.progress.samples_per_second == 64.0


@pytest.mark.parametrize(
    "told",
    [
        {"total_steps": 200, "samples": 1280},
        {"total_steps": 200, "samples": 1280, "samples_per_second": 0.0},
        {"total_steps": 200, "samples": 1280, "samples_per_second": -1.0},
        {"total_steps": 10**18, "samples": 1280, "samples_per_second": 5e-324},
        {"samples": 1280, "samples_per_second": 64.0},
    ],
)
def test_a_time_left_that_cannot_be_known_is_not_told(told: dict[str, Any]) -> None:
    scene = training()
    scene.report(0, progress=Progress(step=20, **told))
    scene.plan()
    assert scene.status.progress is not None and scene.status.progress.eta is None


def test_a_number_that_rounds_to_infinity_stays_as_it_is() -> None:
    scene = training()
    greatest = 1.7976931348623157e308
    scene.report(0, progress=Progress(step=20, loss=0.5, samples_per_second=greatest))
    scene.plan()
    assert scene.status.progress is not None and scene.status.progress.samples_per_second == greatest


def test_a_loss_that_changed_beyond_its_shown_digits_is_no_news() -> None:
    scene = training()
    scene.report(0, progress=Progress(step=20, loss=0.12345671))
    scene.plan()
    scene.report(0, progress=Progress(step=20, loss=0.12345672))
    scene.plan(after=1)
    assert scene.of(WriteStatus) == []
