"""Warnings that end: what was told of a trouble, and that it is over.

May import events. Any thread may call it.
"""

from __future__ import annotations

import threading
import time

from .events import Events


class Troubles:
    """The troubles of one round. `inherited`: an earlier round may have left warnings behind."""

    def __init__(self, events: Events, *, inherited: bool) -> None:
        self._events, self._inherited = events, inherited
        self._lock = threading.Lock()
        self._since: dict[str, float] = {}
        self._ended: set[str] = set()

    def warn(self, reason: str, message: str) -> None:
        """There is a trouble, or more is known of it."""
        with self._lock:
            self._since.setdefault(reason, time.monotonic())
            self._events.warning(reason, message)

    def over(self, reason: str, message: str) -> None:
        """All is well again: told once, and only when there was a trouble or may have been one before this round."""
        with self._lock:
            since = self._since.pop(reason, None)
            if since is None and (not self._inherited or reason in self._ended):
                return
            self._ended.add(reason)
            lasted = f", {time.monotonic() - since:.0f} s after the first warning" if since is not None else ""
            self._events.recovered(reason, message + lasted)
