"""How far a long reading of checkpoints is: a bar on a terminal, else a line now and then. On standard error.

May import rich, for the bar alone.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, TextIO

from ..output import Output
from ..view.words import duration, size

EVERY_S = 10.0


class Meter(Protocol):
    """Shows progress events of the tool."""

    def show(self, event: Mapping[str, Any]) -> None:
        """One event: `what`, `doneBytes`, `totalBytes`."""
        ...

    def pause(self) -> contextlib.AbstractContextManager[None]:
        """Out of the way while something else is written."""
        ...


@contextlib.contextmanager
def open_meter(stream: TextIO) -> Iterator[Meter]:
    """A meter that is gone at the end."""
    if not stream.isatty():
        yield _Lines(Output(stream))
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=None), DownloadColumn(binary_units=True),
        TransferSpeedColumn(), TimeRemainingColumn(compact=True),
    )  # fmt: skip
    with Progress(*columns, console=Console(file=stream), transient=True) as progress:
        yield _Bar(progress)


class _Bar:
    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._task: Any = None
        self._what = ""

    def show(self, event: Mapping[str, Any]) -> None:
        if event["what"] != self._what:
            self._what = event["what"]
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task = self._progress.add_task(self._what, total=event["totalBytes"])
        self._progress.update(self._task, completed=event["doneBytes"])

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        self._progress.stop()
        yield
        self._progress.start()


class _Lines:
    def __init__(self, out: Output) -> None:
        self._out = out
        self._what = ""
        self._began = self._said_at = 0.0

    def show(self, event: Mapping[str, Any]) -> None:
        now, done, total = time.monotonic(), event["doneBytes"], event["totalBytes"]
        if event["what"] != self._what:
            self._what, self._began, self._said_at = event["what"], now, now
        if now - self._said_at < EVERY_S or not done or not total:
            return
        self._said_at = now
        rate = done / (now - self._began)
        left = f", {duration((total - done) / rate)} to go" if rate else ""
        self._out.line(f"{self._what}: {done / total:.0%} of {size(total)}, {size(round(rate))}/s{left}")

    def pause(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()
