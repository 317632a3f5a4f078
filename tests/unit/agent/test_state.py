"""The agent's decisions, fed with values: no process, no clock, no thread."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from dlcloud_trainer.agent.ledger import Ledger
from dlcloud_trainer.agent.state import KILL_LIMIT_S, SILENCE_S, AgentState
from dlcloud_trainer.agent.values import (
    Assignment,
    Exit,
    Finished,
    Launch,
    Moment,
    OfferPort,
    RankId,
    Report,
    RestartZygote,
    Signal,
    StartZygote,
)
from dlcloud_trainer.agent.wire import read_instruction


def at(seconds: float, oom_kills: int | None = None) -> Moment:
    return Moment(seconds, 1_700_000_000 + seconds, oom_kills)


def assignment(number: int, ranks: tuple[int, ...] = (0,), **more: Any) -> Assignment:
    data = {
        "kind": "round", "round": number, "nonce": "n", "ranks": list(ranks), "worldSize": 4, "workers": 2, "index": 0,
        "masterAddr": "10.0.0.1", "masterPort": 29500, "threads": 1, "restarts": 0, "job": {}, **more,
    }  # fmt: skip
    read = read_instruction(json.dumps(data).encode())
    assert isinstance(read, Assignment)
    return read


def new_state(workload: bool = False) -> AgentState:
    ledger = Ledger(workload=workload, address="10.0.0.2", port=1)
    return AgentState(ledger, drain_s=30, fork_limit_s=20)


def ready_state(workload: bool = False) -> AgentState:
    state = new_state(workload)
    state.on_zygote_ready(at(0))
    return state


def running_state(ranks: tuple[int, ...] = (0,), workload: bool = False, oom_kills: int | None = None) -> AgentState:
    state = ready_state(workload)
    state.on_assignment(assignment(1, ranks), at(1, oom_kills))
    for rank in ranks:
        state.on_event(RankId(1, rank), {"event": "forked"}, at(1.1))
    return state


def of(effects: list[Any], kind: type) -> list[Any]:
    return [effect for effect in effects if isinstance(effect, kind)]


def outcomes(state: AgentState) -> dict[tuple[int, int], str]:
    return {(result.round, result.rank): result.outcome for result in state.ledger.results}


def test_a_round_waits_for_the_zygotes_imports() -> None:
    state = new_state()
    assert not of(state.on_assignment(assignment(1), at(0)), Launch)
    (launch,) = of(state.on_zygote_ready(at(1)), Launch)
    assert (launch.id, launch.cold) == (RankId(1, 0), False)


def test_a_round_launches_each_rank_with_its_local_number_after_offering_a_port() -> None:
    effects = ready_state().on_assignment(assignment(1, (2, 3)), at(0))
    assert of(effects, OfferPort) == [OfferPort(avoid=29500)]
    assert [(launch.id.rank, launch.local_rank) for launch in of(effects, Launch)] == [(2, 0), (3, 1)]
    assert effects.index(of(effects, OfferPort)[0]) < effects.index(of(effects, Launch)[0])


@pytest.mark.parametrize("number", [1, 2])
def test_an_equal_or_lower_round_changes_nothing(number: int) -> None:
    state = ready_state()
    state.on_assignment(assignment(2), at(0))
    assert state.on_assignment(assignment(number, (1,)), at(1)) == []
    assert state.ledger.round == 2


def test_a_rank_that_was_over_before_it_was_killed_for_the_next_round_keeps_its_own_end() -> None:
    state = running_state((0, 1))
    state.on_assignment(assignment(2, (0, 1)), at(2))
    state.on_rank_exit(RankId(1, 0), -9, "", at(2.1), killed=False)
    state.on_rank_exit(RankId(1, 1), -9, "", at(2.2), killed=True)
    assert outcomes(state) == {(1, 0): "Signal", (1, 1): "Stopped"}


def test_a_newer_round_kills_first_and_launches_when_all_are_reaped() -> None:
    state = running_state((0, 1))
    effects = state.on_assignment(assignment(2, (0, 1)), at(2))
    assert of(effects, Signal) == [Signal(RankId(1, 0), signal.SIGKILL), Signal(RankId(1, 1), signal.SIGKILL)]
    assert not of(effects, Launch)
    assert not of(state.on_rank_exit(RankId(1, 0), -9, "", at(2.1)), Launch)
    assert len(of(state.on_rank_exit(RankId(1, 1), -9, "", at(2.2)), Launch)) == 2
    assert outcomes(state) == {(1, 0): "Stopped", (1, 1): "Stopped"}


def test_a_rank_that_had_failed_before_the_newer_round_keeps_its_own_cause() -> None:
    state = running_state()
    state.on_assignment(assignment(2), at(2))
    state.on_rank_exit(RankId(1, 0), 1, "ValueError: x", at(2.1))
    assert outcomes(state)[1, 0] == "Error"


def test_two_rounds_in_quick_succession_launch_only_the_last() -> None:
    state = running_state()
    state.on_assignment(assignment(2), at(2))
    state.on_assignment(assignment(3), at(2.1))
    effects = state.on_rank_exit(RankId(1, 0), -9, "", at(2.2))
    assert [launch.id for launch in of(effects, Launch)] == [RankId(3, 0)]
    assert outcomes(state) == {(1, 0): "Stopped", (2, 0): "Stopped"}


def test_results_of_the_last_three_rounds_are_kept() -> None:
    state = ready_state()
    for number in range(1, 6):
        state.on_assignment(assignment(number), at(number))
        state.on_rank_exit(RankId(number, 0), 1, "", at(number))
    assert {result.round for result in state.ledger.results} == {3, 4, 5}


def test_a_rank_that_cannot_be_reaped_is_given_up_with_its_zygote() -> None:
    state = running_state()
    state.on_assignment(assignment(2), at(2))
    assert state.tick(at(2 + KILL_LIMIT_S - 0.1), 0) == []
    assert state.next_deadline(0) == 2 + KILL_LIMIT_S
    effects = state.tick(at(2 + KILL_LIMIT_S), 0)
    assert of(effects, RestartZygote)
    assert of(state.on_zygote_ready(at(9)), Launch)[0].id == RankId(2, 0)


def test_a_silent_fork_is_a_fork_hang_its_peers_stop_and_the_zygote_is_replaced() -> None:
    state = ready_state()
    state.on_assignment(assignment(1, (0, 1)), at(1))
    state.on_event(RankId(1, 0), {"event": "forked"}, at(1.1))
    assert state.next_deadline(0) == 21
    effects = state.tick(at(21), 0)
    assert outcomes(state) == {(1, 0): "Stopped", (1, 1): "ForkHang"}
    assert len(of(effects, Signal)) == 2
    assert of(effects, RestartZygote)


def test_a_failed_import_fails_the_waiting_round_and_the_next_one_tries_again() -> None:
    state = new_state()
    state.on_assignment(assignment(1), at(0))
    effects = state.on_zygote_ended(1, "ImportError: libcuda.so", at(1))
    assert not of(effects, StartZygote)
    assert (state.ledger.results[0].outcome, state.ledger.results[0].message) == ("Error", "ImportError: libcuda.so")
    assert of(state.on_assignment(assignment(2), at(2)), StartZygote)
    assert of(state.on_zygote_ready(at(3)), Launch)[0].id == RankId(2, 0)


def test_an_import_that_failed_before_any_round_is_charged_to_the_first() -> None:
    state = new_state()
    assert state.on_zygote_ended(1, "ImportError: x", at(1)) == []
    state.on_assignment(assignment(1), at(2))
    assert outcomes(state) == {(1, 0): "Error"}


def test_a_crashed_zygote_ends_its_ranks_and_is_replaced_at_once() -> None:
    state = running_state((0, 1))
    effects = state.on_zygote_ended(-11, "", at(2))
    assert of(effects, StartZygote)
    assert set(outcomes(state).values()) == {"Error"}
    assert "SIGSEGV" in state.ledger.results[0].message


def test_a_zygote_the_kernel_killed_for_memory_is_out_of_memory() -> None:
    state = running_state(oom_kills=3)
    state.on_zygote_ended(-9, "", at(2, oom_kills=4))
    assert outcomes(state) == {(1, 0): "OutOfMemory"}


def test_without_our_package_scripts_start_cold_and_workloads_fail() -> None:
    state = new_state()
    state.on_zygote_absent(at(0))
    assert of(state.on_assignment(assignment(1), at(1)), Launch)[0].cold
    workload = new_state(workload=True)
    workload.on_zygote_absent(at(0))
    assert not of(workload.on_assignment(assignment(1), at(1)), Launch)
    assert outcomes(workload) == {(1, 0): "Error"}


def test_each_process_the_kernel_killed_explains_one_killed_rank_only() -> None:
    state = running_state((0, 1), oom_kills=5)
    state.on_rank_exit(RankId(1, 0), -9, "", at(2, oom_kills=6))
    state.on_rank_exit(RankId(1, 1), -9, "", at(2, oom_kills=6))
    assert outcomes(state) == {(1, 0): "OutOfMemory", (1, 1): "Signal"}


def test_kills_of_an_earlier_round_are_no_claim_in_the_next() -> None:
    state = running_state(oom_kills=5)
    state.on_rank_exit(RankId(1, 0), 1, "", at(2, oom_kills=6))
    state.on_assignment(assignment(2), at(3, oom_kills=6))
    state.on_rank_exit(RankId(2, 0), -9, "", at(4, oom_kills=6))
    assert outcomes(state)[2, 0] == "Signal"


def test_where_the_count_cannot_be_read_nothing_is_claimed() -> None:
    state = running_state()
    state.on_rank_exit(RankId(1, 0), -9, "", at(2))
    assert outcomes(state) == {(1, 0): "Signal"}


def test_sigterm_is_passed_on_then_the_ranks_are_killed_then_the_agent_leaves() -> None:
    state = running_state()
    effects = state.on_sigterm(at(10))
    assert of(effects, Signal) == [Signal(RankId(1, 0), signal.SIGTERM)]
    assert state.report(10)["draining"]
    assert state.on_sigterm(at(11)) == []
    assert state.next_deadline(0) == 40
    assert of(state.tick(at(40), 0), Signal) == [Signal(RankId(1, 0), signal.SIGKILL)]
    assert of(state.on_rank_exit(RankId(1, 0), -9, "", at(41)), Exit) == [Exit(143)]
    assert outcomes(state) == {(1, 0): "Stopped"}


def test_while_draining_no_round_begins() -> None:
    state = running_state()
    state.on_sigterm(at(10))
    assert state.on_assignment(assignment(2), at(11)) == []


def test_a_drained_rank_of_ours_says_so_and_the_agent_exits_143() -> None:
    state = running_state(workload=True)
    state.on_sigterm(at(10))
    assert of(state.on_rank_exit(RankId(1, 0), 75, "", at(12)), Exit) == [Exit(143)]
    assert outcomes(state) == {(1, 0): "Drained"}


def test_a_rank_that_outlives_sigkill_does_not_hold_the_agent() -> None:
    state = running_state()
    state.on_sigterm(at(10))
    state.tick(at(40), 0)
    assert of(state.tick(at(40 + KILL_LIMIT_S), 0), Exit) == [Exit(143)]


@pytest.mark.parametrize(("phase", "code"), [("Succeeded", 0), ("Failed", 1), ("Suspended", 1)])
def test_finished_kills_what_runs_and_leaves(phase: str, code: int) -> None:
    state = running_state()
    effects = state.on_finished(Finished(phase), at(5))
    assert of(effects, Signal) == [Signal(RankId(1, 0), signal.SIGKILL)]
    assert not of(effects, Exit)
    assert of(state.on_rank_exit(RankId(1, 0), -9, "", at(5.1)), Exit) == [Exit(code)]


def test_finished_with_nothing_running_leaves_at_once() -> None:
    assert of(new_state().on_finished(Finished("Succeeded"), at(5)), Exit) == [Exit(0)]


def test_an_operator_silent_after_success_lets_the_agent_go_and_only_then() -> None:
    state = running_state()
    state.on_rank_exit(RankId(1, 0), 0, "", at(100))
    assert state.next_deadline(heard_at=150) == 150 + SILENCE_S
    assert state.tick(at(150 + SILENCE_S - 1), heard_at=150) == []
    assert of(state.tick(at(150 + SILENCE_S), heard_at=150), Exit) == [Exit(0)]


def test_after_a_failure_the_agent_waits_for_ever() -> None:
    state = running_state((0, 1))
    state.on_rank_exit(RankId(1, 0), 0, "", at(100))
    state.on_rank_exit(RankId(1, 1), 1, "", at(100))
    assert state.next_deadline(0) is None
    assert state.tick(at(1e6), 0) == []


def test_a_workload_runs_from_its_first_step_and_a_script_from_its_fork() -> None:
    script, workload = running_state(), running_state(workload=True)
    assert script.report(2)["ranks"][0] == {
        "rank": 0, "state": "running", "step": None, "quietS": None, "longestStepS": None,
    }  # fmt: skip
    assert workload.report(2)["ranks"][0]["state"] == "starting"
    effects = workload.on_event(RankId(1, 0), {"event": "step", "step": 7, "longestStepS": 0.5}, at(3))
    assert of(effects, Report) == [Report(urgent=True)]
    assert workload.report(3.25)["ranks"][0] == {
        "rank": 0, "state": "running", "step": 7, "quietS": 0.25, "longestStepS": 0.5,
    }  # fmt: skip
    assert workload.on_event(RankId(1, 0), {"event": "step", "step": 8}, at(4)) == [Report(urgent=False)]


def test_what_rank_0_tells_is_reported_and_forgotten_when_rank_0_moves_away() -> None:
    state = running_state(workload=True)
    state.on_event(RankId(1, 0), {"event": "progress", "epoch": 1, "loss": 0.5, "else": 1}, at(2))
    state.on_event(RankId(1, 0), {"event": "checkpoint", "step": 5, "uri": "s3://x", "committedAt": "t"}, at(2))
    assert state.report(2)["progress"] == {"epoch": 1, "loss": 0.5}
    assert state.report(2)["checkpoint"] == {"step": 5, "uri": "s3://x", "committedAt": "t"}
    state.on_assignment(assignment(2, (1,)), at(3))
    assert state.report(3)["progress"] is None
    assert state.report(3)["checkpoint"] is None


def test_a_warning_is_reported_with_its_time() -> None:
    state = running_state(workload=True)
    state.on_event(RankId(1, 0), {"event": "warning", "reason": "LossNotFinite", "message": "step 3"}, at(2))
    assert state.report(2)["warnings"] == [
        {"reason": "LossNotFinite", "message": "step 3", "at": "2023-11-14T22:13:22.000000Z"}
    ]


def test_a_rank_that_says_why_it_fails_is_believed() -> None:
    state = running_state(workload=True)
    state.on_event(RankId(1, 0), {"event": "failed", "outcome": "InvalidInput", "message": "data.uri: no"}, at(2))
    state.on_rank_exit(RankId(1, 0), 1, "Traceback", at(2))
    assert (state.ledger.results[0].outcome, state.ledger.results[0].message) == ("InvalidInput", "data.uri: no")


@pytest.mark.parametrize("event", [{"event": "step"}, {"event": "step", "step": "x"}, {"event": "unknown"}])
def test_a_line_that_makes_no_sense_changes_nothing(event: dict[str, Any]) -> None:
    state = running_state(workload=True)
    before = state.report(2)
    assert state.on_event(RankId(1, 0), event, at(2)) == []
    assert state.report(2) == before


def test_happenings_of_unknown_ranks_are_ignored() -> None:
    state = running_state()
    assert state.on_rank_exit(RankId(7, 7), 1, "", at(2)) == []
    assert state.on_event(RankId(7, 7), {"event": "failed"}, at(2)) == []
    assert state.on_launch_failed(RankId(7, 7), "", at(2)) == []


def test_a_rank_that_cannot_be_started_fails_with_the_reason() -> None:
    state = ready_state()
    state.on_assignment(assignment(1), at(1))
    state.on_launch_failed(RankId(1, 0), "fork: Cannot allocate memory", at(1))
    assert state.ledger.results[0].message == "fork: Cannot allocate memory"


def test_the_end_of_a_warning_takes_its_place() -> None:
    state = running_state(workload=True)
    state.on_event(RankId(1, 0), {"event": "warning", "reason": "CheckpointUploadFailed", "message": "no"}, at(2))
    state.on_event(RankId(1, 0), {"event": "recovered", "reason": "CheckpointUploadFailed", "message": "yes"}, at(3))
    assert state.report(3)["warnings"] == [
        {"reason": "CheckpointUploadFailed", "message": "yes", "at": "2023-11-14T22:13:23.000000Z", "over": True}
    ]
    state.on_event(RankId(1, 0), {"event": "warning", "reason": "CheckpointUploadFailed", "message": "again"}, at(4))
    (warning,) = state.report(4)["warnings"]
    assert warning["message"] == "again" and "over" not in warning
