"""The two ways to show snapshots: plain lines on any stream, or a live screen on a terminal.

May import rich (the live view alone) and this package. Never raises for output that fails: the run matters more.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING, Protocol, TextIO

from ..output import Output
from .plain import PlainLines
from .snapshot import Snapshot

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live

FRAME_S = 0.2


class View(Protocol):
    """Shows a run."""

    def show(self, now: Snapshot) -> None:
        """Show the run at this moment; called often."""
        ...

    def close(self, last: Snapshot) -> None:
        """Show the end, and leave the terminal as it was. Calling it again does nothing."""
        ...


def open_view(out: Output, stream: TextIO, *, plain: bool, show_log: bool) -> View:
    """The live view when `stream` is a terminal that can draw one and plain lines are not asked for."""
    if plain or not _is_terminal(stream) or os.environ.get("TERM", "dumb") in ("", "dumb", "unknown"):
        return PlainView(out, show_log=show_log)
    return LiveView(out, stream)


class PlainView:
    """New lines as they come."""

    def __init__(self, out: Output, *, show_log: bool) -> None:
        self._out = out
        self._lines = PlainLines(show_log=show_log)

    def show(self, now: Snapshot) -> None:
        for line in self._lines.lines(now):
            self._out.line(line)

    def close(self, last: Snapshot) -> None:
        self.show(last)


class LiveView:
    """One screen, drawn at most every 0.2 s from the event loop: a drawing thread would race with the tracker."""

    def __init__(self, out: Output, stream: TextIO) -> None:
        from rich.console import Console

        self._out = out
        if stream is sys.stdout and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
        self._console: Console = Console(file=stream, highlight=False, soft_wrap=False)
        self._live: Live | None = None
        self._drawn_at = 0.0
        self._closed = False

    def show(self, now: Snapshot) -> None:
        if time.monotonic() - self._drawn_at >= FRAME_S:
            self._draw(now)

    def close(self, last: Snapshot) -> None:
        if self._closed:
            return
        self._closed = True
        self._draw(last, final=True)
        if self._live is not None:
            with contextlib.suppress(OSError, ValueError):
                self._live.stop()

    def _draw(self, now: Snapshot, *, final: bool = False) -> None:
        from rich.live import Live

        from .screen import render

        if self._out.gone:
            return
        self._drawn_at = time.monotonic()
        width, height = self._console.size
        width = max(10, width - 3)  # room for the terminal's echo of ^C: at the border it would begin a new line
        screen = render(now, width, max(1, height - 1), final=final)  # the line below is the cursor's
        try:
            if self._live is None:
                self._live = Live(
                    screen, console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False,
                    vertical_overflow="crop",
                )  # fmt: skip
                self._live.start(refresh=True)
            else:
                self._live.update(screen, refresh=True)
        except (OSError, ValueError) as error:
            self._out.failed(error)


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False
