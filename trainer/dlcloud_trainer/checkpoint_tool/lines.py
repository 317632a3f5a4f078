"""What the tool says: a JSON object a line on standard output.

May import the standard library only. `progress` is said at most ten times a second; nothing secret is ever said.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

EVERY_S = 0.1


class ToolError(Exception):
    """What was asked for cannot be done; the message is one sentence for the user. `usage`: the request is wrong;
    `force`: it is dangerous and needs --force."""

    def __init__(self, message: str, *, usage: bool = False, force: bool = False) -> None:
        super().__init__(message)
        self.usage, self.force = usage, force


class Lines:
    """Writes events; may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._what = ""
        self._done = self._total = 0
        self._said_at = 0.0

    def say(self, event: str, **fields: Any) -> None:
        """One event."""
        with self._lock:
            self._write(event, fields)

    def begin(self, what: str, total_bytes: int) -> None:
        """Bytes are counted from 0 on now, for `what`."""
        with self._lock:
            self._what, self._done, self._total = what, 0, total_bytes
            self._progress(force=True)

    def add(self, num_bytes: int) -> None:
        """So many bytes more are done."""
        with self._lock:
            self._done += num_bytes
            self._progress(force=self._done >= self._total)

    def _progress(self, *, force: bool) -> None:
        now = time.monotonic()
        if force or now - self._said_at >= EVERY_S:
            self._said_at = now
            self._write("progress", {"what": self._what, "doneBytes": self._done, "totalBytes": self._total})

    def _write(self, event: str, fields: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps({"event": event, **fields}, allow_nan=False) + "\n")
        sys.stdout.flush()
