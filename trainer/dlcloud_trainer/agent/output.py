"""Sinks for the pumps: output to the pod's log line by line with its writer before it, and rank events as values.

May import the standard library only. Bytes pass through unchanged; whole chunks are prefixed at once, because a line
at a time would make the agent the bottleneck of a talkative job.
"""

from __future__ import annotations

import os
import re
import select
from typing import TYPE_CHECKING, Any

from .wire import read_event

if TYPE_CHECKING:
    from collections.abc import Callable

PIECE = 64 * 1024
TAIL = 8 * 1024
_LINE_END = re.compile(rb"(?<=\n)|(?<=\r)(?!\n)")


class LogFile:
    """The pod's own standard output. Lost output (nobody reads any more) never ends a job."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._open = True

    def write(self, data: bytes) -> None:
        """Write all of it, waiting for a slow reader."""
        view = memoryview(data)
        while view and self._open:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                select.select([], [self._fd], [])
            except OSError:
                self._open = False


class LineSink:
    """Prefixes each line. A carriage return ends a line as well, so that progress bars are seen while they move."""

    def __init__(self, prefix: bytes, write: Callable[[bytes], None], held: bool = False) -> None:
        """`held`: write nothing before `release`."""
        self._prefix, self._out = prefix, write
        self._held: list[bytes] | None = [] if held else None
        self._rest = b""
        self.tail = b""  # the last bytes seen, for messages

    def feed(self, data: bytes) -> None:
        """Write the lines that are complete now, keep the rest; a line above 64 KiB is cut into pieces."""
        self.tail = (self.tail + data)[-TAIL:]
        text = self._rest + data
        # A carriage return at the very end may be half of a line end.
        cut = max(text.rfind(b"\n"), text.rfind(b"\r", 0, len(text) - 1)) + 1
        ready, self._rest = text[:cut], text[cut:]
        pieces = []
        if ready:
            # A chunk is no longer than a piece, so only the first line, which began earlier, can be overlong.
            plain = ready.find(b"\n") < PIECE and b"\r" not in ready
            pieces.append(self._prefix_plain(ready) if plain else b"".join(map(self._one, _LINE_END.split(ready))))
        while len(self._rest) >= PIECE:
            pieces.append(self._prefix + self._rest[:PIECE] + b"\n")
            self._rest = self._rest[PIECE:]
        if pieces:
            self._write(b"".join(pieces))

    def close(self) -> None:
        """Write an incomplete last line."""
        if self._rest:
            self._write(self._prefix + self._rest + b"\n")
            self._rest = b""

    def release(self) -> None:
        """Write what was held back, and hold nothing any more."""
        held, self._held = self._held, None
        if held:
            self._out(b"".join(held))

    def _write(self, data: bytes) -> None:
        if self._held is None:
            self._out(data)
        else:
            self._held.append(data)

    def _prefix_plain(self, ready: bytes) -> bytes:
        return self._prefix + ready[:-1].replace(b"\n", b"\n" + self._prefix) + b"\n"

    def _one(self, line: bytes) -> bytes:
        if len(line) <= PIECE:
            return self._prefix + line if line else b""
        cut = [line[start : start + PIECE] for start in range(0, len(line), PIECE)]
        return b"".join(self._prefix + piece + (b"" if piece is cut[-1] else b"\n") for piece in cut)


class EventSink:
    """Delivers each JSON line as an event; lines that are none, or above 64 KiB, are dropped."""

    def __init__(self, deliver: Callable[[dict[str, Any]], None]) -> None:
        self._deliver = deliver
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Deliver the lines that are complete now."""
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest if len(rest) <= PIECE else b"\0"  # no JSON begins so: the whole line is dropped
        for line in lines:
            event = read_event(line) if len(line) <= PIECE else None
            if event is not None:
                self._deliver(event)

    def close(self) -> None:
        """An incomplete line is no event."""
        self._rest = b""
