"""The training's records as JSON lines in the store, below `metrics/{round}/`; written by a thread of rank 0.

May import the standard library and events. A store that fails costs records, never the training.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from .events import finite, time_text

NOT_WRITTEN = "MetricsNotWritten"
EVERY_S = 2.0
PART_BYTES = 256 * 1024
RETRY_S = 5.0
CLOSING_TRIES = 3
CLOSING_PAUSE_S = 0.3


def part_key(round: int, part: int) -> str:
    """Key of one part, counted from 0."""
    return f"metrics/{round:06d}/{part:06d}.jsonl"


class MetricsLog:
    """Records of one round. `put(key, data)` writes an object; `warn(reason, message)` is called once per trouble,
    `recovered(reason)` after the first write and after each trouble."""

    def __init__(
        self,
        put: Callable[[str, bytes], object],
        round: int,
        warn: Callable[[str, str], None],
        recovered: Callable[[str], None] = lambda reason: None,
        part_bytes: int = PART_BYTES,
    ) -> None:
        self._put, self._round, self._part_bytes = put, round, part_bytes
        self._warn, self._recovered = warn, recovered
        self._parts: list[bytearray] = []  # those not yet written whole; the last one grows
        self._first = 0  # number of the first of them
        self._changed = threading.Condition()
        self._dirty = self._closing = self._told = self._well = self._hurried = self._busy = False
        self._failures = 0
        self._recorded = self._stored = 0  # records so far, and those of them that lie in the store
        self._thread: threading.Thread | None = None

    def write(self, kind: str, **fields: Any) -> None:
        """Add a record; `kind` is train, validation or test. Returns at once."""
        record = {"kind": kind, "time": time_text(datetime.now(UTC)), **finite(fields)}
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        with self._changed:
            if not self._parts or len(self._parts[-1]) + len(line) > self._part_bytes:
                self._parts.append(bytearray())
            self._parts[-1] += line
            self._dirty = True
            self._recorded += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
                self._thread.start()

    def flush(self, limit_s: float) -> bool:
        """Write what was recorded so far, at once even after an outage; False when it fails, or takes longer than
        `limit_s`."""
        with self._changed:
            asked = self._recorded
            enough = self._failures + (
                2 if self._busy else 1
            )  # a try under way may have begun while the store was away
            self._hurried = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._stored >= asked or self._failures >= enough, limit_s)
            return self._stored >= asked

    def close(self, limit_s: float) -> None:
        """Write what is left, for at most `limit_s`."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(limit_s)

    def _run(self) -> None:
        pause_s, last = EVERY_S, False
        while not last:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._hurried, pause_s)
                last, self._hurried = self._closing, False
            for _ in range(CLOSING_TRIES if last else 1):
                written = self._write_parts()
                if written:
                    break
                if last:
                    time.sleep(CLOSING_PAUSE_S)
            pause_s = EVERY_S if written else RETRY_S

    def _write_parts(self) -> bool:
        with self._changed:
            if not self._dirty:
                return True
            self._busy = True
            pending = [(self._first + index, bytes(part)) for index, part in enumerate(self._parts)]
            growing = pending[-1][0]  # the others are whole
            self._dirty, recorded = False, self._recorded
        for number, data in pending:
            try:
                self._put(part_key(self._round, number), data)
            except Exception as error:
                self._failed(error)
                return False
            with self._changed:
                if number < growing:
                    del self._parts[0]
                    self._first += 1
        if not self._well:
            self._recovered(NOT_WRITTEN)
        with self._changed:
            self._told, self._well, self._busy, self._stored = False, True, False, recorded
            self._changed.notify_all()
        return True

    def _failed(self, error: Exception) -> None:
        with self._changed:
            told, self._told = self._told, True
            self._dirty, self._well, self._busy = True, False, False
            self._failures += 1
            self._changed.notify_all()
        if not told:
            self._warn(NOT_WRITTEN, f"{error}; training goes on, its metrics are kept and written later")
