"""Silences and limits: who is given up, and who is not."""

from __future__ import annotations

import pytest

from dlcloud_operator.api import Outcome, Progress
from dlcloud_operator.core import PodPhase, RankState, RankView, WriteStatus

from .scene import Scene, seconds, training


def let_time_pass(scene: Scene, total_s: float, *silent: int) -> None:
    """Heartbeats every 5 s of all workers but the silent ones, and a plan at each and at every wake."""
    end = scene.now + seconds(total_s)
    while scene.now < end:
        scene.now = min(end, scene.now + seconds(5))
        for index in range(len(scene.status.round.members) if scene.status.round else 0):
            if index not in silent:
                scene.report(index)
        scene.plan()


def test_a_pod_that_is_silent_for_a_minute_while_others_speak_is_replaced() -> None:
    scene = training()
    let_time_pass(scene, 55, 1)
    assert not scene.created
    assert scene.status.workers.text == "1/2"
    assert "worker 1 is silent since" in scene.status.message
    let_time_pass(scene, 5, 1)
    assert scene.created == {(1, 2)}
    assert scene.deleted == {"digits-1-1": 0}
    assert "its agent was silent for 60 s while others reported" in scene.status.message


def test_a_silence_is_suspected_after_fifteen_seconds() -> None:
    scene = training()
    heard_at = scene.now
    scene.now += seconds(14.9)
    scene.report(0)
    scene.plan()
    assert scene.recovery.suspects == {}
    assert scene.wake == heard_at + seconds(15)
    scene.plan(after=0.1)
    assert set(scene.recovery.suspects) == {scene.current(1).uid}
    assert scene.status.round is not None


def test_a_suspect_that_speaks_again_is_forgiven() -> None:
    scene = training()
    let_time_pass(scene, 40, 1)
    let_time_pass(scene, 5)
    assert scene.recovery.suspects == {}
    assert scene.status.workers.text == "2/2"
    let_time_pass(scene, 40, 1)
    assert scene.status.round is not None, "the second silence counts from its own beginning"


def test_when_nobody_speaks_nobody_is_given_up() -> None:
    scene = training()
    for _ in range(100):
        scene.plan(after=15)
        assert scene.wake is not None, "another job's pods may be heard again, and no event tells"
    assert scene.status.round is not None
    assert scene.status.round.number == 1
    assert not scene.created
    assert scene.status.message.startswith("no agent has reported since 2026-01-02 03:04:08Z")
    assert scene.status.workers.text == "2/2"


def test_the_first_pod_that_is_heard_again_condemns_nobody() -> None:
    scene = training(workers=3)
    scene.plan(after=300)
    scene.report(0)
    scene.plan()
    assert scene.status.round is not None
    assert not scene.created
    let_time_pass(scene, 3)
    assert scene.recovery.suspects == {}


def test_other_jobs_pods_tell_a_silent_pod_from_a_deaf_operator() -> None:
    scene = training(workers=1)
    for _ in range(13):
        scene.now += seconds(5)
        scene.last_heard_any = scene.now
        scene.plan()
    assert scene.current(0).incarnation == 2


def test_an_operators_restart_writes_nothing_and_restarts_nothing() -> None:
    scene = training()
    scene.now += seconds(600)
    scene.restart_operator()
    for _ in range(14):
        assert not any(isinstance(action, WriteStatus) for action in scene.plan(after=1))


def test_a_member_that_a_new_operator_never_hears_is_given_up_in_the_end() -> None:
    scene = training()
    scene.restart_operator()
    let_time_pass(scene, 55, 1)
    assert scene.status.round is not None
    let_time_pass(scene, 5, 1)
    assert scene.created == {(1, 2)}


def test_a_silent_pod_on_a_lost_node_is_given_up_at_once() -> None:
    scene = training()
    scene.change(1, node_lost=True)
    scene.now += seconds(15)
    scene.plan()
    assert scene.created == {(1, 2)}
    assert "its node n1 is lost" in scene.status.message


def test_a_pod_that_speaks_from_a_lost_node_stays() -> None:
    scene = training()
    scene.change(1, node_lost=True)
    let_time_pass(scene, 60)
    assert scene.status.round is not None
    assert scene.status.round.number == 1


def test_a_pod_of_unknown_phase_is_judged_like_one_on_a_lost_node() -> None:
    scene = training()
    scene.change(1, phase=PodPhase.UNKNOWN)
    let_time_pass(scene, 15, 1)
    assert scene.created == {(1, 2)}


def test_a_silent_pod_joins_no_round() -> None:
    scene = training()
    scene.now += seconds(16)
    scene.report(1, scene.result(1, Outcome.ERROR, 1))
    scene.plan()
    assert scene.status.round is None
    scene.report(0)
    scene.plan()
    assert scene.status.round is not None


# --- limits of a round ---


def starting(rank: int) -> list[RankView]:
    return [RankView(rank, RankState.STARTING)]


def begun(script: bool = False, **fields: object) -> Scene:
    """A job whose second round has just begun, its ranks still starting."""
    scene = training(script=script, **fields)
    scene.report(1, scene.result(1, Outcome.PORT_BUSY, 73))
    scene.report(0, scene.result(0, Outcome.PEER_LOST, 72))
    scene.plan()
    assert scene.status.round is not None
    assert scene.status.round.number == 2
    return scene


def keep_starting(scene: Scene, total_s: int, *, slow: tuple[int, ...]) -> None:
    for _ in range(total_s // 5):
        scene.now += seconds(5)
        for index in range(2):
            scene.report(index, ranks=starting(index) if index in slow else None)
        scene.plan()


def test_a_rank_without_a_first_step_stalls_its_round_after_the_init_limit() -> None:
    scene = begun(limits={"init": "1m"})
    keep_starting(scene, 55, slow=(1,))
    assert scene.status.round is not None
    assert scene.status.round.number == 2
    keep_starting(scene, 5, slow=(1,))
    assert scene.recovery.last_round == 3
    cause = scene.recovery.unsettled[0].cause
    assert cause is not None
    assert cause.reason is Outcome.STALLED
    assert cause.message.endswith("(limits.init): worker 1: no first step of rank 1")
    assert scene.recovery.unsettled[0].cause.counted  # type: ignore[union-attr]


def test_scripts_have_no_init_limit_on_what_they_do_not_tell() -> None:
    scene = begun(script=True)
    keep_starting(scene, 600, slow=(0, 1))
    assert scene.recovery.last_round == 2


@pytest.mark.parametrize("script", [False, True])
def test_an_agent_that_does_not_begin_the_round_stalls_it(script: bool) -> None:
    scene = begun(script=script, limits={"init": "1m"})
    for _ in range(12):
        scene.now += seconds(5)
        scene.report(0, round=1)
        scene.report(1)
        scene.plan()
    assert scene.recovery.last_round == 3
    ends = [*scene.status.failures, *(ended.cause for ended in scene.recovery.unsettled)]
    assert any(end is not None and "did not begin the round" in end.message for end in ends)


def test_what_was_heard_long_ago_stalls_nothing() -> None:
    scene = begun(limits={"init": "1m"})
    keep_starting(scene, 40, slow=(1,))
    scene.plan(after=60)
    assert scene.status.round is not None
    assert scene.status.round.number == 2


def quiet(scene: Scene, quiet_s: float, longest_step_s: float = 0.05) -> None:
    scene.report(0, ranks=[RankView(0, RankState.RUNNING, quiet_s / 2, 10, longest_step_s)])
    scene.report(1, ranks=[RankView(1, RankState.RUNNING, quiet_s, 10, 0.05)])
    scene.plan()


@pytest.mark.parametrize(
    ("step", "longest_step_s", "allowed_s"), [("auto", 0.05, 30), ("auto", 4.0, 80), ("90s", 4.0, 90), ("5s", 4.0, 5)]
)
def test_a_rank_without_a_step_stalls_its_round(step: str, longest_step_s: float, allowed_s: float) -> None:
    scene = training(limits={"step": step})
    quiet(scene, allowed_s, longest_step_s)
    assert scene.recovery.last_round == 1
    quiet(scene, allowed_s + 0.1, longest_step_s)
    assert scene.recovery.last_round == 2
    cause = scene.recovery.unsettled[0].cause
    assert cause is not None
    assert (cause.reason, cause.worker, cause.rank) == (Outcome.STALLED, 1, 1)


def test_ranks_that_are_quiet_are_looked_at_again_in_time() -> None:
    scene = training()
    quiet(scene, 26)
    assert scene.wake == scene.now + seconds(4)


def test_ranks_that_wait_for_a_silent_worker_are_not_stalled() -> None:
    scene = training()
    scene.now += seconds(35)
    scene.report(0, ranks=[RankView(0, RankState.RUNNING, 35.0, 10, 0.05)])
    scene.plan()
    assert scene.recovery.last_round == 1
    assert scene.status.round is not None


def test_ranks_have_the_whole_limit_again_once_a_silent_worker_is_heard() -> None:
    scene = training()
    scene.now += seconds(35)
    heard_again = scene.now

    def quiet_for(quiet_s: float) -> None:
        for index in (0, 1):
            view = RankView(index, RankState.RUNNING, quiet_s, 10, 0.05)
            scene.report(index, ranks=[view], heard_since=heard_again if index else None)
        scene.plan()

    quiet_for(35.0)
    assert scene.status.round is not None and scene.recovery.last_round == 1
    scene.now += seconds(31)
    quiet_for(66.0)
    cause = scene.recovery.unsettled[0].cause
    assert cause is not None and cause.reason is Outcome.STALLED


def test_a_rank_that_made_its_last_step_may_upload_for_as_long_as_a_checkpoint_may() -> None:
    scene = training(limits={"checkpoint": "5m"})
    scene.report(0, progress=Progress(step=100, total_steps=100))
    scene.plan()
    views = [RankView(0, RankState.RUNNING, 290.0, 100, 0.05)]
    scene.report(0, ranks=views)
    scene.plan()
    assert scene.recovery.last_round == 1
    scene.report(0, ranks=[RankView(0, RankState.RUNNING, 301.0, 100, 0.05)])
    scene.plan()
    assert scene.recovery.last_round == 2


def test_scripts_have_no_step_limit() -> None:
    scene = training(script=True, limits={"step": "5s"})
    for _ in range(100):
        scene.now += seconds(5)
        scene.hear_all(ranks=[RankView(0, RankState.RUNNING)])
        scene.plan()
    assert scene.recovery.last_round == 1
