"""Signals that ask a run to stop: the first one drains, the second one kills, the third one leaves at once.

May import the standard library and the exit codes. Handlers only take notes and wake the event loop.
"""

from __future__ import annotations

import asyncio
import os
import signal
from types import FrameType, TracebackType
from typing import Self

from .exits import EXIT_HUNG_UP, EXIT_INTERRUPTED, EXIT_TERMINATED

_CODES = {signal.SIGINT: EXIT_INTERRUPTED, signal.SIGTERM: EXIT_TERMINATED, signal.SIGHUP: EXIT_HUNG_UP}


class StopRequests:
    """`soon` is set by the first signal, `now` by the second; `exit_code` is the first one's. For use with `with`."""

    def __init__(self) -> None:
        self.soon = asyncio.Event()
        self.now = asyncio.Event()
        self.exit_code = 0
        self._count = 0
        self._loop = asyncio.get_running_loop()
        self._before: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        for number in _CODES:
            if number is signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue  # nohup asked for it
            self._before[number] = signal.signal(number, self._received)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def request(self, exit_code: int) -> None:
        """Ask for a drain without a signal."""
        if not self.soon.is_set():
            self.exit_code = exit_code
            self.soon.set()

    def _received(self, number: int, _frame: FrameType | None) -> None:
        code = _CODES[signal.Signals(number)]
        if (
            number == signal.SIGHUP and self._count
        ):  # a closing session sends SIGTERM and SIGHUP at once: no hurry meant
            return
        self._count += 1
        if self._count >= 3:  # the loop hangs: what we started dies with us
            os._exit(self.exit_code or code)
        if self._count == 1:
            self._loop.call_soon_threadsafe(self.request, code)
        else:
            self._loop.call_soon_threadsafe(self.now.set)
