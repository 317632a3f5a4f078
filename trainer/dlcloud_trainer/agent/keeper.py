"""Keeps what the pod says on the object store, below the job's prefix as `logs/{pod}/{part:06d}.log`.

May import the standard library only, and the store's client not before there is something to write. A store that does
not work never disturbs the job: memory is bounded, the end waits a few seconds at most, the pod's log gets one line.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

from .backlog import Backlog

if TYPE_CHECKING:
    from collections.abc import Callable

    from .log_store import LogStore

EVERY_S = 4.0  # and the time of a PUT: what is older than 5 s lies on the store
FIRST_PAUSE_S, MAX_PAUSE_S = 1.0, 60.0
LAST_TRIES, LAST_PAUSE_S = 3, 0.4
WARN_AFTER = 2  # failures in a row
PATIENCE_S = 2.0  # how long output may wait, in all, for a store that has not failed
REGAINED_S = 0.25  # of that, with every part: so that a slow store slows a talkative job down by little


def part_key(pod: str, part: int) -> str:
    """Key of one part, counted from 0."""
    return f"logs/{pod}/{part:06d}.log"


class LogKeeper:
    """Takes the pod's output; a thread of its own writes it. `say` puts a line into the pod's log."""

    def __init__(
        self,
        pod: str,
        say: Callable[[str], None],
        open_store: Callable[[dict[str, Any]], LogStore] | None = None,
        backlog: Backlog | None = None,
        every_s: float = EVERY_S,
    ) -> None:
        self._pod, self._say, self._open, self._every_s = pod, say, open_store or _open_store, every_s
        self._backlog = backlog or Backlog()
        self._changed = threading.Condition()
        self._job: dict[str, Any] | None = None
        self._off = self._closing = self._working = self._warned = False
        self._due: float | None = None  # when the oldest byte the store does not have must be written (monotonic s)
        self._patience_s = PATIENCE_S
        self._thread: threading.Thread | None = None

    def write(self, data: bytes) -> None:
        """Take bytes of the output, in order. Waits only for a store that is behind and has not failed; not long."""
        with self._changed:
            if self._off:
                return
            if self._working and self._patience_s > 0 and not self._backlog.has_room(len(data)):
                began = time.monotonic()
                self._changed.wait_for(
                    lambda: self._off or not self._working or self._backlog.has_room(len(data)), self._patience_s
                )
                self._patience_s -= time.monotonic() - began
            self._backlog.add(data)
            if self._due is None:
                self._due = time.monotonic() + self._every_s
                self._changed.notify_all()
            elif self._backlog.whole:
                self._changed.notify_all()

    def aim(self, job: dict[str, Any]) -> None:
        """The job is known, as in the assignment: write below its prefix, or (it has none) keep nothing."""
        with self._changed:
            if self._job is not None or self._off:
                return
            if not (job.get("checkpoint") or {}).get("uri"):
                self._give_up()
                return
            self._job, self._working = job, True  # until it fails
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)
        self._thread.start()

    def hurry(self) -> None:
        """Write what there is now: the end may be near."""
        with self._changed:
            self._due = time.monotonic()
            self._changed.notify_all()

    def close(self, limit_s: float) -> None:
        """No output comes any more: write the rest, for at most `limit_s`."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(limit_s)

    # --- in the thread ---

    def _run(self) -> None:
        failures, tries_left = 0, LAST_TRIES
        store: LogStore | None = None
        while True:
            with self._changed:
                self._wait(failures)
                part = self._backlog.take()
                if not self._backlog.size:
                    self._due = None  # what comes while this is being written waits its own time
                if part is None and self._closing:
                    return
                self._changed.notify_all()  # there is room again
            if part is None:
                continue
            try:
                store = store or self._open(self._job or {})
                store.put(part_key(self._pod, part[0]), part[1])
            except Exception as error:
                failures += 1
                tries_left -= self._closing
                self._failed(failures, error)
                if self._closing and tries_left <= 0:
                    return
            else:
                failures = 0
                self._written(part)

    def _wait(self, failures: int) -> None:
        """Until there is something to write; after failures until their pause is over, or the end comes."""
        if failures and self._closing:
            self._changed.wait(LAST_PAUSE_S)
        elif failures:
            pause_s = min(MAX_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(failures - 1, 10))
            self._changed.wait_for(lambda: self._closing, pause_s)
            return
        while not self._closing and not self._backlog.whole:
            now = time.monotonic()
            if self._due is not None and now >= self._due:
                return
            self._changed.wait(None if self._due is None else self._due - now)

    def _written(self, part: tuple[int, bytes]) -> None:
        with self._changed:
            self._backlog.done(part[0], len(part[1]))
            self._working, self._patience_s = True, min(PATIENCE_S, self._patience_s + REGAINED_S)
            self._changed.notify_all()

    def _failed(self, failures: int, error: Exception) -> None:
        with self._changed:
            self._working = False
            self._changed.notify_all()
        if failures >= WARN_AFTER and not self._warned:
            self._warned = True
            self._say(f"the output cannot be kept on the store: {error}; trying again, without more words")

    def _give_up(self) -> None:
        self._off, self._backlog = True, Backlog()


def _open_store(job: dict[str, Any]) -> LogStore:
    from .log_store import open_store  # a few ms of imports that the agent's start must not pay for

    return open_store(job, os.environ)
