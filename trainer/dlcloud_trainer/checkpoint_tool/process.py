"""How a tool's process ends, and with which code: the same for all that speak JSON lines.

May import the standard library only.
"""

from __future__ import annotations

import os
import signal
import stat
import threading

DONE, FAILED, WRONG = 0, 1, 2


def end_with_parent() -> None:
    """From now on a signal, or the end of whoever reads our lines, ends the process."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _leave_at_once)
    _watch_parent()


def _watch_parent() -> None:
    """End when nobody listens any more: what is half done is found again by the next call."""

    def watch() -> None:
        while os.read(0, 4096):  # not sys.stdin: its lock would be held at our exit
            pass
        os._exit(FAILED)

    if stat.S_ISFIFO(os.fstat(0).st_mode):
        threading.Thread(target=watch, name="parent", daemon=True).start()


def _leave_at_once(number: int, _frame: object) -> None:
    os._exit(128 + number)
