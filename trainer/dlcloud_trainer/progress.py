"""What is consumed, how fast it goes, and what is told about it.

May import events, sharding and saver. Decides nothing about training.
"""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from .events import EVERY_S, Events
from .saver import Saver
from .sharding import Schedule

WINDOW_S = 10.0


@dataclass
class Ledger:
    """The loop's own part of the state: all a training needs to go on, beside model and optimiser."""

    step: int = 0
    samples: int = 0
    validated_epochs: int = 0
    score: float | None = None  # of the last validation; higher is better
    best: float | None = None
    best_epoch: int = 0
    ended: bool = False  # before the last epoch: the validation got no better
    metrics: dict[str, float] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {
            "step": self.step,
            "samples": self.samples,
            "validatedEpochs": self.validated_epochs,
            "score": finite_or_none(self.score),
            "best": self.best,
            "bestEpoch": self.best_epoch,
            "ended": self.ended,
            "metrics": dict(self.metrics),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From the checkpoint; raises KeyError."""
        self.step, self.samples = state["step"], state["samples"]
        self.validated_epochs, self.best, self.metrics = state["validatedEpochs"], state["best"], dict(state["metrics"])
        self.best_epoch, self.ended = state.get("bestEpoch", 0), state.get("ended", False)
        self.score = state.get("score")


def finite_or_none(value: float | None) -> float | None:
    """JSON has no word for the others."""
    return value if value is not None and math.isfinite(value) else None


class Rate:
    """Samples per second over the last `WINDOW_S`, by the clock: evaluations and saves slow it down as they do the
    training.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, samples: int, now: float) -> None:
        """Note how many samples are consumed at `now` (s)."""
        self._seen.append((now, samples))
        while len(self._seen) > 2 and now - self._seen[1][0] >= WINDOW_S:
            self._seen.popleft()

    @property
    def per_second(self) -> float | None:
        """None before the second step."""
        if len(self._seen) < 2:
            return None
        (start, first), (end, last) = self._seen[0], self._seen[-1]
        return (last - first) / (end - start) if end > start else None


@dataclass(frozen=True)
class StepRecord:
    """A step whose loss is not yet known."""

    step: int
    epoch: int
    samples: int
    learning_rate: float
    logged: bool
    samples_per_second: float | None


class Reporter:
    """Rank 0 tells of the training, the others keep still."""

    def __init__(self, ledger: Ledger, schedule: Schedule, events: Events, saver: Saver, *, active: bool) -> None:
        self._ledger, self._schedule, self._events, self._saver, self._active = ledger, schedule, events, saver, active
        self._total_steps = ledger.step + schedule.steps_after(ledger.samples)
        self._rate = Rate()
        self._loss: float | None = None
        self._told_at = -math.inf
        self._warned = False

    def step_done(self) -> None:
        """After every step: the progress, at most every half second."""
        now = time.monotonic()
        self._rate.add(self._ledger.samples, now)
        if self._active and now - self._told_at >= EVERY_S:
            self._told_at = now
            self.tell()

    def describe_step(self, learning_rate: float, *, logged: bool) -> StepRecord:
        """The step just done."""
        ledger = self._ledger
        epoch = self._schedule.epoch(ledger.samples - 1) + 1
        rate = self._rate.per_second
        return StepRecord(ledger.step, epoch, ledger.samples, learning_rate, logged, rate)

    def loss_known(self, record: StepRecord, loss: float) -> None:
        """The mean loss of a step over all ranks."""
        self._loss = loss
        if not math.isfinite(loss) and not self._warned and self._active:
            self._warned = True
            self._events.warning(
                "LossNotFinite",
                f"the loss is {loss} at step {record.step}; a lower learningRate often helps",
            )
        if record.logged:
            self._saver.record(
                "train",
                step=record.step,
                epoch=record.epoch,
                samples=record.samples,
                loss=loss,
                learningRate=record.learning_rate,
                samplesPerSecond=record.samples_per_second,
            )

    def evaluated(self, part: str, means: dict[str, float]) -> None:
        """Means over `validation` or `test`."""
        ledger = self._ledger
        ledger.metrics |= {part + name.capitalize(): value for name, value in means.items() if math.isfinite(value)}
        epoch = self._schedule.epoch(ledger.samples)
        self._saver.record(part, step=ledger.step, epoch=epoch, samples=ledger.samples, **means)
        self.tell()

    def tell(self) -> None:
        """The progress, now."""
        if not self._active:
            return
        ledger, schedule = self._ledger, self._schedule
        progress = {
            "epoch": min(schedule.epoch(max(0, ledger.samples - 1)) + 1, schedule.epochs),
            "epochs": schedule.epochs,
            "step": ledger.step,
            "totalSteps": self._total_steps,
            "samples": ledger.samples,
            "metrics": ledger.metrics,
        }
        known = {"loss": self._loss, "samplesPerSecond": self._rate.per_second}
        self._events.progress(progress | {name: value for name, value in known.items() if value is not None})
