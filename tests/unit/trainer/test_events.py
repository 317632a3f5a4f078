"""The lines a rank writes to its agent."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from dlcloud_trainer import events as events_module
from dlcloud_trainer.events import Events, Heartbeat


class Pipe:
    """A descriptor to write to and all that was written."""

    def __init__(self) -> None:
        self.read, self.write = os.pipe()
        os.set_blocking(self.read, False)

    def lines(self) -> list[dict[str, Any]]:
        try:
            data = os.read(self.read, 1 << 16)
        except BlockingIOError:
            return []
        return [json.loads(line) for line in data.splitlines()]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    os.close(made.read)
    os.close(made.write)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock of the module: a list whose only item is the time."""
    time = [100.0]
    monkeypatch.setattr(events_module.time, "monotonic", lambda: time[0])
    return time


def test_the_first_step_is_told_at_once(pipe: Pipe, clock: list[float]) -> None:
    Heartbeat(Events(pipe.write)).beat(7)
    assert pipe.lines() == [{"event": "step", "step": 7, "longestStepS": 0.0}]


def test_later_steps_are_told_every_half_second_with_the_longest_between_them(pipe: Pipe, clock: list[float]) -> None:
    heartbeat = Heartbeat(Events(pipe.write))
    for step, pause in enumerate([0, 0.1, 0.3, 0.05, 0.1, 0.1]):
        clock[0] += pause
        heartbeat.beat(step)
    assert pipe.lines() == [
        {"event": "step", "step": 0, "longestStepS": 0.0},
        {"event": "step", "step": 4, "longestStepS": 0.3},
    ]


def test_waiting_for_an_upload_is_told_and_is_no_long_step(pipe: Pipe) -> None:
    heartbeat = Heartbeat(Events(pipe.write))
    heartbeat.beat(3)
    pipe.lines()
    with heartbeat.alive(3, limit_s=60):
        while not (lines := pipe.lines()):
            pass
    assert lines == [{"event": "step", "step": 3, "longestStepS": 0.0}]
    assert heartbeat.beat(4)
    assert pipe.lines()[-1]["longestStepS"] < 0.3


def test_numbers_that_are_not_finite_are_left_out(pipe: Pipe) -> None:
    Events(pipe.write).progress({"step": 1, "loss": math.nan, "metrics": {"a": math.inf, "b": 0.5}})
    assert pipe.lines() == [{"event": "progress", "step": 1, "metrics": {"b": 0.5}}]


def test_a_checkpoint_is_told_in_the_form_of_the_protocol(pipe: Pipe) -> None:
    at = datetime(2026, 1, 2, 3, 4, 5, 123456, UTC)
    Events(pipe.write).checkpoint(100, "s3://b/manifests/1.json", at, 24)
    (line,) = pipe.lines()
    assert line == {
        "event": "checkpoint",
        "step": 100,
        "uri": "s3://b/manifests/1.json",
        "committedAt": "2026-01-02T03:04:05.123456Z",
        "sizeBytes": 24,
    }


def test_a_long_message_is_cut_to_what_a_pipe_takes_in_one_piece(pipe: Pipe) -> None:
    Events(pipe.write).failed("Error", "\N{GRINNING FACE}" * 5000)
    (line,) = pipe.lines()
    assert 0 < len(line["message"]) <= 1000


def test_an_agent_that_is_gone_disturbs_nobody() -> None:
    read, write = os.pipe()
    os.close(read)
    Events(write).warning("A", "b")
    os.close(write)
    Events(write).warning("A", "b")


def test_without_a_descriptor_nothing_is_written(pipe: Pipe) -> None:
    Events(None).warning("A", "b")
    assert pipe.lines() == []
