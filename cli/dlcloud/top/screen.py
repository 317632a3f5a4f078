"""`dlcloud top` as text of at most `height` lines of at most `width` columns.

May import rich, this package's rows and the views' words. Pure: values in, one text out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from rich.cells import cell_len
from rich.text import Text

from dlcloud_operator.api import Phase

from ..view.snapshot import EventLine
from ..view.words import clock, duration, metric_texts, number, printable
from .rows import JobRow, WorkerRow

_STYLES = {
    Phase.RUNNING: "bold green", Phase.SUCCEEDED: "green", Phase.RESTARTING: "bold yellow", Phase.PENDING: "yellow",
    Phase.QUEUED: "yellow", Phase.SUSPENDED: "yellow", Phase.FAILED: "bold red", "Interrupted": "red",
}  # fmt: skip
_SPARKS, _PLAIN_SPARKS = "▁▂▃▄▅▆▇█", "_.-=+*#@"
_MAX_BAR, _MIN_BAR = 24, 6
_MAX_NAME = 40


@dataclass(frozen=True)
class Drawing:
    """How to draw: `fancy` with bars and block characters, else in plain ones (a pipe, a terminal without UTF-8)."""

    width: int
    height: int
    fancy: bool = True


@dataclass(frozen=True)
class JobDetails:
    """One job closer: its workers, its losses so far (oldest first), its newest events, what it measured."""

    row: JobRow
    workers: Sequence[WorkerRow] = ()
    losses: Sequence[float] = ()
    events: Sequence[EventLine] = ()
    metrics: dict[str, float] | None = None


@dataclass(frozen=True)
class _Column:
    title: str
    cell: Callable[[JobRow], str]
    rank: int  # columns of a higher one go first when there is no room
    right: bool = True


_COLUMNS = (
    _Column("WORKERS", lambda row: row.workers, 6, right=False),
    _Column("EPOCH", lambda row: _of(row.epoch, row.epochs), 7),
    _Column("STEP", lambda row: _of(row.step, row.total_steps), 2),
    _Column("LOSS", lambda row: number(row.loss) if row.loss is not None else "", 1),
    _Column("RATE", lambda row: f"{row.samples_per_second:,.0f}/s" if row.samples_per_second else "", 5),
    _Column("ETA", lambda row: duration(row.eta_s) if row.eta_s is not None else "", 3),
    _Column("RESTARTS", lambda row: str(row.restarts), 8),
    _Column("SAVED", lambda row: duration(row.checkpoint_age_s) if row.checkpoint_age_s is not None else "", 9),
    _Column("AGE", lambda row: duration(row.age_s), 10),
)  # fmt: skip
_BAR_RANK = 4


def table(rows: Sequence[JobRow], heading: str, drawing: Drawing) -> Text:
    """All jobs, a line each, and below them their warnings."""
    lines = [Text(heading, style="dim")] if heading else []
    if not rows:
        return _fit(lines, drawing)
    warned = [row for row in rows if row.warning]
    room = max(1, drawing.height - len(lines) - 1)
    for_warnings = min(len(warned), max(0, room - len(rows)), 8) or min(len(warned), 1 if room > 3 else 0)
    shown = rows if len(rows) <= room - for_warnings else rows[: max(1, room - for_warnings - 1)]
    lines += _table_lines(shown, drawing)
    if len(shown) < len(rows):
        lines.append(Text(f"{'…' if drawing.fancy else '...'} {len(rows) - len(shown)} more", style="dim"))
    lines += [_warning(f"{row.id}: {row.warning}") for row in warned[:for_warnings]]
    return _fit(lines, drawing)


def details(job: JobDetails, now: datetime, drawing: Drawing) -> Text:
    """One job: its progress, the course of its loss, workers and events, what matters most first."""
    row = job.row
    head = Text.assemble((row.id, "bold"), "  ", (row.phase, _style(row)), (f"  {duration(row.age_s)}", "dim"))
    head.append(f"  workers {row.workers}  restarts {row.restarts}")
    lines = [head]
    if row.warning:
        lines.append(_warning(row.warning))
    elif row.message:
        lines.append(Text(row.message))
    lines += _progress(job, drawing)
    if row.checkpoint_step is not None and row.checkpoint_age_s is not None:
        lines.append(Text(f"checkpoint at step {row.checkpoint_step}, {duration(row.checkpoint_age_s)} ago"))
    if len(job.losses) > 1:
        label, ends = "loss ", f" {number(job.losses[0])} to {number(job.losses[-1])}"
        columns = max(8, min(60, drawing.width - len(label) - len(ends)))
        lines.append(Text.assemble(label, (sparkline(job.losses, columns, fancy=drawing.fancy), "cyan"), ends))
    room = drawing.height - len(lines)
    for_events = min(len(job.events) + 1, max(0, room // 2)) if job.events else 0
    lines += _workers(job.workers, room - for_events)
    if for_events > 1:
        lines.append(Text("events", style="dim"))
        lines += [_event(event) for event in job.events[-(for_events - 1) :]]
    return _fit(lines, drawing)


def sparkline(values: Sequence[float], columns: int, *, fancy: bool = True) -> str:
    """The course of the values in one line: each column the mean of those that fall into it."""
    columns = min(columns, len(values))
    means = []
    for i in range(columns):
        part = values[
            i * len(values) // columns : max(i * len(values) // columns + 1, (i + 1) * len(values) // columns)
        ]
        means.append(sum(part) / len(part))
    low, high = min(means), max(means)
    signs = _SPARKS if fancy else _PLAIN_SPARKS
    span = high - low
    return "".join(signs[round((value - low) / span * (len(signs) - 1)) if span > 0 else 0] for value in means)


def _table_lines(rows: Sequence[JobRow], drawing: Drawing) -> list[Text]:
    name = min(_MAX_NAME, max(4, *(cell_len(row.id) for row in rows)))
    phase = max(5, *(len(row.phase) for row in rows))
    cells = {column: [column.title, *(column.cell(row) for row in rows)] for column in _COLUMNS}
    widths = {column: max(map(len, texts)) for column, texts in cells.items() if any(texts[1:])}
    name = max(8, min(name, drawing.width - phase - 2 - 8))
    left = drawing.width - name - 2 - phase
    chosen: set[_Column] = set()
    bar = 0
    for column in sorted(widths, key=lambda column: column.rank):
        if drawing.fancy and not bar and column.rank > _BAR_RANK and left >= _MIN_BAR + 2:
            bar, left = _MIN_BAR, left - _MIN_BAR - 2
        if widths[column] + 2 <= left:
            chosen.add(column)
            left -= widths[column] + 2
    bar = min(_MAX_BAR, bar + left) if bar and any(row.share is not None for row in rows) else 0
    lines = []
    for number_, row in enumerate((None, *rows)):
        line = Text(style="dim" if row is None else "")
        line.append(_padded("NAME" if row is None else row.id, name))
        line.append("  ")
        line.append(("PHASE" if row is None else row.phase).ljust(phase), style="" if row is None else _style(row))
        for column in _COLUMNS:
            if column in chosen:
                text = cells[column][number_]
                line.append("  " + (text.rjust(widths[column]) if column.right else text.ljust(widths[column])))
            if column.title == "STEP" and bar:
                line.append("  ")
                line.append_text(Text(" " * bar) if row is None else _bar(row, bar, fancy=True))
        line.rstrip()
        lines.append(line)
    return lines


def _progress(job: JobDetails, drawing: Drawing) -> list[Text]:
    row = job.row
    facts = [f"loss {number(row.loss)}"] if row.loss is not None else []
    facts += metric_texts(job.metrics or {})
    facts += [f"{row.samples_per_second:,.0f} samples/s"] if row.samples_per_second else []
    lines = []
    if row.step is not None:
        head = f"epoch {_of(row.epoch, row.epochs)} " if row.epoch is not None else ""
        share = f" {row.share:.0%}" if row.share is not None else ""
        tail = f"{share} step {_of(row.step, row.total_steps)}" + (f" eta {duration(row.eta_s)}" if row.eta_s else "")
        columns = max(5, min(50, drawing.width - len(head) - len(tail)))
        bar = _bar(row, columns, fancy=drawing.fancy) if row.share is not None else Text()
        lines.append(Text.assemble(head, bar, tail if row.share is not None else tail.lstrip()))
    return [*lines, Text("  ".join(facts))] if facts else lines


def _bar(row: JobRow, columns: int, *, fancy: bool) -> Text:
    if row.share is None:
        return Text(" " * columns)
    filled = round(row.share * columns)
    if not fancy:
        return Text("[" + ("#" * filled).ljust(columns, ".")[2:] + "]")
    return Text.assemble(("━" * filled, "green"), ("━" * (columns - filled), "bright_black"))


def _workers(workers: Sequence[WorkerRow], room: int) -> list[Text]:
    if room <= 0 or not workers:
        return []
    shown = workers if len(workers) <= room else workers[: max(0, room - 1)]
    lines = []
    for worker in shown:
        ranks = f"rank{'s' * (len(worker.ranks) > 1)} {_ranges(worker.ranks)}" if worker.ranks else ""
        style = "green" if worker.state == "running" else "yellow" if worker.state.startswith("silent") else "dim"
        lines.append(
            Text.assemble(f"worker {worker.index:<4} {ranks:<10} ", (f"{worker.state:<16}", style), worker.pod)
        )
    if len(shown) < len(workers):
        lines.append(Text(f"{len(workers) - len(shown)} more workers", style="dim"))
    return lines


def _ranges(ranks: Sequence[int]) -> str:
    return str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]}-{ranks[-1]}"


def _event(event: EventLine) -> Text:
    text = (f"{event.reason}: {printable(event.message)}", "yellow" if event.warning else "")
    return Text.assemble((clock(event.at), "dim"), "  ", text)


def _warning(text: str) -> Text:
    return Text.assemble(("! ", "bold yellow"), (printable(text), "yellow"))


def _style(row: JobRow) -> str:
    return next((style for phase, style in _STYLES.items() if phase == row.phase), "bold")


def _padded(text: str, columns: int) -> str:
    line = Text(text)
    line.truncate(columns, overflow="ellipsis", pad=True)
    return line.plain


def _of(value: int | None, total: int | None) -> str:
    return "" if value is None else f"{value}/{total}" if total else str(value)


def _fit(lines: Sequence[Text], drawing: Drawing) -> Text:
    for line in lines:
        line.truncate(drawing.width, overflow="ellipsis" if drawing.fancy else "crop")
    return Text("\n", no_wrap=True, overflow="crop").join(lines[: drawing.height])
