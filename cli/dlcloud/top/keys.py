"""The terminal while `top` has it: single keys, resizes, signals, and all as it was afterwards.

May import the standard library. Signals that end the command become exceptions, so that the screen is restored.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from types import FrameType

_QUIT = (b"q", b"Q", b"\x04")


class Keys:
    """Waits for a key, a resize or the time."""

    def __init__(self, keyboard: int | None, wake: int) -> None:
        self._keyboard, self._wake = keyboard, wake

    def wait(self, seconds: float) -> bool:
        """Wait so long, less after a resize; whether the user wants to leave."""
        watched = [self._wake] + ([self._keyboard] if self._keyboard is not None else [])
        ready = select.select(watched, [], [], seconds)[0]
        if self._wake in ready:
            os.read(self._wake, 4096)
        if self._keyboard is None or self._keyboard not in ready:
            return False
        try:
            key = os.read(self._keyboard, 1)
        except OSError:
            key = b""
        if not key:
            self._keyboard = None  # the keyboard is gone; the screen may still be there
        return key in _QUIT


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Signals that end the command wait until the context is over: a screen is never left half given back."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def terminal_keys() -> Iterator[Keys]:
    """Keys while the context lasts; SIGTERM and SIGHUP raise SystemExit with the shell's code for them."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)

    def resized(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(OSError):
            os.write(write_end, b"r")

    def ended(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {signal.SIGWINCH: signal.signal(signal.SIGWINCH, resized)}
    for end in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(end) is not signal.SIG_IGN:
            before[end] = signal.signal(end, ended)
    keyboard = _keyboard()
    settings = termios.tcgetattr(keyboard) if keyboard is not None else None
    try:
        if keyboard is not None:
            tty.setcbreak(keyboard)
        yield Keys(keyboard, read_end)
    finally:
        if keyboard is not None and settings is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(keyboard, termios.TCSADRAIN, settings)
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        os.close(read_end)
        os.close(write_end)


def _keyboard() -> int | None:
    try:
        return sys.stdin.fileno() if sys.stdin.isatty() else None
    except (ValueError, OSError):
        return None
