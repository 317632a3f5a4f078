"""Doing something with the store again, or several things at once.

May import the standard library and errors. Threads are daemons and end with their call: none is left for a later fork
to meet.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from .errors import StoreUnreachable

T = TypeVar("T")
R = TypeVar("R")
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0


def persist(act: Callable[[], T], *, until: float, stop: threading.Event | None = None) -> T:
    """The result of `act`, tried again while the store is unreachable, until `time.monotonic()` passes `until` or
    `stop` is set."""
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return act()
        except StoreUnreachable:
            left_s = until - time.monotonic()
            if left_s <= 0 or (stop or threading.Event()).wait(min(pause_s, left_s)):
                raise
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


class Aside:
    """`act` on a thread of its own, begun at once."""

    def __init__(self, act: Callable[[], object]) -> None:
        self._act = act
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait for its end; raises what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._act()
        except BaseException as error:
            self._error = error


def in_parallel(act: Callable[[T], R], items: Sequence[T], threads: int) -> list[R]:
    """`act` of every item, in order; after the first error nothing more begins, and that error is raised. The calling
    thread is one of the `threads`."""
    if len(items) <= 1 or threads <= 1:
        return [act(item) for item in items]
    results: dict[int, R] = {}
    errors: list[BaseException] = []
    rest = iter(range(len(items)))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                index = -1 if errors else next(rest, -1)
            if index < 0:
                return
            try:
                results[index] = act(items[index])
            except BaseException as error:
                with lock:
                    errors.append(error)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(min(threads, len(items)) - 1)]
    for worker in workers:
        worker.start()
    work()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]
    return [results[index] for index in range(len(items))]
