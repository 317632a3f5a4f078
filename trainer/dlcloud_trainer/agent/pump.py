"""A thread that reads many pipes and hands what comes to their sinks; one for the ranks' output, one for their events.

May import the standard library only. A sink that blocks (a slow reader of the pod's log) blocks its own pump, nothing
else.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK = 64 * 1024
LINGER_S = 1.0  # how long a grandchild that kept a pipe open is still listened to
_MOST_AT_THE_END = 2 * 1024 * 1024  # above any pipe's capacity: what the rank itself left there


class Sink(Protocol):
    """Takes a pipe's bytes in order."""

    def feed(self, data: bytes) -> None: ...

    def close(self) -> None:
        """No more will come that matters: hand on what is incomplete."""


class _Pipe:
    def __init__(self, fd: int, sink: Sink) -> None:
        self.fd, self.sink = fd, sink
        self.done: Callable[[], None] | None = None
        self.close_at: float | None = None


class Pump(threading.Thread):
    """Reads the pipes it was given until their end."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self._selector = selectors.DefaultSelector()
        self._wake_r, self._wake_w = os.pipe()
        os.set_blocking(self._wake_r, False)
        os.set_blocking(self._wake_w, False)
        self._selector.register(self._wake_r, selectors.EVENT_READ)
        self._requests: deque[Callable[[], None]] = deque()
        self._pipes: dict[Any, _Pipe] = {}
        self._stopping = False

    def call(self, request: Callable[[], None]) -> None:
        """Have the pump's thread run something between two reads."""
        self._requests.append(request)
        with contextlib.suppress(BlockingIOError):  # full: it will wake anyway
            os.write(self._wake_w, b"x")

    def add(self, key: Any, fd: int, sink: Sink) -> None:
        """Read `fd`, which now belongs to the pump, into the sink."""

        def register() -> None:
            os.set_blocking(fd, False)
            self._pipes[key] = _Pipe(fd, sink)
            self._selector.register(fd, selectors.EVENT_READ, key)

        self.call(register)

    def finish(self, key: Any, done: Callable[[], None]) -> None:
        """The writer is dead: read what it left, close the sink, call `done`, and stop listening within a second."""
        self.call(lambda: self._finish(key, done))

    def stop(self, limit_s: float) -> None:
        """Read what is there, close every sink and end. Waits at most `limit_s`."""
        self._stopping = True
        self.call(lambda: None)
        self.join(limit_s)

    def run(self) -> None:
        """Read until `stop`."""
        while True:
            for event, _ in self._selector.select(self._timeout()):
                if event.data is not None:
                    self._read(event.data)
                else:
                    while self._drained_wake():
                        pass
            while self._requests:
                self._requests.popleft()()
            now = time.monotonic()
            for key, pipe in list(self._pipes.items()):
                if pipe.close_at is not None and now >= pipe.close_at:
                    self._drop(key)
            if self._stopping and not self._requests:
                for key in list(self._pipes):
                    self._finish(key, lambda: None)
                return

    def _drained_wake(self) -> bool:
        try:
            return len(os.read(self._wake_r, 4096)) == 4096
        except BlockingIOError:
            return False

    def _timeout(self) -> float | None:
        times = [pipe.close_at for pipe in self._pipes.values() if pipe.close_at is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _read(self, key: Any) -> int:
        """Bytes read, 0 at the end or when nothing is there."""
        pipe = self._pipes.get(key)
        if pipe is None:
            return 0
        try:
            data = os.read(pipe.fd, CHUNK)
        except BlockingIOError:
            return 0
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(pipe.fd)
            os.close(pipe.fd)
            pipe.fd = -1
            if pipe.done is not None:
                self._drop(key)
            return 0
        pipe.sink.feed(data)
        return len(data)

    def _finish(self, key: Any, done: Callable[[], None]) -> None:
        pipe = self._pipes.get(key)
        if pipe is not None:
            read = 0
            while pipe.fd >= 0 and read < _MOST_AT_THE_END:
                count = self._read(key)
                if not count:
                    break
                read += count
            pipe.sink.close()
            pipe.done, pipe.close_at = done, time.monotonic() + LINGER_S
            if pipe.fd < 0:
                self._drop(key)
        done()

    def _drop(self, key: Any) -> None:
        pipe = self._pipes.pop(key)
        if pipe.fd >= 0:
            self._selector.unregister(pipe.fd)
            os.close(pipe.fd)
        pipe.sink.close()
