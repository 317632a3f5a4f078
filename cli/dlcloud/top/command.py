"""`dlcloud top`: look at the jobs once, or every second on a terminal.

May import rich, this package and the jobs' protocol. Between two full lists only jobs that run are looked at: a folder
of a thousand old runs costs nothing.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from rich.console import Console
from rich.live import Live
from rich.text import Text

from ..exits import EXIT_HUNG_UP, EXIT_INTERRUPTED, EXIT_OK
from ..formats import Format, document_text
from ..jobs.errors import JobNotFound, JobsError
from ..jobs.source import JobRecord, JobSource
from ..metrics import Metric, MetricsReader, merge
from ..objects import StoreError, open_reader
from ..output import Output
from ..view.snapshot import EventLine
from .keys import terminal_keys, uninterrupted
from .rows import job_row, order, worker_rows
from .screen import Drawing, JobDetails, details, table

LOOK_S = 1.0
LIST_S = 5.0
FEW = 8  # so many running jobs are looked at one by one
STORE_S = 4.0
_PIPE_WIDTH = 200
_EVENTS = 50
_LOSS = Metric("train", "loss")


@dataclass(frozen=True)
class TopOptions:
    """What the user asked for; `job` is empty for the table."""

    job: str = ""
    every: bool = False
    once: bool = False
    form: Format = Format.TEXT


def top_command(source: JobSource, options: TopOptions, out: Output) -> int:
    """Show the jobs; 0, or 130 when Ctrl-C ended it. Raises JobsError when the first look fails."""
    with contextlib.ExitStack() as stack:
        look = _Look(source, options, stack)
        look.again(datetime.now(UTC))
        if options.form.for_machines:
            out.line(document_text(look.document(), options.form))
            return EXIT_OK
        if options.once or not _is_terminal():
            width = _terminal_width() if _is_terminal() else _PIPE_WIDTH
            drawing = Drawing(width, 10_000, fancy=_is_terminal() and _takes_unicode())
            for line in look.draw(datetime.now(UTC), drawing).split("\n"):
                out.line(line.plain.rstrip())
            return EXIT_OK
        return _live(look, out)


def _live(look: _Look, out: Output) -> int:
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    console = Console(file=sys.stdout, highlight=False, soft_wrap=False)
    fancy = _takes_unicode()

    def draw() -> Text:
        width, height = console.size
        return look.draw(datetime.now(UTC), Drawing(width, max(1, height - 1), fancy))

    try:
        with terminal_keys() as keys, _screen(console) as live:
            looked_at = time.monotonic()
            while True:
                live.update(draw(), refresh=True)
                if keys.wait(max(0.05, LOOK_S - (time.monotonic() - looked_at))):
                    return EXIT_OK
                if time.monotonic() - looked_at >= LOOK_S:
                    looked_at = time.monotonic()
                    look.again(datetime.now(UTC))
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except (OSError, ValueError) as error:  # the terminal is gone
        out.failed(error)
        return EXIT_HUNG_UP


@contextlib.contextmanager
def _screen(console: Console) -> Iterator[Live]:
    """The terminal's other screen, given back whatever happens."""
    live = Live(
        console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False,
        vertical_overflow="crop",
    )  # fmt: skip
    try:
        with uninterrupted():
            live.start()
        yield live
    finally:
        with uninterrupted():
            live.stop()


@dataclass
class _Look:
    """What was seen last, and how to see again."""

    source: JobSource
    options: TopOptions
    stack: contextlib.ExitStack
    records: list[JobRecord] = field(default_factory=list)
    events: list[EventLine] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    trouble: str = ""
    _listed_at: float = 0.0
    _store_at: float = 0.0
    _metrics: MetricsReader | None = None
    _no_metrics: bool = False
    _started: bool = False

    def again(self, now: datetime) -> None:
        """Look once more. What fails later than the first time is told on the screen, and tried again."""
        try:
            self._look()
            self.trouble = ""
        except JobsError as error:
            if not self._started:
                raise
            self.trouble = f"{error} (as of {now.astimezone():%H:%M:%S})" if not self.trouble else self.trouble
        self._started = True

    def draw(self, now: datetime, drawing: Drawing) -> Text:
        """The screen."""
        if self.options.job:
            record = self.records[0]
            progress = record.job.status.progress
            view = JobDetails(
                job_row(record, now), worker_rows(record, now), self.losses, self.events[-_EVENTS:],
                progress.metrics if progress else None,
            )  # fmt: skip
            text = details(view, now, drawing)
        else:
            text = table([job_row(record, now) for record in self._shown()], self._heading(now), drawing)
        if self.trouble:
            line = Text(f"! {self.trouble}", style="bold yellow")
            line.truncate(drawing.width)
            text = Text("\n").join([line, *text.split("\n")[: max(0, drawing.height - 1)]])
        return text

    def document(self) -> object:
        """For machines: a list of jobs, or with an ID one of them with its workers."""
        now = datetime.now(UTC)
        if not self.options.job:
            return [job_row(record, now).as_json() for record in self._shown()]
        workers = [{"index": w.index, "state": w.state, "ranks": list(w.ranks), "pod": w.pod}
                   for w in worker_rows(self.records[0], now)]  # fmt: skip
        return job_row(self.records[0], now).as_json() | {"workerStates": workers}

    def _shown(self) -> list[JobRecord]:
        return order([record for record in self.records if record.running or self.options.every])

    def _heading(self, now: datetime) -> str:
        counts: dict[str, int] = {}
        for record in self._shown():
            counts[record.phase] = counts.get(record.phase, 0) + 1
        jobs = ", ".join(f"{count} {phase}" for phase, count in counts.items()) or "nothing runs (--all shows all jobs)"
        return f"{now.astimezone():%H:%M:%S}  {jobs}  in {self.source.where}"

    def _look(self) -> None:
        if self.options.job:
            name = self.records[0].id if self.records else self.options.job
            self.records = [self.source.find(name)]
            self.events = self.source.events(self.records[0])
            self._read_losses()
            return
        running = [record for record in self.records if record.running]
        if not self.records or len(running) > FEW or time.monotonic() - self._listed_at >= LIST_S:
            self.records = self.source.records()
            self._listed_at = time.monotonic()
            return
        for i, record in enumerate(self.records):
            if record.running:
                try:
                    self.records[i] = self.source.find(record.id)
                except JobNotFound:
                    self._listed_at = 0.0

    def _read_losses(self) -> None:
        """The course of the loss, from the store; only while the job runs (a server is not started for it), and what
        fails is left out."""
        record, now = self.records[0], time.monotonic()
        if not record.checkpoint_prefix or self._no_metrics or (self._metrics and now - self._store_at < STORE_S):
            return
        if not record.running and not record.checkpoint_prefix.startswith("file:"):
            return
        self._store_at = now
        try:
            if self._metrics is None:
                access = self.stack.enter_context(self.source.access(record))
                self._metrics = MetricsReader(open_reader(record.checkpoint_prefix, access))
            merged = merge(self._metrics.records())
        except (StoreError, JobsError):
            self._no_metrics = self._metrics is None
            return
        self.losses = [r.values[_LOSS.name] for r in merged if r.kind == _LOSS.kind and _LOSS.name in r.values]


def _is_terminal() -> bool:
    try:
        return sys.stdout.isatty() and os.environ.get("TERM", "dumb") not in ("", "dumb", "unknown")
    except ValueError:  # closed
        return False


def _terminal_width() -> int:
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns
    except OSError:
        return 80


def _takes_unicode() -> bool:
    return "utf" in (sys.stdout.encoding or "").lower()
