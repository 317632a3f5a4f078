"""JSON in and out of the agent."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from dlcloud_trainer.agent.outcome import SEVERITY
from dlcloud_trainer.agent.values import Assignment, Finished, Result
from dlcloud_trainer.agent.wire import (
    encode_report,
    finite,
    read_event,
    read_instruction,
    result_json,
    termination_message,
    time_text,
)

ROUND = {
    "kind": "round", "round": 3, "nonce": "n", "ranks": [0], "worldSize": 2, "workers": 2, "index": 1,
    "masterAddr": "10.0.0.7", "masterPort": 29503, "threads": 2, "restarts": 2, "job": {"uid": "u"}, "newer": True,
}  # fmt: skip


def result(number: int = 1, rank: int = 0, word: str = "Error", message: str = "m") -> Result:
    return Result(number, rank, word, 1, 1_700_000_000.25, message)


def test_a_round_is_read_and_its_unknown_keys_reach_the_rank() -> None:
    read = read_instruction(json.dumps(ROUND).encode())
    assert isinstance(read, Assignment)
    assert (read.round, read.worker, read.master_port, read.threads) == (3, 1, 29503, 2)
    assert json.loads(read.text) == ROUND


def test_finished_is_read() -> None:
    assert read_instruction(b'{"kind": "finished", "phase": "Failed"}') == Finished("Failed")


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"kind": "else"}', json.dumps({**ROUND, "ranks": []}).encode(),
     json.dumps({**ROUND, "round": 0}).encode(), json.dumps({**ROUND, "masterPort": None}).encode(),
     json.dumps({key: value for key, value in ROUND.items() if key != "nonce"}).encode()],
)  # fmt: skip
def test_an_instruction_that_makes_no_sense_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError):
        read_instruction(body)


def test_the_command_of_a_script_is_its_command_and_args() -> None:
    job = {"script": {"command": ["python", "train.py"], "args": ["--lr", "1"]}}
    read = read_instruction(json.dumps({**ROUND, "job": job}).encode())
    assert isinstance(read, Assignment)
    assert read.command == ("python", "train.py", "--lr", "1")


@pytest.mark.parametrize("line", [b"", b"x", b"[]", b"{}", b'{"event": 3}', b'"event"', b"[" * 100_000, b"\xff"])
def test_a_line_that_is_no_event_is_none(line: bytes) -> None:
    assert read_event(line) is None


def test_numbers_that_are_not_finite_never_leave_the_agent() -> None:
    event = read_event(b'{"event": "progress", "loss": NaN, "epoch": 1, "metrics": {"a": Infinity, "b": 1.5}}')
    assert event == {"event": "progress", "epoch": 1, "metrics": {"b": 1.5}}
    assert finite({"a": None, "b": [float("nan"), 1]}) == {"a": None, "b": [None, 1]}


def test_times_are_rfc_3339_with_microseconds() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 123456, tzinfo=UTC)
    assert time_text(moment.timestamp()) == "2026-01-02T03:04:05.123456Z"
    assert time_text(moment.timestamp() - 0.123456 - 1e-9) == "2026-01-02T03:04:05.000000Z"


def test_a_result_has_the_fields_of_the_protocol() -> None:
    assert result_json(result()) == {
        "round": 1, "rank": 0, "outcome": "Error", "exitCode": 1, "endedAt": "2023-11-14T22:13:20.250000Z",
        "message": "m",
    }  # fmt: skip


def report_with(results: list[Result]) -> dict[str, Any]:
    return {"round": 1, "results": [result_json(r) for r in results], "progress": None, "warnings": []}


def test_a_report_stays_below_64_kib_by_shortening_messages_first() -> None:
    results = [result(number, rank, message="x" * 2000) for number in range(1, 4) for rank in range(40)]
    body = encode_report(report_with(results), 0)
    assert len(body) <= 64 * 1024
    assert len(json.loads(body)["results"]) == 120


def test_a_report_that_no_shortening_saves_drops_the_oldest_results() -> None:
    body = encode_report(report_with([result(1 + rank // 1000, rank) for rank in range(3000)]), 0)
    assert len(body) <= 64 * 1024
    assert json.loads(body)["results"][-1]["rank"] == 2999


def test_the_termination_message_names_the_most_telling_result_of_the_newest_round() -> None:
    words = json.loads(
        termination_message([result(1, 0, "OutOfMemory"), result(2, 0, "PeerLost"), result(2, 1, "Error", "why")], 0)
    )
    assert (words["outcome"], words["exitCode"], words["message"]) == ("Error", 1, "why")
    assert [r["round"] for r in words["results"]] == [2, 2, 1]


@pytest.mark.parametrize("count", [0, 1, 16, 48, 500])
def test_the_termination_message_fits_into_4_kib(count: int) -> None:
    results = [result(1 + n % 3, n, SEVERITY[n % len(SEVERITY)], "é" * 2000) for n in range(count)]
    body = termination_message(results, 0)
    assert len(body) <= 4096
    assert json.loads(body)["outcome"] in SEVERITY


def test_a_lone_surrogate_in_a_message_does_not_break_a_report() -> None:
    event = read_event(b'{"event": "failed", "message": "\\ud800"}')
    assert event is not None
    encode_report(report_with([result(message=event["message"])]), 0).decode()
