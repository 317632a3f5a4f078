"""Waiting for an object store that is away while a round begins.

May import assignment, troubles and errors. Any thread may call it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from .assignment import Assignment
from .errors import StoreAway
from .objects import StoreUnreachable
from .troubles import Troubles

T = TypeVar("T")
PART_OF_INIT = 0.75  # of limits.init a later round waits for a store; the rest is for the first step
FIRST_S = 20.0  # a user waits for an answer; but a store may just be starting, too
LONGEST_PAUSE_S = 2.0
STORE_AWAY = "StoreUnreachable"


class Patience:
    """What is left of it counts from its making."""

    def __init__(self, assignment: Assignment, troubles: Troubles) -> None:
        self._troubles, self._began = troubles, time.monotonic()
        self._first = assignment.round == 1
        limit_s = PART_OF_INIT * assignment.init_s
        # In the first round it may well be the job that names the wrong store; in a later one the store was fit before.
        self._limit_s = min(FIRST_S, limit_s) if self._first else limit_s

    def insist(self, what: str, act: Callable[[], T]) -> T:
        """The result of `act`, tried again while it raises `StoreUnreachable`, with a warning that the round waits for
        `what`. At the limit raises `StoreAway`, in the first round the store's own error."""
        pause_s = 0.1
        while True:
            try:
                result = act()
            except StoreUnreachable as error:
                waited_s = time.monotonic() - self._began
                if waited_s >= self._limit_s:
                    if self._first:
                        raise
                    raise StoreAway(f"waited {waited_s:.0f} s for {what}: {error}") from None
                limit = f"(tried again for {self._limit_s:.0f} s)"
                self._troubles.warn(STORE_AWAY, f"the round waits for {what}: {error} {limit}")
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                self._troubles.over(STORE_AWAY, "the object store answers again")
                return result
