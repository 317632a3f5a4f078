"""Learning curves in the terminal: braille dots, a panel for each metric, all runs over each other.

May import the curve and the views' words. Pure: text out, with colour codes only where they are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from .curve import Axis, Curve, Points, smoothed
from .metrics import Metric
from .view.words import duration, metric_name, metric_value

AXIS = 9  # columns for the numbers and the axis itself
LETTERS = "abcdefghijklmnopqrstuvwxyz"
# Okabe and Ito's palette, told apart by colour-blind readers as well, in the 256 colours of terminals.
_COLOURS = (32, 208, 35, 175, 80, 220, 166, 245)
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # [row][column] of one braille character
_LABEL_EVERY = 14  # columns between the letters of a line without colour


@dataclass(frozen=True)
class TextStyle:
    """How to draw. `height`: rows of a panel; `window`: points to smooth over, None for as many as look well."""

    width: int = 80
    height: int = 7
    window: int | None = None
    colour: bool = False
    braille: bool = True


@dataclass
class _Grid:
    """Cells of one panel: the dots in each, and the run that was drawn last."""

    columns: int
    rows: int
    dots: dict[tuple[int, int], int] = field(default_factory=dict)  # (row, column)
    owner: dict[tuple[int, int], int] = field(default_factory=dict)

    def dot(self, x: int, y: int, run: int) -> None:
        cell = (y // 4, x // 2)
        if self.owner.get(cell) != run:
            self.dots[cell] = self.dots.get(cell, 0)
            self.owner[cell] = run
        self.dots[cell] |= _DOTS[y % 4][x % 2]


def terminal_lines(curves: Curve | Sequence[Curve], style: TextStyle | None = None) -> list[str]:
    """A panel for each metric of the curves, marks of restarts and checkpoints below; no line is wider than asked."""
    style = style or TextStyle()
    shown = [curve for curve in ([curves] if isinstance(curves, Curve) else curves) if not curve.empty]
    if not shown:
        return ["no metrics yet"]
    end = max(curve.end for curve in shown) or 1.0
    lines: list[str] = []
    for metric in dict.fromkeys(metric for curve in shown for metric in curve.series):
        lines += _panel(metric, shown, end, style)
    marks = [row for i, curve in enumerate(shown) if (row := _mark_row(i, curve, end, style, len(shown) > 1))]
    lines += [_paint(row, style) for row in marks]
    right = _place(end, shown[0].axis)
    lines.append(" " * AXIS + "0" + right.rjust(max(0, style.width - AXIS - 1)))
    signs = {character for row in marks for character, _ in row[AXIS:]}
    legend = [f"{sign} {word}" for sign, word in (("x", "restart"), ("c", "checkpoint kept")) if sign in signs]
    if legend:
        lines.append(" " * AXIS + ", ".join(legend))
    return lines if style.colour else [line[: style.width].rstrip() for line in lines]


_Cell = tuple[str, int | None]  # a character, and the run whose colour it has


def _panel(metric: Metric, curves: Sequence[Curve], end: float, style: TextStyle) -> list[str]:
    drawn = [smoothed(metric, curve.series.get(metric, ()), style.window) for curve in curves]
    low, high = _range(metric, [y for points in drawn for _, y in points])
    grid = _Grid(max(8, style.width - AXIS), style.height)
    for run, points in enumerate(drawn):
        _draw(grid, points, run, end, low, high)
    several = len(curves) > 1
    letters = _letters(grid, drawn, end, low, high) if several and not style.colour else {}
    title = f"{metric.kind} {metric_name(metric.name)}"
    if several:
        head = [_text(" " * AXIS + title)] + [_legend(i, c, metric, style) for i, c in enumerate(curves)]
    else:
        raw = curves[0].series[metric]
        ends = f"{_number(metric, raw[0][1])} -> {_number(metric, raw[-1][1])}"
        head = [_text(f"{' ' * AXIS}{title}: {ends}")]
    labels = [""] * style.height
    labels[-1], labels[0] = _number(metric, low), _number(metric, high)
    rows = []
    for number, label in enumerate(labels):
        row = _text(f"{label:>{AXIS - 2}} {'┤' if label else '│'}" if style.braille else f"{label:>{AXIS - 2}} |")
        for column in range(grid.columns):
            cell = (number, column)
            owner = grid.owner.get(cell)
            row.append((letters.get(cell) or _character(grid.dots.get(cell, 0), owner, several, style), owner))
        rows.append(row)
    return [_paint(row, style) for row in (*head, *rows)]


def _range(metric: Metric, values: Sequence[float]) -> tuple[float, float]:
    """What the vertical axis spans; a loss begins at 0."""
    low, high = min(values), max(values)
    if metric.name.lower().endswith("loss") and low >= 0:
        low = 0.0
    return (low - 0.5, high + 0.5) if high - low < 1e-9 else (low, high)


def _cell(x: float, y: float, grid: _Grid, end: float, low: float, high: float) -> tuple[int, int]:
    across = round(min(1.0, max(0.0, x / end)) * (grid.columns * 2 - 1))
    return across, round(min(1.0, max(0.0, (high - y) / (high - low))) * (grid.rows * 4 - 1))


def _draw(grid: _Grid, points: Points, run: int, end: float, low: float, high: float) -> None:
    before: tuple[int, int] | None = None
    for x, y in points:
        here = _cell(x, y, grid, end, low, high)
        start = before or here
        steps = max(abs(here[0] - start[0]), abs(here[1] - start[1]), 1)
        for i in range(steps + 1):
            grid.dot(
                round(start[0] + (here[0] - start[0]) * i / steps),
                round(start[1] + (here[1] - start[1]) * i / steps),
                run,
            )
        before = here


def _letters(grid: _Grid, drawn: Sequence[Points], end: float, low: float, high: float) -> dict[tuple[int, int], str]:
    """A letter on its line now and then, each run's beside the others'."""
    found: dict[tuple[int, int], str] = {}
    for run, points in enumerate(drawn):
        next_column = 2 + run * max(2, _LABEL_EVERY // max(1, len(drawn)))
        for x, y in points:
            across, down = _cell(x, y, grid, end, low, high)
            if across // 2 >= next_column:
                found[down // 4, across // 2] = LETTERS[run % len(LETTERS)]
                next_column = across // 2 + _LABEL_EVERY
        if points and LETTERS[run % len(LETTERS)] not in found.values():  # a short line
            across, down = _cell(*points[len(points) // 2], grid, end, low, high)
            found[down // 4, across // 2] = LETTERS[run % len(LETTERS)]
    return found


def _character(bits: int, owner: int | None, several: bool, style: TextStyle) -> str:
    if not bits:
        return " "
    if style.braille:
        return chr(0x2800 + bits)
    return LETTERS[(owner or 0) % len(LETTERS)] if several else "*"


def _legend(run: int, curve: Curve, metric: Metric, style: TextStyle) -> list[_Cell]:
    points = curve.series.get(metric)
    ends = f"{_number(metric, points[0][1])} -> {_number(metric, points[-1][1])}" if points else "not measured"
    sign = ("━━" if style.braille else "--") if style.colour else LETTERS[run % len(LETTERS)]
    room = style.width - AXIS - len(sign) - 2 - len(ends) - 2
    name = curve.name if len(curve.name) <= room else curve.name[: max(0, room - 1)] + "…" * (room > 0)
    return [*_text(" " * AXIS), *((c, run) for c in sign), *_text(f"  {name}  {ends}")]


def _mark_row(run: int, curve: Curve, end: float, style: TextStyle, several: bool) -> list[_Cell]:
    columns = style.width - AXIS
    row = [" "] * columns
    for sign, places in (("c", curve.checkpoints), ("x", curve.restarts)):  # a restart hides a checkpoint
        for x in places:
            row[min(columns - 1, round(min(1.0, x / end) * (columns - 1)))] = sign
    if not "".join(row).strip():
        return []
    name = LETTERS[run % len(LETTERS)] if several and not style.colour else ""
    owner = run if several else None
    return [*_text(f"{name:>{AXIS - 2}}  "), *((c, owner) for c in row)]


def _text(text: str) -> list[_Cell]:
    return [(character, None) for character in text]


def _paint(row: Sequence[_Cell], style: TextStyle) -> str:
    cells = list(row)[: style.width]
    if not style.colour:
        return "".join(character for character, _ in cells).rstrip()
    text = ""
    for run, group in groupby(cells, key=lambda cell: cell[1]):
        part = "".join(character for character, _ in group)
        text += part if run is None or not part.strip() else f"\x1b[38;5;{_COLOURS[run % len(_COLOURS)]}m{part}\x1b[0m"
    return text.rstrip()


def _number(metric: Metric, value: float) -> str:
    if metric.name.lower().endswith("accuracy"):
        return metric_value(metric.name, value)
    return f"{value:.3g}" if abs(value) < 1000 or not math.isfinite(value) else f"{value:.4g}"


def _place(end: float, axis: Axis) -> str:
    if axis is Axis.TIME:
        return duration(end)
    return f"{axis} {end:.0f}" if axis is Axis.STEP or end >= 10 else f"{axis} {end:.1f}"
