"""One cause for each round that ended, whatever the order in which its facts arrive."""

from __future__ import annotations

from datetime import timedelta
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlcloud_operator.api import Failure, Outcome, Phase
from dlcloud_operator.core import PodPhase, RankResult

from .scene import Scene, seconds, training


def cause(scene: Scene) -> Failure:
    """The only verdict so far."""
    assert len(scene.status.failures) == 1, scene.status.failures
    assert scene.recovery.unsettled == []
    return scene.status.failures[0]


def told(scene: Scene, index: int, outcome: Outcome, code: int | None = 1, message: str = "") -> RankResult:
    return scene.result(index, outcome, code, message)


def test_the_verdict_falls_at_once_when_all_have_spoken() -> None:
    scene = training()
    scene.report(0, told(scene, 0, Outcome.PEER_LOST, 72))
    scene.report(1, told(scene, 1, Outcome.ERROR, 1, "Traceback\nValueError: no such column"))
    scene.plan()
    assert (cause(scene).reason, cause(scene).worker, cause(scene).rank) == (Outcome.ERROR, 1, 1)
    assert (cause(scene).exit_code, cause(scene).counted) == (1, True)
    assert scene.status.message == (
        "round 2 is starting on 2 workers; "
        "round 2 follows round 1: worker 1, rank 1: Error (exit code 1): ValueError: no such column"
    )


def test_the_verdict_waits_for_those_who_have_not_spoken() -> None:
    scene = training()
    scene.report(1, told(scene, 1, Outcome.PEER_LOST, 72))
    scene.plan()
    assert len(scene.recovery.unsettled) == 1
    assert scene.status.failures == []
    scene.report(0, RankResult(1, 0, Outcome.SIGNAL, scene.now, -9), round=1)
    scene.plan(after=1)
    assert cause(scene).reason is Outcome.SIGNAL


def test_after_ten_seconds_a_member_that_speaks_but_has_nothing_to_say_is_not_waited_for() -> None:
    scene = training()
    scene.report(1, told(scene, 1, Outcome.ERROR, 1))
    scene.plan()
    assert scene.recovery.unsettled
    scene.now += seconds(6)
    scene.report(0, round=1)
    scene.plan(after=3.9)
    assert scene.recovery.unsettled
    scene.plan(after=0.1)
    assert cause(scene).reason is Outcome.ERROR


def test_a_silent_member_is_waited_for_until_it_is_surely_lost_or_heard() -> None:
    scene = training()
    scene.report(1, told(scene, 1, Outcome.ERROR, 1))
    scene.plan()
    ended_at = scene.now
    while scene.now < ended_at + seconds(69):
        scene.now += seconds(3)
        scene.last_heard_any = scene.now - seconds(20)  # nobody else speaks: it is not given up for its silence
        scene.plan()
        assert scene.recovery.unsettled
    scene.plan(after=1)
    assert cause(scene).reason is Outcome.ERROR


def test_a_report_that_was_on_its_way_when_the_round_ended_is_no_sign_of_life() -> None:
    scene = training(script=True)
    scene.report(1, told(scene, 1, Outcome.ERROR, 1))
    scene.plan()
    scene.now += seconds(0.5)
    scene.report(0, round=1)  # the last word of a pod whose node is gone
    for _ in range(12):
        scene.now += seconds(5)
        scene.report(1)
        scene.plan()
    assert scene.recovery.counted_at == []
    assert scene.status.failures[0].reason is Outcome.POD_LOST


def test_a_lost_pod_explains_the_errors_of_its_peers() -> None:
    scene = training(script=True)
    scene.report(1, told(scene, 1, Outcome.ERROR, 1))
    scene.exit(0, 137)
    scene.plan()
    assert cause(scene).reason is Outcome.POD_LOST
    assert not cause(scene).counted
    assert scene.recovery.counted_at == []


def test_a_loss_that_shows_after_the_error_still_is_the_cause() -> None:
    scene = training(script=True)
    scene.report(1, told(scene, 1, Outcome.ERROR, 1))
    scene.plan()
    scene.now += seconds(3)
    scene.remove(0)
    scene.plan()
    assert {failure.reason for failure in scene.status.failures} == {Outcome.POD_LOST}
    assert scene.recovery.counted_at == []


def test_a_fact_is_kept_when_its_witness_vanishes_before_the_verdict() -> None:
    scene = training()
    scene.exit(1, 137, "OOMKilled")
    scene.plan()
    assert scene.recovery.unsettled
    del scene.pods["digits-1-1"]
    scene.now += seconds(1)
    scene.report(0, RankResult(1, 0, Outcome.PEER_LOST, scene.now, 72), round=1)
    scene.plan()
    assert cause(scene).reason is Outcome.OUT_OF_MEMORY


@pytest.mark.parametrize(
    ("gravest", "others"),
    [
        (Outcome.INVALID_INPUT, [Outcome.DRAINED, Outcome.STORE_UNUSABLE, Outcome.ERROR]),
        (Outcome.STORE_AWAY, [Outcome.OUT_OF_MEMORY, Outcome.ERROR, Outcome.PEER_LOST]),
        (Outcome.STORE_UNUSABLE, [Outcome.OUT_OF_MEMORY, Outcome.ERROR, Outcome.PEER_LOST]),
        (Outcome.OUT_OF_MEMORY, [Outcome.SIGNAL, Outcome.ERROR, Outcome.PEER_LOST]),
        (Outcome.PORT_BUSY, [Outcome.SIGNAL, Outcome.ERROR, Outcome.STALLED]),
        (Outcome.FORK_HANG, [Outcome.SIGNAL, Outcome.ERROR, Outcome.STALLED]),
        (Outcome.SIGNAL, [Outcome.ERROR, Outcome.STALLED, Outcome.PEER_LOST]),
        (Outcome.ERROR, [Outcome.FENCED, Outcome.PEER_LOST, Outcome.STOPPED]),
        (Outcome.STALLED, [Outcome.FENCED, Outcome.PEER_LOST, Outcome.STOPPED]),
        (Outcome.FENCED, [Outcome.PEER_LOST, Outcome.STOPPED, Outcome.SUCCEEDED]),
        (Outcome.PEER_LOST, [Outcome.STOPPED, Outcome.SUCCEEDED, Outcome.SUCCEEDED]),
    ],
)
def test_the_gravest_fact_is_the_cause_however_late_it_happened(gravest: Outcome, others: list[Outcome]) -> None:
    scene = training(workers=4)
    for index, outcome in enumerate(others):
        scene.report(index, told(scene, index, outcome))
    scene.now += seconds(2)
    scene.report(3, told(scene, 3, gravest))
    scene.plan()
    assert cause(scene).reason is gravest


COUNTED = {Outcome.OUT_OF_MEMORY, Outcome.SIGNAL, Outcome.ERROR, Outcome.STALLED}
ENDS_THE_JOB = {Outcome.INVALID_INPUT, Outcome.STORE_UNUSABLE}


@pytest.mark.parametrize("outcome", sorted(set(Outcome) - {Outcome.SUCCEEDED} - ENDS_THE_JOB))
def test_only_the_programs_own_failures_count(outcome: Outcome) -> None:
    scene = training(workers=1)
    scene.report(0, told(scene, 0, outcome))
    scene.plan()
    assert cause(scene).counted == (outcome in COUNTED)
    assert len(scene.recovery.counted_at) == (outcome in COUNTED)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_among_equal_causes_the_earliest_decides(order: tuple[int, ...]) -> None:
    scene = training(workers=3, script=True)
    for delay, index in enumerate(order):
        scene.report(index, told(scene, index, Outcome.ERROR))
        scene.now += seconds(0.1 * (delay + 1))
    scene.plan()
    assert cause(scene).worker == order[0]


def test_a_drained_rank_of_a_preempted_pod_was_preempted() -> None:
    scene = training(workers=1)
    scene.change(0, preempted=True)
    scene.report(0, told(scene, 0, Outcome.DRAINED, 75), draining=True)
    scene.plan()
    assert cause(scene).reason is Outcome.PREEMPTED
    assert "was evicted" in cause(scene).message, "why says more than the exit code of who obeyed"
    assert (cause(scene).rank, cause(scene).exit_code) == (None, None)


def test_a_rank_that_stopped_with_a_pod_that_is_gone_is_not_the_cause() -> None:
    scene = training()
    scene.report(0, told(scene, 0, Outcome.DRAINED, 75))  # the operator was away when worker 1 was deleted
    del scene.pods["digits-1-1"]
    scene.now += seconds(30)
    scene.plan()
    assert (cause(scene).reason, cause(scene).worker) == (Outcome.POD_LOST, 1)


def test_a_script_killed_by_the_deletion_of_its_pod_costs_nothing() -> None:
    scene = training(workers=1, script=True)
    scene.change(0, deleting=True)
    scene.report(0, told(scene, 0, Outcome.SIGNAL, -15))
    scene.plan()
    assert cause(scene).reason is Outcome.POD_LOST


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("OOMKilled", Outcome.OUT_OF_MEMORY),
        ("Evicted", Outcome.PREEMPTED),
        ("Error", Outcome.POD_LOST),
        ("", Outcome.POD_LOST),
    ],
)
def test_a_pod_that_ends_without_a_word_is_judged_by_the_kubelets(reason: str, expected: Outcome) -> None:
    scene = training(workers=1)
    scene.exit(0, 137, reason)
    scene.plan()
    assert cause(scene).reason is expected


def test_a_pods_termination_message_speaks_for_its_ranks() -> None:
    scene = training(workers=1)
    scene.exit(0, 1, "Error", "", told(scene, 0, Outcome.ERROR, 1, "ValueError: x"))
    scene.plan()
    assert (cause(scene).reason, cause(scene).message) == (Outcome.ERROR, "ValueError: x")


def test_a_pod_deleted_for_its_silent_node_says_which_node_is_lost() -> None:
    scene = training()
    scene.change(1, deleting=True, node_lost=True)
    scene.plan()
    assert "pod digits-1-1 was deleted because its node is lost: n1" in scene.status.message


def test_an_agent_that_told_all_before_its_pod_went_was_not_lost() -> None:
    scene = training(workers=1)
    scene.report(0, told(scene, 0, Outcome.ERROR, 1))
    scene.remove(0)
    scene.plan()
    assert cause(scene).reason is Outcome.ERROR


def test_peers_that_lost_each_other_do_not_count() -> None:
    scene = training()
    for index in range(2):
        scene.report(index, told(scene, index, Outcome.PEER_LOST, 72))
    scene.plan()
    assert cause(scene).reason is Outcome.PEER_LOST
    assert scene.recovery.counted_at == []


def test_a_long_message_keeps_its_end_within_a_kibibyte() -> None:
    scene = training(workers=1)
    scene.report(0, told(scene, 0, Outcome.ERROR, 1, "é" * 5000 + "\nValueError: at the end"))
    scene.plan()
    assert cause(scene).message.endswith("ValueError: at the end")
    assert len(cause(scene).message.encode()) <= 1024


def test_bad_input_fails_the_job_at_once() -> None:
    scene = training()
    scene.report(1, told(scene, 1, Outcome.INVALID_INPUT, 64, "s3://data/x: not an IDX file"))
    scene.plan()
    assert scene.phase is Phase.FAILED
    assert scene.condition("Failed").reason == "InvalidInput"
    assert "not an IDX file" in scene.status.message


def test_an_unusable_store_fails_the_job_when_no_pod_was_lost() -> None:
    scene = training()
    scene.report(1, told(scene, 1, Outcome.STORE_UNUSABLE, 77, "no conditional writes"))
    scene.plan()
    assert scene.phase is Phase.RESTARTING, "a lost pod could still explain it"
    assert scene.status.round is None
    scene.report(0, told(scene, 0, Outcome.PEER_LOST, 72))
    scene.plan()
    assert scene.condition("Failed").reason == "StoreUnusable"


def test_a_store_that_went_with_a_node_does_not_fail_the_job() -> None:
    scene = training()
    scene.report(1, told(scene, 1, Outcome.STORE_UNUSABLE, 77))
    scene.plan()
    scene.exit(0, 137)
    scene.plan()
    assert scene.phase is Phase.RESTARTING
    assert cause(scene).reason is Outcome.POD_LOST


def test_no_round_begins_while_the_verdict_may_end_the_job() -> None:
    scene = training(restart={"maxFailures": 0})
    scene.report(1, told(scene, 1, Outcome.ERROR))
    scene.plan()
    assert scene.status.round is None
    assert scene.status.message.endswith("finding the cause before another round begins")


def test_an_operator_that_restarts_listens_before_it_settles() -> None:
    scene = training(script=True)
    scene.report(1, told(scene, 1, Outcome.ERROR))
    scene.plan()
    scene.now += seconds(120)
    scene.restart_operator()
    scene.plan()
    assert scene.recovery.unsettled
    scene.remove(0)
    scene.plan(after=2)
    scene.report(1)
    scene.plan()
    assert scene.recovery.counted_at == []


def test_the_status_never_holds_more_open_rounds_than_it_may() -> None:
    scene = training()
    for _ in range(20):
        scene.now += seconds(0.1)
        scene.write(recovery=scene.recovery.model_copy(update={"fruitless_rounds": 0}))
        scene.report(0)  # it lives, and says nothing of the rounds that ended
        scene.report(1, told(scene, 1, Outcome.STOPPED))
        scene.plan()
    assert scene.recovery.last_round == 21
    assert len(scene.recovery.unsettled) == 16
    assert [failure.round for failure in scene.status.failures] == [1, 2, 3, 4]


def test_a_verdict_that_is_open_is_looked_at_again() -> None:
    scene = training()
    scene.report(1, told(scene, 1, Outcome.ERROR, 1))
    scene.plan()
    ended_at = scene.now
    assert scene.wake == ended_at + seconds(10)
    scene.now += seconds(4)
    scene.report(1)
    scene.plan(after=6)  # worker 0 has said nothing since
    assert scene.wake == ended_at + seconds(12)


@settings(max_examples=60)
@given(
    workers=st.integers(2, 5),
    lost=st.sets(st.integers(0, 4), min_size=1, max_size=4),
    order=st.permutations(list(range(5))),
    delays=st.lists(st.floats(0, 8), min_size=5, max_size=5),
    how=st.lists(st.sampled_from(["gone", "failed", "deleting", "node", "evicted"]), min_size=5, max_size=5),
    late_word=st.booleans(),
)
def test_lost_pods_leave_the_budget_untouched_in_any_order_of_arrival(
    workers: int, lost: set[int], order: list[int], delays: list[float], how: list[str], late_word: bool
) -> None:
    scene = training(workers=workers, script=True, restart={"maxFailures": 0})
    lost = {index for index in lost if index < workers} or {0}
    uids = {index: scene.current(index).uid for index in range(workers)}
    names = {index: scene.current(index).name for index in range(workers)}
    if late_word:
        for index in sorted(lost):
            scene.report(index)
    for index, delay in zip([one for one in order if one < workers], delays, strict=False):
        scene.now += seconds(delay)
        pod = scene.pods[names[index]]
        if index not in lost:
            result = RankResult(1, index, Outcome.ERROR, scene.now, 1, "connection closed by peer")
            scene.report(index, result, pod=pod, round=1)
        elif how[index] == "gone":
            del scene.pods[pod.name]
        elif how[index] == "failed":
            scene.change(pod.name, phase=PodPhase.FAILED)
        elif how[index] == "deleting":
            scene.change(pod.name, deleting=True)
        elif how[index] == "evicted":
            scene.change(pod.name, phase=PodPhase.FAILED, preempted=True)
        else:
            scene.change(pod.name, node_lost=True)
        scene.plan()
    for _ in range(50):
        scene.now += timedelta(seconds=2)
        for index in range(workers):
            if index not in lost:
                scene.report(index, pod=scene.pods[names[index]], round=1)
        scene.plan()
        first = {ended.round.number for ended in scene.recovery.unsettled}
        if 1 not in first:
            break
    assert uids
    assert scene.recovery.counted_at == []
    assert scene.phase is not Phase.FAILED
    assert {failure.reason for failure in scene.status.failures} <= {Outcome.POD_LOST, Outcome.PREEMPTED}
