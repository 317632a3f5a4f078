"""What a rank tells its agent: JSON lines on a descriptor (docs/protocol.md, section 3).

May import the standard library only. Must never raise because nobody listens, never write a number JSON has no word
for, and never write a line longer than a pipe takes in one piece: several threads write here.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

EVERY_S = 0.5
MAX_MESSAGE = 1000


class Events:
    """The lines; without a descriptor nothing is written."""

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def progress(self, progress: dict[str, Any]) -> None:
        """The report's `progress` object; numbers that are not finite are left out."""
        self._write("progress", finite(progress))

    def checkpoint(self, step: int, uri: str, committed_at: datetime, size_bytes: int) -> None:
        """A commit."""
        at = time_text(committed_at)
        self._write("checkpoint", {"step": step, "uri": uri, "committedAt": at, "sizeBytes": size_bytes})

    def warning(self, reason: str, message: str) -> None:
        """Something the user should know and the job survives; `reason` in CamelCase."""
        self._write("warning", {"reason": reason, "message": message[:MAX_MESSAGE]})

    def recovered(self, reason: str, message: str) -> None:
        """What the warning of this reason told of is over, if there was one."""
        self._write("recovered", {"reason": reason, "message": message[:MAX_MESSAGE]})

    def failed(self, outcome: str, message: str) -> None:
        """Why this rank is about to end."""
        self._write("failed", {"outcome": outcome, "message": message[:MAX_MESSAGE]})

    def step(self, step: int, longest_step_s: float) -> None:
        """This rank is alive; `Heartbeat` decides how often that is said."""
        self._write("step", {"step": step, "longestStepS": round(longest_step_s, 4)})

    def _write(self, event: str, fields: dict[str, Any]) -> None:
        if self._descriptor is None:
            return
        line = json.dumps({"event": event, **fields}, allow_nan=False).encode() + b"\n"
        with self._lock, contextlib.suppress(OSError):  # an agent that is gone kills us without our help
            while line:
                line = line[os.write(self._descriptor, line) :]


class Heartbeat:
    """`step` events: the first at once, then at most one in `EVERY_S`; a look at the clock is all the rest costs."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._longest_s = 0.0
        self._last: float | None = None
        self._told = 0.0

    def beat(self, step: int) -> bool:
        """A step, or a batch of an evaluation, is done; True when it was told."""
        now = time.monotonic()
        if self._last is None:
            self._events.step(step, 0.0)
        else:
            self._longest_s = max(self._longest_s, now - self._last)
            if now - self._told < EVERY_S:
                self._last = now
                return False
            self._events.step(step, self._longest_s)
        self._last = self._told = now
        return True

    @contextlib.contextmanager
    def alive(self, step: int, limit_s: float) -> Iterator[None]:
        """While the block waits for something with a limit of its own, say so for at most `limit_s`; it is no long
        step.
        """
        done = threading.Event()
        end = time.monotonic() + limit_s

        def speak() -> None:
            while not done.wait(EVERY_S) and time.monotonic() < end:
                self._events.step(step, self._longest_s)

        threading.Thread(target=speak, name="alive", daemon=True).start()
        try:
            yield
        finally:
            done.set()
            self._last = time.monotonic()


def finite(value: dict[str, Any]) -> dict[str, Any]:
    """The mapping, and those in it, without numbers that are not finite."""
    cleaned: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, dict):
            cleaned[key] = finite(item)
        elif not isinstance(item, float) or math.isfinite(item):
            cleaned[key] = item
    return cleaned


def time_text(time: datetime) -> str:
    """RFC 3339 with microseconds, in UTC."""
    return time.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
