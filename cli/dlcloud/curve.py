"""Learning curves as values: what is drawn, of one run or several, over steps, epochs or time.

May import the metrics. Pure; `curve_text` and `curve_picture` draw.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from .metrics import Metric, Record, merge, restarts

Points = Sequence[tuple[float, float]]
SMOOTHED = 40  # by itself a line is smoothed to so many independent points
_EXACT = ("learningRate",)  # set, not measured


class Axis(StrEnum):
    """What lies on the horizontal axis."""

    STEP = "step"
    EPOCH = "epoch"
    TIME = "time"


@dataclass(frozen=True)
class Curve:
    """One run: (x, value) pairs in ascending x for each metric; restarts and kept checkpoints are places on x.

    x is a step, an epoch (1.5: the middle of the second) or seconds since the first record.
    """

    name: str = ""
    series: Mapping[Metric, Points] = field(default_factory=dict)
    restarts: Sequence[float] = ()
    checkpoints: Sequence[float] = ()
    axis: Axis = Axis.STEP

    @property
    def empty(self) -> bool:
        """Nothing to draw."""
        return not any(self.series.values())

    @property
    def end(self) -> float:
        """The furthest x of any series, 0 without one."""
        return max((points[-1][0] for points in self.series.values() if points), default=0)


def make_curve(
    name: str, records: Sequence[Record], metrics: Sequence[Metric], checkpoints: Sequence[int], axis: Axis = Axis.STEP
) -> Curve:
    """The curve of all rounds together; `checkpoints` are steps."""
    merged = merge(records)
    places = _places(merged, axis)
    where = _between(merged, places)
    series = {
        metric: [
            (places[i], record.values[metric.name])
            for i, record in enumerate(merged)
            if record.kind == metric.kind and metric.name in record.values
        ]
        for metric in metrics
    }
    return Curve(
        name,
        {metric: points for metric, points in series.items() if points},
        [where(step) for step in restarts(records)],
        [where(step) for step in checkpoints],
        axis,
    )


def smooth(points: Points, window: int) -> list[tuple[float, float]]:
    """The centred mean over `window` points, shorter at both ends. Raises ValueError for a window below 1."""
    if window < 1:
        raise ValueError(f"window: {window} is not a number of points; give 1 or more")
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    half = window // 2
    result = []
    for i, (x, _) in enumerate(points):
        first, last = max(0, i - half), min(len(points), i + half + 1)
        result.append((x, (sums[last] - sums[first]) / (last - first)))
    return result


def smoothed(metric: Metric, points: Points, window: int | None) -> list[tuple[float, float]]:
    """As `smooth`; without a window, what was measured by as much as makes a noisy line readable."""
    if window is None:
        window = 1 if metric.name in _EXACT else max(1, len(points) // SMOOTHED)
    return smooth(points, window)


def _places(merged: Sequence[Record], axis: Axis) -> list[float]:
    """x of every record."""
    if axis is Axis.EPOCH:
        per_epoch = _epoch_of(merged)
        return [per_epoch(record) for record in merged]
    if axis is Axis.TIME:
        times = [record.at for record in merged if record.at is not None]
        begin = min(times) if times else None
        places, last = [], 0.0
        for record in merged:
            if record.at is not None and begin is not None:
                last = max(last, (record.at - begin).total_seconds())
            places.append(last)
        return places
    return [float(record.step) for record in merged]


def _epoch_of(merged: Sequence[Record]) -> Callable[[Record], float]:
    """Epochs done by a record's step: epochs have the same number of steps, so two beginnings tell it."""
    first: dict[int, int] = {}
    for record in merged:
        if record.kind == "train" and "epoch" in record.values:
            first.setdefault(int(record.values["epoch"]), record.step)
    if len(first) < 2:
        return lambda record: record.values.get("epoch", 0.0)
    early, late = min(first), max(first)
    steps = (first[late] - first[early]) / (late - early)
    return lambda record: max(0.0, early - 1 + (record.step - first[early] + 1) / steps) if steps > 0 else 0.0


def _between(merged: Sequence[Record], places: Sequence[float]) -> Callable[[float], float]:
    """x of a step that may have no record."""
    steps = [record.step for record in merged]

    def where(step: float) -> float:
        i = bisect_left(steps, step)
        if not steps or i == len(steps):
            return places[-1] if places else float(step)
        if i == 0 or steps[i] == step:
            return places[i]
        share = (step - steps[i - 1]) / (steps[i] - steps[i - 1])
        return places[i - 1] + share * (places[i] - places[i - 1])

    return where
