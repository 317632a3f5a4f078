"""What agents send is checked field by field; their clocks and numbers are not trusted."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlcloud_operator.api import Outcome
from dlcloud_operator.core.model import RankState, RankView, Report
from dlcloud_operator.engine.rendezvous.messages import BadMessage, parse_report, parse_termination

from .memory_cluster import T0

SENT = "2020-05-05T05:05:05.500000Z"  # the agent's clock is years behind
FULL: dict[str, Any] = {
    "sentAt": SENT, "round": 3, "address": "10.0.0.7", "port": 29511, "draining": False,
    "ranks": [{"rank": 0, "state": "running", "step": 120, "quietS": 0.2, "longestStepS": 0.05}],
    "results": [{"round": 2, "rank": 0, "outcome": "Stopped", "exitCode": -9, "message": "",
                 "endedAt": "2020-05-05T05:05:03.500000Z"}],
    "progress": {"epoch": 2, "epochs": 10, "step": 120, "totalSteps": 300, "samples": 7680, "loss": 0.41,
                 "samplesPerSecond": 4100.0, "metrics": {"validationAccuracy": 0.91}},
    "checkpoint": {"step": 100, "uri": "s3://b/m.json", "committedAt": "2026-01-01T00:00:00Z", "sizeBytes": 2400000},
    "warnings": [{"reason": "SlowStore", "message": "upload takes 9 s", "at": "2020-05-05T05:05:04.500000Z"}],
}  # fmt: skip


def parse(**changes: Any) -> Report:
    return parse_report(json.dumps({**FULL, **changes}).encode(), "u0", T0).report


def test_a_full_report_keeps_every_field() -> None:
    report = parse()
    assert (report.pod_uid, report.received_at, report.round, report.address, report.port, report.draining) == (
        "u0", T0, 3, "10.0.0.7", 29511, False,
    )  # fmt: skip
    assert report.ranks == (RankView(0, RankState.RUNNING, quiet_s=0.2, step=120, longest_step_s=0.05),)
    assert report.progress is not None
    assert report.progress.model_dump(exclude_none=True) == {
        "epoch": 2, "epochs": 10, "step": 120, "total_steps": 300, "samples": 7680, "loss": 0.41,
        "samples_per_second": 4100.0, "metrics": {"validationAccuracy": 0.91}, "reported_at": T0,
    }  # fmt: skip
    assert report.checkpoint is not None
    assert (report.checkpoint.step, report.checkpoint.uri, report.checkpoint.size_bytes) == (
        100,
        "s3://b/m.json",
        2400000,
    )


def test_times_are_moved_onto_the_operators_clock() -> None:
    report = parse()
    assert report.results[0].ended_at == T0 - timedelta(seconds=2)
    assert report.warnings[0].at == T0 - timedelta(seconds=1)


def test_an_end_in_the_agents_future_is_now() -> None:
    result = {**FULL["results"][0], "endedAt": "9999-12-31T23:59:59Z"}
    assert parse(results=[result]).results[0].ended_at == T0


def test_an_end_in_the_year_one_does_not_break_the_arithmetic() -> None:
    result = {**FULL["results"][0], "endedAt": "0001-01-01T00:00:00Z"}
    assert parse(results=[result]).results[0].ended_at < T0


def test_a_script_tells_nothing_of_its_steps() -> None:
    ranks = [{"rank": 1, "state": "starting", "step": None, "quietS": None, "longestStepS": None}]
    assert parse(ranks=ranks).ranks == (RankView(1, RankState.STARTING),)


def test_fields_of_a_newer_agent_are_ignored() -> None:
    assert parse(colour="blue").round == 3


def test_the_shortest_report_is_enough() -> None:
    body = json.dumps({"sentAt": SENT, "round": 0, "address": "10.0.0.7", "port": 29500}).encode()
    report = parse_report(body, "u0", T0).report
    assert (report.round, report.ranks, report.results, report.progress) == (0, (), (), None)


@pytest.mark.parametrize("loss", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_loss_that_is_not_finite_is_dropped_and_becomes_a_warning(loss: str) -> None:
    body = json.dumps({**FULL, "warnings": []}).replace('"loss": 0.41', f'"loss": {loss}').encode()
    report = parse_report(body, "u0", T0).report
    assert report.progress is not None
    assert report.progress.loss is None
    assert report.progress.step == 120
    assert [warning.reason for warning in report.warnings] == ["LossNotFinite"]


def test_a_metric_that_is_not_finite_is_dropped_and_named() -> None:
    report = parse(progress={"metrics": {"accuracy": 0.5, "perplexity": float("inf")}})
    assert report.progress is not None
    assert report.progress.metrics == {"accuracy": 0.5}
    assert "perplexity" in report.warnings[-1].message


def test_an_agents_own_warning_of_the_loss_is_not_doubled() -> None:
    warning = {"reason": "LossNotFinite", "message": "loss is nan at step 7", "at": SENT}
    report = parse(progress={"loss": float("nan")}, warnings=[warning])
    assert [one.message for one in report.warnings] == ["loss is nan at step 7"]


def test_a_long_message_keeps_its_end() -> None:
    result = {**FULL["results"][0], "message": "x" * 2000 + "ValueError: the end"}
    message = parse(results=[result]).results[0].message
    assert len(message) == 1024
    assert message.endswith("ValueError: the end")


def test_control_characters_do_not_reach_the_status() -> None:
    result = {**FULL["results"][0], "message": "a\x00b\x1b[31mc\nd"}
    assert parse(results=[result]).results[0].message == "a\ufffdb\ufffd[31mc\nd"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"round": -1}, "round"),
        ({"round": "3"}, "round"),
        ({"round": True}, "round"),
        ({"round": 2.0**60}, "round"),
        ({"round": None}, "round"),
        ({"port": 70000}, "port"),
        ({"address": "10.0.0.7; rm"}, "address"),
        ({"address": "a" * 254}, "address"),
        ({"draining": "yes"}, "draining"),
        ({"sentAt": "yesterday"}, "sentAt"),
        ({"sentAt": "2026-01-02T03:04:05"}, "sentAt"),  # no time zone
        ({"sentAt": 1767323045}, "sentAt"),
        ({"ranks": [{"rank": 0, "state": "dancing"}]}, "ranks.0.state"),
        ({"ranks": [{"rank": 0, "state": "running", "quietS": float("nan")}]}, "ranks.0.quietS"),
        ({"ranks": [{"rank": n, "state": "running"} for n in range(17)]}, "ranks"),
        ({"results": FULL["results"] * 65}, "results"),
        ({"results": [{**FULL["results"][0], "outcome": "Exploded"}]}, "results.0.outcome"),
        ({"results": [{**FULL["results"][0], "exitCode": 2**40}]}, "results.0.exitCode"),
        ({"progress": {"step": -5}}, "progress.step"),
        ({"progress": {"metrics": {f"m{n}": 1.0 for n in range(65)}}}, "progress.metrics"),
        ({"progress": {"metrics": {"m": "high"}}}, "progress.metrics.m"),
        ({"checkpoint": {"step": 1, "uri": "", "committedAt": SENT}}, "checkpoint.uri"),
        ({"warnings": [{"reason": "two words", "at": SENT}]}, "warnings.0.reason"),
    ],
)
def test_a_wrong_field_is_named_in_one_sentence(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(BadMessage) as caught:
        parse(**changes)
    assert str(caught.value).startswith(f"{named}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) <= 300


@pytest.mark.parametrize(
    "body",
    [
        b"", b"null", b"[]", b'"x"', b"{", b"\xff\xfe", b'{"a": 1} trailing', b"[" * 5000, b'{"a":' * 5000,
        b'{"round": ' + b"9" * 5000 + b"}", b'{"\\ud800": 1}', b"{'single': 1}",
    ],
)  # fmt: skip
def test_what_is_no_report_is_refused(body: bytes) -> None:
    with pytest.raises(BadMessage):
        parse_report(body, "u0", T0)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(changes=st.dictionaries(st.sampled_from(list(FULL)), JSON, min_size=1, max_size=4))
def test_any_json_is_either_a_report_or_refused(changes: dict[str, Any]) -> None:
    try:
        report = parse(**changes)
    except BadMessage:
        return
    assert all(result.ended_at <= T0 for result in report.results)


@given(body=st.binary(max_size=200))
def test_any_bytes_are_either_a_report_or_refused(body: bytes) -> None:
    with pytest.raises(BadMessage):
        parse_report(body, "u0", T0)


def test_a_termination_message_gives_the_results_on_our_clock() -> None:
    text = json.dumps(
        {"outcome": "Error", "exitCode": 1, "message": "boom", "results": FULL["results"], "sentAt": SENT}
    )
    wire, results = parse_termination(text, T0)
    assert (wire.outcome, wire.exit_code, wire.message) == (Outcome.ERROR, 1, "boom")
    assert results[0].ended_at == T0 - timedelta(seconds=2)


def test_a_termination_message_of_somebody_else_is_refused() -> None:
    with pytest.raises(BadMessage):
        parse_termination("Killed", T0)


def test_the_end_of_a_warning_is_understood() -> None:
    report = parse(warnings=[{"reason": "SlowStore", "message": "fast again", "at": SENT, "over": True}])
    assert [(one.reason, one.over) for one in report.warnings] == [("SlowStore", True)]
