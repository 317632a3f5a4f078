"""`dlcloud plot`: read what jobs measured and draw it, in the terminal or to a file.

May import the curves, history and the jobs' target. A run without metrics is named and left out.
"""

from __future__ import annotations

import contextlib
import csv
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from .confusion import KEY as CONFUSION
from .confusion import read_confusion, read_drawn
from .confusion import table as confusion_table
from .confusion import write as write_confusion
from .curve import Axis, Curve, make_curve
from .exits import EXIT_FAILED, EXIT_OK, EXIT_USAGE
from .history import DEFAULT_METRICS, read_head
from .home import short
from .jobs.errors import Unreachable
from .metrics import Metric, Record, find_metric, merge, metrics_of, read_records
from .objects import Reader, StoreError
from .output import Output
from .place import Place
from .target import Target, open_target

SUFFIXES = (".png", ".svg", ".csv")
_LEAST_WIDTH, _LEAST_PIXELS, _MOST_PIXELS = 30, 200, 20_000


@dataclass(frozen=True)
class PlotOptions:
    """What the user asked for. Width and height: columns and rows of a panel, or pixels of a picture."""

    jobs: tuple[str, ...]
    metrics: tuple[str, ...] = ()
    out: Path | None = None
    window: int | None = None
    axis: Axis = Axis.STEP
    width: int | None = None
    height: int | None = None
    confusion: bool = False


@dataclass(frozen=True)
class Measured:
    """What one job's store holds: its records, and the steps of its kept checkpoints."""

    name: str
    records: list[Record]
    checkpoints: list[int]
    drawn: list[str] = field(default_factory=list)  # a line about each kind of picture on the store


def plot_command(options: PlotOptions, place: Place, out: Output, err: Output) -> int:
    """Draw; 0 when there was something to draw, 1 when not, 2 for a wrong option. Raises JobsError."""
    problem = _problem(options)
    if problem:
        err.line(problem)
        return EXIT_USAGE
    if options.confusion:
        return _confusion(options, place, out, err)
    found = []
    for text in dict.fromkeys(options.jobs):
        with open_target(text, place) as target:
            measured = read_measured(target)
            found.append(measured)
            if not measured.records:
                err.line(f"{measured.name}: {_why_nothing(target)}")
    known = metrics_of([record for measured in found for record in measured.records])
    chosen: list[Metric] = []
    for word in options.metrics or DEFAULT_METRICS:
        metric = find_metric(word, known)
        if metric is not None:
            chosen.append(metric)
        elif options.metrics and known:
            err.line(f"--metric: {word!r} is not measured; there is {', '.join(map(str, known))}")
            return EXIT_USAGE
    chosen = list(dict.fromkeys(chosen)) or known[:1]
    curves = [make_curve(m.name, m.records, chosen, m.checkpoints, options.axis) for m in found if m.records]
    drawn = [curve for curve in curves if not curve.empty]
    for curve in curves:
        if curve.empty:
            err.line(f"{curve.name}: has no {', '.join(map(str, chosen))}")
    if not drawn:
        return EXIT_FAILED
    if options.out is None:
        _show(drawn, options, out)
        for measured in found:
            for line in measured.drawn:
                out.line(line)
        return EXIT_OK
    return _write(drawn, found, chosen, options, options.out.expanduser(), out, err)


def read_measured(target: Target) -> Measured:
    """What the job's store holds by now. Raises JobsError."""
    reader = target.reader()
    try:
        records = read_records(reader)
        kept = [entry.step for entry in read_head(reader) or []] if records else []
        drawn = _drawn(target, reader) if records else []
    except StoreError as error:
        raise Unreachable(str(error)) from None
    return Measured(target.name, records, sorted(kept), drawn)


def _drawn(target: Target, reader: Reader) -> list[str]:
    """What else there is to look at."""
    lines = [
        f"{target.name}: {one.name}, epochs {one.epochs[0]} to {one.epochs[-1]}: {target.prefix}{one.last}"
        for one in read_drawn(reader)
    ]
    if any(info.key == CONFUSION for info in reader.list(CONFUSION)):
        lines.append(f"{target.name}: the confusion matrix of its test: dlcloud plot {target.label} --confusion")
    return lines


def _confusion(options: PlotOptions, place: Place, out: Output, err: Output) -> int:
    """The table of each job, or one job's as a file."""
    if options.out is not None and len(set(options.jobs)) > 1:
        err.line("--confusion: a file holds one job's; name one job, or leave --out")
        return EXIT_USAGE
    code = EXIT_FAILED
    for text in dict.fromkeys(options.jobs):
        with open_target(text, place) as target:
            try:
                table = read_confusion(target.reader())
            except StoreError as error:
                raise Unreachable(str(error)) from None
            if table is None:
                err.line(f"{target.name}: has no confusion matrix: a classifier writes one at its end")
                continue
            code = EXIT_OK
            if options.out is None:
                out.line(f"{target.name}: test set, step {table.step}")
                for line in confusion_table(table):
                    out.line(line)
                continue
            path = options.out.expanduser()
            try:
                write_confusion(table, path, f"{target.name}: test set, step {table.step}")
            except OSError as error:
                err.line(f"{path}: {error.strerror or error}; give another --out")
                return EXIT_FAILED
            out.line(short(path.absolute()))
    return code


def _problem(options: PlotOptions) -> str:
    out = options.out
    if out is not None and out.suffix.lower() not in SUFFIXES:
        return f"--out: {str(out)!r} is no picture or table; give a name that ends in {', '.join(SUFFIXES)}"
    if out is not None and out.suffix.lower() != ".csv":
        for name, value in (("--width", options.width), ("--height", options.height)):
            if value is not None and not _LEAST_PIXELS <= value <= _MOST_PIXELS:
                return f"{name}: {value} is out of range; give {_LEAST_PIXELS} to {_MOST_PIXELS} pixels"
        if find_spec("matplotlib") is None:
            return "matplotlib not installed, which draws pictures; run: pip install 'dlcloud[local]' or give a .csv"
    return ""


def _why_nothing(target: Target) -> str:
    record = target.record
    if record is not None and record.job.spec is not None and record.job.spec.script is not None:
        return "has no metrics: built-in workloads write them, a script does not"
    if record is not None and record.running:
        return "no metrics yet"
    return "has no metrics"


def _show(curves: Sequence[Curve], options: PlotOptions, out: Output) -> None:
    from .curve_text import TextStyle, terminal_lines

    columns, rows = (80, 24)
    terminal = sys.stdout.isatty()
    if terminal:
        with contextlib.suppress(OSError):
            columns, rows = os.get_terminal_size(sys.stdout.fileno())
    panels = len({metric for curve in curves for metric in curve.series})
    style = TextStyle(
        width=max(_LEAST_WIDTH, options.width or columns),
        height=max(2, options.height or min(14, max(6, (rows - 5) // panels - 2 - (len(curves) > 1) * len(curves)))),
        window=options.window,
        colour=terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM", "dumb") not in ("", "dumb"),
        braille="utf" in (sys.stdout.encoding or "").lower(),
    )
    for line in terminal_lines(curves, style):
        out.line(line)


def _write(
    curves: Sequence[Curve],
    found: Sequence[Measured],
    metrics: Sequence[Metric],
    options: PlotOptions,
    path: Path,
    out: Output,
    err: Output,
) -> int:
    try:
        if path.suffix.lower() == ".csv":
            write_csv(path, found, metrics)
        else:
            from .curve_picture import PictureStyle, write_picture

            title = curves[0].name if len(curves) == 1 else f"{len(curves)} runs"
            size = PictureStyle(options.width or 1600, options.height or 1000, options.window, title)
            write_picture(curves, path, size)
    except OSError as error:
        err.line(f"{path}: {error.strerror or error}; give another --out")
        return EXIT_FAILED
    out.line(short(path.absolute()))
    return EXIT_OK


def write_csv(path: Path, found: Sequence[Measured], metrics: Sequence[Metric]) -> None:
    """A row for each value that counts (of steps done again, the last one): run, metric, round, step, epoch, samples,
    time, value. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with new.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("run", "metric", "round", "step", "epoch", "samples", "time", "value"))
            for measured in found:
                for record in merge(measured.records):
                    for metric in metrics:
                        if record.kind == metric.kind and metric.name in record.values:
                            rows.writerow(_row(measured.name, record, metric))
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def _row(run: str, record: Record, metric: Metric) -> tuple[object, ...]:
    def whole(name: str) -> object:
        return int(record.values[name]) if name in record.values else ""

    time = record.at.isoformat() if record.at else ""
    value = record.values[metric.name]
    return (run, str(metric), record.round, record.step, whole("epoch"), whole("samples"), time, value)
