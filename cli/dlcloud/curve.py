"""Draw a learning curve: for the terminal in braille dots, for a page as PNG.

May import the standard library; matplotlib only inside `write_png`, because importing it takes half a second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Points = Sequence[tuple[float, float]]

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # [row][column] of one braille character
_LOSS_COLOUR, _ACCURACY_COLOUR, _RESTART_COLOUR, _CHECKPOINT_COLOUR = "#1f5fa8", "#c2570c", "#b3261e", "#5f6b76"


@dataclass(frozen=True)
class Curve:
    """What is drawn: (step, value) pairs in ascending steps; restarts and checkpoints are steps."""

    loss: Points = ()
    accuracy: Points = ()
    restarts: Sequence[int] = ()
    checkpoints: Sequence[int] = ()

    @property
    def empty(self) -> bool:
        """Nothing to draw."""
        return not self.loss and not self.accuracy

    @property
    def last_step(self) -> int:
        """The furthest step of any series, 0 without one."""
        return int(max((x for x, _ in (*self.loss, *self.accuracy)), default=0))


def smooth(points: Points, window: int) -> list[tuple[float, float]]:
    """The centred mean over `window` points, shorter at both ends. Raises ValueError for a window below 1."""
    if window < 1:
        raise ValueError(f"window: {window} is not a number of points; give 1 or more")
    half = window // 2
    result = []
    for i, (x, _) in enumerate(points):
        part = points[max(0, i - half) : i + half + 1]
        result.append((x, sum(y for _, y in part) / len(part)))
    return result


def terminal_lines(curve: Curve, width: int = 80, height: int = 7) -> list[str]:
    """The curve as text: one panel each for loss and accuracy, `height` rows a panel, no line longer than `width`."""
    if curve.empty:
        return ["no metrics yet"]
    last = max(curve.last_step, 1)
    lines: list[str] = []
    for title, points, lowest in (("train loss", curve.loss, 0.0), ("validation accuracy", curve.accuracy, None)):
        if points:
            lines += _panel(title, points, last, width, height, lowest)
    marks = _mark_row(curve, last, width - _AXIS)
    if marks.strip():
        lines.append(" " * _AXIS + marks)
    right = f"step {last}"
    lines.append(" " * _AXIS + "0" + right.rjust(max(0, width - _AXIS - 1)))
    if marks.strip():
        legend = [f"{sign} {word}" for sign, word in (("x", "restart"), ("c", "checkpoint kept")) if sign in marks]
        lines.append(" " * _AXIS + ", ".join(legend))
    return [line[:width].rstrip() for line in lines]


_AXIS = 9  # columns for the numbers and the axis itself


def _panel(title: str, points: Points, last: int, width: int, height: int, lowest: float | None) -> list[str]:
    columns = max(8, width - _AXIS)
    low = min(y for _, y in points) if lowest is None else lowest
    high = max(y for _, y in points)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    grid = [[0] * columns for _ in range(height)]

    def cell(x: float, y: float) -> tuple[int, int]:
        return (
            round(x / last * (columns * 2 - 1)),
            round((high - y) / (high - low) * (height * 4 - 1)),
        )

    previous: tuple[int, int] | None = None
    for x, y in points:
        here = cell(x, y)
        for dot in _line(previous or here, here):
            grid[dot[1] // 4][dot[0] // 2] |= _DOTS[dot[1] % 4][dot[0] % 2]
        previous = here
    rows = ["".join(chr(0x2800 + bits) if bits else " " for bits in row) for row in grid]
    labels = [""] * height
    labels[0], labels[-1] = _number(high), _number(low)
    head = f"{title}: {_number(points[0][1])} -> {_number(points[-1][1])}"
    return [" " * _AXIS + head] + [
        f"{label:>{_AXIS - 2}} {'┤' if label else '│'}{row}" for label, row in zip(labels, rows, strict=True)
    ]


def _line(start: tuple[int, int], end: tuple[int, int]) -> list[tuple[int, int]]:
    steps = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
    return [
        (round(start[0] + (end[0] - start[0]) * i / steps), round(start[1] + (end[1] - start[1]) * i / steps))
        for i in range(steps + 1)
    ]


def _mark_row(curve: Curve, last: int, columns: int) -> str:
    row = [" "] * columns
    for sign, steps in (
        ("c", curve.checkpoints),
        ("x", curve.restarts),
    ):  # a restart hides a checkpoint, not the reverse
        for step in steps:
            row[min(columns - 1, round(step / last * (columns - 1)))] = sign
    return "".join(row)


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def write_png(curve: Curve, path: Path, title: str) -> None:
    """Write the curve as a 1600x1000 PNG; the folder is made. Raises OSError when it cannot be written."""
    figure = _figure(curve, title)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160, format="png")


def _figure(curve: Curve, title: str) -> Any:
    from matplotlib.figure import Figure  # without pyplot: no display, no global state
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    figure = Figure(figsize=(10, 6.25), layout="constrained")
    loss_axes = figure.subplots()
    loss_axes.set_title(title, loc="left", fontsize=14, pad=14)
    loss_axes.set_xlabel("step", fontsize=12)
    loss_axes.set_ylabel("train loss", fontsize=12, color=_LOSS_COLOUR)
    loss_axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    loss_axes.grid(alpha=0.25)
    loss_axes.set_xlim(0, max(curve.last_step, 1))
    handles = []
    if curve.loss:
        handles += loss_axes.plot(*zip(*curve.loss, strict=True), color=_LOSS_COLOUR, alpha=0.25, linewidth=1)
        window = max(1, len(curve.loss) // 40)
        (line,) = loss_axes.plot(
            *zip(*smooth(curve.loss, window), strict=True), color=_LOSS_COLOUR, linewidth=2, label="train loss"
        )
        handles = [line]
        loss_axes.set_ylim(bottom=0)
    accuracy_axes = loss_axes.twinx()
    if curve.accuracy:
        handles += accuracy_axes.plot(
            *zip(*curve.accuracy, strict=True),
            color=_ACCURACY_COLOUR,
            marker="o",
            markersize=4,
            label="validation accuracy",
        )
        accuracy_axes.set_ylabel("validation accuracy", fontsize=12, color=_ACCURACY_COLOUR)
        lowest = min(y for _, y in curve.accuracy)
        accuracy_axes.set_ylim(math.floor(max(0.0, lowest - 0.02) * 20) / 20, 1.0)
        accuracy_axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    else:
        accuracy_axes.set_yticks([])
    for i, step in enumerate(curve.restarts):
        handles += [
            loss_axes.axvline(step, color=_RESTART_COLOUR, linestyle="--", label="restart" if not i else "_restart")
        ][: not i]
    if curve.checkpoints:
        bottom = [0.0] * len(curve.checkpoints)
        handles += loss_axes.plot(
            curve.checkpoints, bottom, linestyle="", marker="^", markersize=10, color=_CHECKPOINT_COLOUR, clip_on=False,
            transform=loss_axes.get_xaxis_transform(), label="checkpoint kept",
        )  # fmt: skip
    if handles:
        accuracy_axes.legend(handles=handles, loc="center right", framealpha=0.9, fontsize=11)
    return figure
