"""What is told about a training."""

from __future__ import annotations

import json
import math
import os
from typing import Any

import pytest

from dlcloud_trainer.events import Events
from dlcloud_trainer.progress import Ledger, Rate, Reporter
from dlcloud_trainer.saver import Saver
from dlcloud_trainer.sharding import Schedule

from .test_assignment import parse


def test_a_ledger_comes_back_from_its_state() -> None:
    ledger = Ledger(step=7, samples=448, validated_epochs=1, best=0.9, metrics={"validationLoss": 0.25})
    again = Ledger()
    again.load_state_dict(json.loads(json.dumps(ledger.state_dict())))
    assert again == ledger


def test_a_rate_is_that_of_the_last_seconds() -> None:
    rate = Rate()
    assert rate.per_second is None
    for second in range(100):
        rate.add(100 * second if second < 50 else 5000 + 700 * (second - 50), float(second))
    assert rate.per_second == pytest.approx(700)


def test_a_rate_goes_on_when_steps_are_longer_than_its_window() -> None:
    rate = Rate()
    for second in (0, 60, 120):
        rate.add(second, float(second))
    assert rate.per_second == pytest.approx(1)


def reporter(ledger: Ledger) -> tuple[Reporter, int]:
    read, write = os.pipe()
    events = Events(write)
    saver = Saver(parse(job=parse_job_without_checkpoint()), 0, events, active=True)
    return Reporter(ledger, Schedule(100, 10, 3), events, saver, active=True), read


def parse_job_without_checkpoint() -> dict[str, Any]:
    from .test_assignment import example

    return dict(example()["job"]) | {"checkpoint": None}


def told(read: int) -> list[dict[str, Any]]:
    return [json.loads(line) for line in os.read(read, 1 << 16).splitlines()]


def test_progress_counts_epochs_from_one_and_steps_to_the_end() -> None:
    ledger = Ledger(step=10, samples=100)
    one, read = reporter(ledger)
    one.tell()
    ledger.step, ledger.samples = 11, 110
    one.tell()
    first, second = told(read)
    assert (first["epoch"], first["epochs"], first["totalSteps"]) == (1, 3, 30)
    assert second["epoch"] == 2


def test_a_loss_that_is_not_finite_is_warned_of_once_and_left_out() -> None:
    one, read = reporter(Ledger(step=1, samples=10))
    record = one.describe_step(0.1, logged=True)
    for loss in (1.0, math.nan, math.inf):
        one.loss_known(record, loss)
    one.tell()
    warning, progress = told(read)
    assert (warning["event"], warning["reason"]) == ("warning", "LossNotFinite")
    assert "loss" not in progress
