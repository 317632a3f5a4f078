"""The end: success, deadlines, pods that go and jobs that expire."""

from __future__ import annotations

import pytest

from dlcloud_operator.api import Outcome, Phase, Problem
from dlcloud_operator.core import DeleteJob, PodPhase, RankResult

from .scene import Scene, seconds, training


def finished(**fields: object) -> Scene:
    """A job that just succeeded, its pods still running."""
    scene = training(**fields)  # type: ignore[arg-type]
    scene.now += seconds(1)
    for index in range(2):
        scene.report(index, scene.result(index, Outcome.SUCCEEDED, 0))
    scene.plan()
    assert scene.phase is Phase.SUCCEEDED
    return scene


def test_the_job_succeeds_when_every_rank_did() -> None:
    scene = training()
    scene.report(0, scene.result(0, Outcome.SUCCEEDED, 0))
    scene.plan()
    assert scene.phase is Phase.RUNNING
    scene.report(1, scene.result(1, Outcome.SUCCEEDED, 0))
    scene.plan()
    assert scene.phase is Phase.SUCCEEDED
    assert scene.has_condition("Complete")
    assert scene.status.completion_time == scene.now
    assert scene.event_reasons == ["Succeeded"]
    assert scene.condition("Training").status == "False"


def test_pods_that_exited_well_while_the_operator_was_away_complete_the_job() -> None:
    scene = training()
    results = [scene.result(index, Outcome.SUCCEEDED, 0) for index in range(2)]
    scene.restart_operator()
    for index in range(2):
        scene.exit(index, 0, "Completed", "", results[index])
    scene.plan()
    assert scene.phase is Phase.SUCCEEDED


def test_a_pod_that_succeeded_without_a_word_speaks_for_its_ranks() -> None:
    scene = training(workers=1)
    scene.exit(0, 0, "Completed")
    scene.plan()
    assert scene.phase is Phase.SUCCEEDED


def test_a_pod_that_exited_well_in_an_earlier_round_has_not_succeeded_in_this_one() -> None:
    scene = training()
    done = scene.result(0, Outcome.SUCCEEDED, 0)
    scene.report(0, done)
    scene.report(1, scene.result(1, Outcome.ERROR))
    scene.plan()
    scene.exit(0, 0, "Completed", "", done)
    scene.plan()
    assert scene.phase is Phase.RESTARTING
    assert scene.created == {(0, 2)}


def test_a_round_that_was_given_up_but_ended_well_completes_the_job() -> None:
    scene = training()
    scene.change(1, deleting=True)
    scene.plan()
    assert scene.phase is Phase.RESTARTING
    scene.report(0, RankResult(1, 0, Outcome.SUCCEEDED, scene.now, 0))
    scene.report(1, RankResult(1, 1, Outcome.SUCCEEDED, scene.now, 0), round=1, pod=scene.pods["digits-1-1"])
    scene.plan()
    assert scene.phase is Phase.SUCCEEDED


def test_agents_get_fifteen_seconds_to_leave_by_themselves() -> None:
    scene = finished()
    ended_at = scene.now
    assert scene.wake == ended_at + seconds(15)
    scene.plan(after=14)
    assert scene.deleted == {}
    scene.plan(after=1)
    assert scene.deleted == {"digits-0-1": None, "digits-1-1": None}


@pytest.mark.parametrize(
    ("clean", "deleted"),
    [("All", {"digits-0-1", "digits-1-1"}), ("Running", {"digits-1-1"}), ("None", set())],
)
def test_clean_pods_says_which_pods_go(clean: str, deleted: set[str]) -> None:
    scene = finished(cleanPods=clean)
    scene.exit(0, 0, "Completed")
    scene.plan(after=15)
    assert set(scene.deleted) == deleted


def test_a_pod_of_which_another_container_still_runs_goes_with_the_running_ones() -> None:
    scene = finished()
    scene.exit(0, 0, "Completed")
    scene.exit(1, 0, "Completed")
    scene.change(1, lingers=True)
    scene.plan(after=15)
    assert set(scene.deleted) == {"digits-1-1"}


def test_the_job_is_deleted_after_its_time_to_live() -> None:
    scene = finished(ttlSecondsAfterFinished=60, cleanPods="None")
    assert scene.wake == scene.now + seconds(60)
    scene.plan(after=59)
    assert scene.of(DeleteJob) == []
    scene.plan(after=1)
    assert [one.uid for one in scene.of(DeleteJob)] == ["job-uid"]


def test_nothing_else_happens_to_a_finished_job() -> None:
    scene = finished()
    before = scene.status
    scene.pods.clear()
    scene.respec(suspend=True, activeDeadlineSeconds=1)
    scene.misspell(Problem("spec", "wrong"), parses=True)
    assert scene.plan(after=3600) == []
    assert scene.status == before


def test_a_deadline_fails_the_job() -> None:
    scene = training(activeDeadlineSeconds=60)
    scene.now = scene.status.start_time + seconds(59) if scene.status.start_time else scene.now
    scene.hear_all()
    scene.plan()
    assert scene.wake == scene.now + seconds(1)
    scene.plan(after=1)
    assert scene.condition("Failed").reason == "DeadlineExceeded"
    assert scene.status.round is None
    scene.plan(after=15)
    assert set(scene.deleted) == {"digits-0-1", "digits-1-1"}


def test_the_deadline_is_waited_for_from_the_first_plan() -> None:
    scene = Scene(activeDeadlineSeconds=600)
    scene.plan()
    assert scene.wake == scene.now + seconds(600)


def test_a_failed_job_keeps_its_dead_pods_for_their_logs() -> None:
    scene = training(workers=1, restart={"maxFailures": 0})
    scene.exit(0, 1, "Error", "", scene.result(0, Outcome.ERROR, 1))
    scene.plan()
    assert scene.phase is Phase.FAILED
    scene.plan(after=15)
    assert scene.deleted == {}
    assert scene.current(0).phase is PodPhase.FAILED


def test_an_unreadable_spec_still_cleans_up() -> None:
    scene = training()
    scene.misspell(Problem("spec.workers", "wrong"))
    scene.plan()
    assert scene.condition("Failed").reason == "InvalidSpec"
    scene.plan(after=15)
    assert set(scene.deleted) == {"digits-0-1", "digits-1-1"}
