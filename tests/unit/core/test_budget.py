"""What failures cost, and when they end the job."""

from __future__ import annotations

import pytest

from dlcloud_operator.api import Outcome, Phase
from dlcloud_operator.core import RankState, RankView

from .scene import Scene, seconds, training


def one_more_end(scene: Scene, outcome: Outcome = Outcome.ERROR, after: float = 5, steps: int = 0) -> None:
    """The current round gets `steps` further than any before it, then rank 0 ends."""
    scene.now += seconds(after)
    if steps:
        furthest = scene.recovery.furthest_step + steps
        scene.report(0, ranks=[RankView(0, RankState.RUNNING, 0.1, furthest)])
        scene.plan()
    scene.report(0, scene.result(0, outcome, 1, "ValueError: no"))
    scene.plan()
    while scene.status.round is None and not (scene.phase and scene.phase.finished):
        assert scene.wake is not None
        scene.now = scene.wake
        scene.report(0)
        scene.plan()


def test_more_failures_than_allowed_within_the_window_fail_the_job() -> None:
    scene = training(workers=1, restart={"maxFailures": 3, "window": "1h"})
    for _ in range(3):
        one_more_end(scene, steps=1)
        assert scene.phase is Phase.RUNNING
    one_more_end(scene, steps=1)
    assert scene.phase is Phase.FAILED
    assert scene.condition("Failed").reason == "TooManyFailures"
    assert scene.status.message == (
        "4 failures within 1h, restart.maxFailures allows 3; "
        "the last: worker 0, rank 0: Error (exit code 1): ValueError: no"
    )


def test_failures_that_are_older_than_the_window_are_forgotten() -> None:
    scene = training(workers=1, restart={"maxFailures": 1, "window": "10m"})
    for _ in range(6):
        one_more_end(scene, after=301, steps=1)
        one_more_end(scene, Outcome.PORT_BUSY, after=301, steps=1)
    assert scene.phase is Phase.RUNNING
    assert len(scene.recovery.counted_at) == 1


def test_no_failure_is_forgiven_when_none_is_allowed() -> None:
    scene = training(workers=1, restart={"maxFailures": 0})
    one_more_end(scene, steps=1)
    assert scene.phase is Phase.FAILED
    assert scene.status.restarts == 0
    assert "RoundStarted" not in scene.event_reasons


@pytest.mark.parametrize("outcome", [Outcome.ERROR, Outcome.PEER_LOST, Outcome.PORT_BUSY, Outcome.FORK_HANG])
def test_three_rounds_without_progress_end_the_job(outcome: Outcome) -> None:
    scene = training(workers=1, restart={"maxFailures": 100})
    one_more_end(scene, outcome, steps=1)
    for _ in range(2):
        one_more_end(scene, outcome)
        assert scene.phase is Phase.RUNNING
    one_more_end(scene, outcome)
    assert scene.condition("Failed").reason == "NoProgress"
    assert scene.status.message.startswith("3 rounds in a row ended without progress; the last: worker 0, rank 0:")


@pytest.mark.parametrize("outcome", [Outcome.DRAINED, Outcome.PREEMPTED, Outcome.POD_LOST])
def test_rounds_that_ended_by_a_loss_say_nothing_about_progress(outcome: Outcome) -> None:
    scene = training(workers=1)
    for _ in range(10):
        one_more_end(scene, outcome)
    assert scene.phase is Phase.RUNNING
    assert scene.recovery.rounds_without_progress == 0


def test_a_store_that_is_away_between_two_rounds_is_nobodys_failure() -> None:
    scene = training(workers=1, restart={"maxFailures": 0})
    for _ in range(10):
        one_more_end(scene, Outcome.STORE_AWAY, after=90)
    assert scene.phase is Phase.RUNNING
    assert (scene.recovery.rounds_without_progress, scene.recovery.counted_at) == (0, [])


def test_a_store_that_stays_away_ends_the_job_with_what_to_do() -> None:
    scene = training(workers=1)
    one_more_end(scene)  # the first round made steps; it is the next ones that cannot
    for _ in range(19):
        one_more_end(scene, Outcome.STORE_AWAY, after=90)
    assert scene.phase is Phase.RUNNING
    one_more_end(scene, Outcome.STORE_AWAY, after=90)
    assert scene.condition("Failed").reason == "StoreAway"
    assert scene.status.message.startswith(
        "20 rounds in a row could not go on; the checkpoints stay, resumeFrom goes on from them; the last:"
    )


def test_a_commit_counts_as_progress() -> None:
    scene = training(workers=1, restart={"maxFailures": 100})
    for _ in range(5):
        one_more_end(scene, steps=1)
    assert scene.phase is Phase.RUNNING


def test_a_round_must_get_further_than_any_before_it() -> None:
    scene = training(workers=1, step=50, restart={"maxFailures": 100})
    one_more_end(scene)
    for _ in range(2):
        scene.report(0, ranks=[RankView(0, RankState.RUNNING, 0.1, 50)])
        one_more_end(scene)
    one_more_end(scene)
    assert scene.condition("Failed").reason == "NoProgress"


@pytest.mark.parametrize(
    ("outcome", "lived_s", "phase"),
    [
        (Outcome.ERROR, 10, Phase.RUNNING),
        (Outcome.ERROR, 0, Phase.FAILED),
        (Outcome.FORK_HANG, 60, Phase.RUNNING),
        (Outcome.FORK_HANG, 30, Phase.FAILED),
    ],
)
def test_a_script_that_runs_for_a_while_got_somewhere(outcome: Outcome, lived_s: int, phase: Phase) -> None:
    scene = training(workers=1, script=True, restart={"maxFailures": 100})
    for _ in range(5):
        if scene.phase is Phase.FAILED:
            break
        for _ in range(lived_s // 5):
            scene.now += seconds(5)
            scene.report(0)
            scene.plan()
        one_more_end(scene, outcome)
    assert scene.phase is phase


def test_a_script_that_fails_at_once_ends_the_job_at_the_third_time() -> None:
    scene = training(workers=1, script=True, restart={"maxFailures": 100})
    for _ in range(3):
        one_more_end(scene)
    assert scene.condition("Failed").reason == "NoProgress"


def test_losses_are_free_without_end() -> None:
    scene = training(restart={"maxFailures": 0})
    for _ in range(10):
        scene.remove(1)
        scene.plan()
        scene.now += seconds(20)
        scene.report(0)
        scene.run(1)
        scene.report(1, round=0)
        scene.plan(after=1)
        while scene.status.round is None:
            assert scene.wake is not None
            scene.now = scene.wake
            scene.hear_all()
            scene.plan()
    assert scene.phase is Phase.RUNNING
    assert scene.recovery.counted_at == []
    assert scene.status.restarts == 10


def test_only_the_last_five_failures_are_kept() -> None:
    scene = training(workers=1, restart={"maxFailures": 100})
    for _ in range(7):
        one_more_end(scene, steps=1)
    assert [failure.round for failure in scene.status.failures] == [3, 4, 5, 6, 7]
