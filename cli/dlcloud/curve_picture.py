"""Learning curves as PNG or SVG.

May import the curve; matplotlib only inside, because importing it takes half a second. Colours are Okabe and Ito's,
which colour-blind readers tell apart.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .curve import Axis, Curve, smoothed
from .metrics import Metric
from .view.words import metric_name

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#8C6D1F")
_STYLES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))  # after eight runs the colours come again
_MARKED = 40  # a line with no more points shows each of them
_DPI = 160
_MANY = 200
_LINE_NAME = 40


@dataclass(frozen=True)
class PictureStyle:
    """Size in pixels (an SVG has the same proportions); `window`: points to smooth over, None for as many as look
    well."""

    width: int = 1600
    height: int = 1000
    window: int | None = None
    title: str = ""


def write_picture(curves: Curve | Sequence[Curve], path: Path, style: PictureStyle | None = None) -> None:
    """Write a panel for each metric, as the path's ending says (`.png`, `.svg`); the folder is made, and the file whole
    or not at all. Raises OSError, and ImportError without matplotlib."""
    figure = _figure([curves] if isinstance(curves, Curve) else list(curves), style or PictureStyle())
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        figure.savefig(new, dpi=_DPI, format=path.suffix.lstrip(".").lower())
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def _figure(curves: Sequence[Curve], style: PictureStyle) -> Any:
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    figure = Figure(figsize=(style.width / _DPI, style.height / _DPI), layout="constrained")
    metrics = list(dict.fromkeys(metric for curve in curves for metric in curve.series)) or [Metric("train", "loss")]
    panels = figure.subplots(len(metrics), 1, sharex=True, squeeze=False)[:, 0]
    scale, unit = _unit(curves)
    end = max((curve.end for curve in curves), default=0) or 1
    for metric, axes in zip(metrics, panels, strict=True):
        _dress(axes, metric, curves, end / scale)
        for run, curve in enumerate(curves):
            _line(axes, metric, curve, run, scale, style, several=len(curves) > 1)
            _marks(axes, curve, run, scale, last=axes is panels[-1], several=len(curves) > 1)
    panels[0].set_title(style.title, loc="left", fontsize=13, pad=10)
    panels[-1].set_xlabel(unit, fontsize=11)
    _legend(figure, panels, curves)
    return figure


def _dress(axes: Any, metric: Metric, curves: Sequence[Curve], end: float) -> None:
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    axes.set_ylabel(f"{metric.kind} {metric_name(metric.name)}", fontsize=11)
    axes.grid(alpha=0.25, linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlim(0, end * 1.008)  # the last point whole
    axes.margins(y=0.06)
    if curves and curves[0].axis is not Axis.TIME:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if metric.name.lower().endswith("accuracy"):
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _line(
    axes: Any, metric: Metric, curve: Curve, run: int, scale: float, style: PictureStyle, *, several: bool
) -> None:
    points = curve.series.get(metric, ())
    if not points:
        return
    colour, dashes = _look(run)
    xs, raw = [x / scale for x, _ in points], [y for _, y in points]
    line = [y for _, y in smoothed(metric, points, style.window)]
    if line != raw:
        axes.plot(xs, raw, color=colour, alpha=0.22 if several else 0.3, linewidth=0.8, zorder=2)
    marker = {"marker": "o", "markersize": 3.5} if len(points) <= _MARKED else {}
    axes.plot(xs, line, color=colour, linestyle=dashes, linewidth=2, zorder=3, solid_capstyle="round", **marker)
    if metric.name.lower().endswith("loss") and min(raw) >= 0:
        # A few first values far above all others would press the rest flat.
        axes.set_ylim(0, max(axes.get_ylim()[1] if several and run else 0, _ceiling(raw)))


def _ceiling(values: Sequence[float]) -> float:
    ordered = sorted(values)
    usual = ordered[int(0.98 * (len(ordered) - 1))]
    whole = len(ordered) < _MANY or ordered[-1] <= 3 * usual
    return (ordered[-1] if whole else 1.5 * usual) * 1.06 or 1.0


def _marks(axes: Any, curve: Curve, run: int, scale: float, *, last: bool, several: bool) -> None:
    colour = _look(run)[0] if several else "#B3261E"
    for x in curve.restarts:
        axes.axvline(x / scale, color=colour, linestyle=(0, (4, 3)), linewidth=1.2, alpha=0.8, zorder=1)
    if last and curve.checkpoints:
        axes.plot(
            [x / scale for x in curve.checkpoints], [0.0] * len(curve.checkpoints), linestyle="", marker="^",
            markersize=9, color=_look(run)[0] if several else "#5F6B76", markeredgecolor="white", clip_on=False,
            transform=axes.get_xaxis_transform(), zorder=5,
        )  # fmt: skip


def _legend(figure: Any, panels: Any, curves: Sequence[Curve]) -> None:
    from matplotlib.lines import Line2D

    several = len(curves) > 1
    handles: list[Any] = []
    if several:
        for run, curve in enumerate(curves):
            colour, dashes = _look(run)
            name = curve.name if len(curve.name) <= _LINE_NAME else curve.name[: _LINE_NAME - 1] + "…"
            handles.append(Line2D([], [], color=colour, linestyle=dashes, linewidth=2, label=name))
    if any(curve.restarts for curve in curves):
        colour = "#444444" if several else "#B3261E"
        handles.append(Line2D([], [], color=colour, linestyle=(0, (4, 3)), linewidth=1.2, label="restart"))
    if any(curve.checkpoints for curve in curves):
        colour = "#444444" if several else "#5F6B76"
        handles.append(Line2D([], [], color=colour, linestyle="", marker="^", markersize=9, label="checkpoint kept"))
    if handles:
        figure.legend(
            handles=handles, loc="outside lower center", ncols=min(len(handles), 3), frameon=False, fontsize=10
        )


def _look(run: int) -> tuple[str, Any]:
    return COLOURS[run % len(COLOURS)], _STYLES[run // len(COLOURS) % len(_STYLES)]


def _unit(curves: Sequence[Curve]) -> tuple[float, str]:
    """What seconds are divided by, and the name of the axis."""
    axis = curves[0].axis if curves else Axis.STEP
    if axis is not Axis.TIME:
        return 1.0, str(axis)
    end = max(curve.end for curve in curves)
    for limit, scale, name in ((180.0, 1.0, "seconds"), (10800.0, 60.0, "minutes"), (360000.0, 3600.0, "hours")):
        if end < limit:
            return scale, f"{name} since the first record"
    return 86400.0, "days since the first record"
