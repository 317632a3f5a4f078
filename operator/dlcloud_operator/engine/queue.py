"""A coalescing queue of keys: at most one handling of a key at a time, two lanes, later wishes, backoff after errors.

Standard library and the engine's observer only. It knows nothing of jobs. Not thread-safe: every call must come from
the event loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from .observer import QueueState

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)

_TURN_S = 0.02  # of each turn of the event loop for what is handled here
# So many urgent keys in a row, then one that may wait: a busy cluster must not keep a resync from its end.
_URGENT_IN_A_ROW = 7


@dataclass(frozen=True)
class Backoff:
    """Pauses after consecutive errors: `first_s` doubled each time up to `max_s`, less up to `jitter` of itself."""

    first_s: float = 0.1
    max_s: float = 30.0
    jitter: float = 0.3

    def delay_s(self, failures: int, random_unit: float) -> float:
        """Seconds to wait after the `failures`-th consecutive error (from 1); `random_unit` is in [0, 1)."""
        # The exponent is bounded because a float overflows at 2**1024.
        grown = min(self.max_s, self.first_s * 2.0 ** min(failures - 1, 60))
        return grown * (1.0 - self.jitter * random_unit)


class KeyedQueue(Generic[K]):
    """Runs `handle(key)` for every key added; a key added while it is handled is handled once more afterwards.

    A handling answers every earlier wish for its key, timers included: the handler asks again for what it still needs.
    What is not urgent waits behind what is, and still gets one of eight turns.
    """

    def __init__(
        self,
        handle: Callable[[K], Awaitable[None]],
        workers: int = 4,
        backoff: Backoff | None = None,
        random_unit: Callable[[], float] = random.random,
        expected: tuple[type[Exception], ...] = (),
    ) -> None:
        """`expected`: errors that tell of no mistake in the program; they are logged in one line."""
        if workers < 1:
            raise ValueError(f"workers: {workers} is too few; give 1 or more")
        self._handle = handle
        self._num_workers = workers
        self._backoff = backoff or Backoff()
        self._random_unit = random_unit
        self._expected = expected
        self._urgent: OrderedDict[K, float] = OrderedDict()  # key -> since when it waits (monotonic)
        self._resync: OrderedDict[K, float] = OrderedDict()
        self._in_a_row = 0
        self._busy: dict[K, float] = {}  # key -> since when it is being handled
        self._again: dict[K, bool] = {}  # key -> urgent
        self._turn_until = 0.0  # of this turn of the event loop (monotonic); 0 when nothing has begun in it
        self._next_turn: asyncio.Future[None]
        self._timers: dict[K, tuple[float, asyncio.TimerHandle | None]] = {}
        self._failures: dict[K, int] = {}
        self._idle_workers: deque[asyncio.Future[None]] = deque()
        self._running = False
        self._stopped = asyncio.Event()

    def add(self, key: K, urgent: bool = True) -> None:
        """Handle `key` as soon as a worker is free; may be called before `run`, is ignored after `stop`."""
        if self._stopped.is_set() or key in self._urgent:
            return
        if key in self._busy:
            self._again[key] = urgent or self._again.get(key, False)
            return
        if key in self._resync:
            if urgent:
                self._urgent[key] = self._resync.pop(key)
            return
        self._drop_timer(key)
        (self._urgent if urgent else self._resync)[key] = time.monotonic()
        self._wake_one()

    def add_at(self, key: K, when: float) -> None:
        """Handle `key` at `when` (the event loop's clock) at the latest; of several wishes the earliest holds."""
        if self._stopped.is_set() or key in self._urgent or key in self._resync or key in self._again:
            return
        held = self._timers.get(key)
        if held is not None and held[0] <= when:
            return
        self._drop_timer(key)
        timer = asyncio.get_running_loop().call_at(when, self._on_timer, key) if self._running else None
        self._timers[key] = (when, timer)

    def forget(self, key: K) -> None:
        """Drop what is remembered of `key`: its timer and its count of errors."""
        self._drop_timer(key)
        self._failures.pop(key, None)

    def __len__(self) -> int:
        """Keys that wait for a worker or are being handled."""
        return len(self._urgent) + len(self._resync) + len(self._busy)

    def state(self) -> QueueState:
        """What waits and what is being handled, and for how long."""
        now = time.monotonic()
        waiting = [*self._urgent.values(), *self._resync.values()]
        return QueueState(
            urgent=len(self._urgent),
            resync=len(self._resync),
            busy=len(self._busy),
            oldest_age_s=now - min(waiting, default=now),
            oldest_busy_s=now - min(self._busy.values(), default=now),
        )

    async def run(self) -> None:
        """Handle keys until `stop`, which may come before; raises RuntimeError the second time."""
        if self._running:
            raise RuntimeError("a KeyedQueue runs once")
        self._running = True
        loop = asyncio.get_running_loop()
        for key, (when, _) in list(self._timers.items()):
            self._timers[key] = (when, loop.call_at(when, self._on_timer, key))
        tasks = [asyncio.create_task(self._work(), name=f"queue-worker-{n}") for n in range(self._num_workers)]
        try:
            await self._stopped.wait()
        finally:
            self.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def stop(self) -> None:
        """End `run`: what is being handled is cancelled, what waits is dropped."""
        self._stopped.set()
        for key in list(self._timers):
            self._drop_timer(key)
        self._urgent.clear()
        self._resync.clear()
        self._again.clear()

    async def _work(self) -> None:
        while True:
            while not (self._urgent or self._resync):
                idle: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._idle_workers.append(idle)
                await idle
            if self._turn_is_over():
                await self._next_turn
                continue
            key = self._next()
            self._busy[key] = time.monotonic()
            self._drop_timer(key)
            try:
                await self._handle_one(key)
            finally:
                del self._busy[key]
            if key in self._again:
                self.add(key, self._again.pop(key))

    def _turn_is_over(self) -> bool:
        """Whether enough was begun in this turn of the event loop.

        A thousand handlings that never have to wait would otherwise keep the loop from everything else until the last.
        """
        now = time.monotonic()
        if self._turn_until == 0.0:
            loop = asyncio.get_running_loop()
            self._turn_until, self._next_turn = now + _TURN_S, loop.create_future()
            loop.call_soon(self._end_turn)
        return now >= self._turn_until

    def _end_turn(self) -> None:
        self._turn_until = 0.0
        if not self._next_turn.done():
            self._next_turn.set_result(None)

    def _next(self) -> K:
        if self._urgent and (self._in_a_row < _URGENT_IN_A_ROW or not self._resync):
            self._in_a_row += 1
            return self._urgent.popitem(last=False)[0]
        self._in_a_row = 0
        return self._resync.popitem(last=False)[0]

    async def _handle_one(self, key: K) -> None:
        try:
            await self._handle(key)
        except (Exception, asyncio.CancelledError) as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and (self._stopped.is_set() or (task and task.cancelling())):
                raise
            # A cancellation nobody asked this worker for comes from inside the handler and must not end the worker.
            failures = self._failures[key] = self._failures.get(key, 0) + 1
            delay_s = self._backoff.delay_s(failures, self._random_unit())
            if isinstance(error, self._expected):
                log.warning("%s: error %d in a row, next try in %.1f s: %s", key, failures, delay_s, error)
            else:
                log.error(
                    "%s: error %d in a row, next try in %.1f s: %r", key, failures, delay_s, error, exc_info=error
                )
            self.add_at(key, asyncio.get_running_loop().time() + delay_s)
        else:
            self._failures.pop(key, None)

    def _on_timer(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _drop_timer(self, key: K) -> None:
        _, timer = self._timers.pop(key, (0.0, None))
        if timer is not None:
            timer.cancel()

    def _wake_one(self) -> None:
        while self._idle_workers:
            idle = self._idle_workers.popleft()
            if not idle.done():
                idle.set_result(None)
                return
