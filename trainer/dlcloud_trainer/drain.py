"""SIGTERM: the request to save and leave.

May import exits. A thread hears of the signal through a pipe: the main thread may sit in a C++ call that waits for a
peer, where no Python handler runs.
"""

from __future__ import annotations

import os
import signal
import threading

from .exits import DRAINED


class Drain:
    """Before `take_charge` a SIGTERM ends the process at once; after it, whoever took charge looks at `asked`."""

    def __init__(self) -> None:
        self.asked = False
        self._in_charge = False
        read, write = os.pipe()
        os.set_blocking(write, False)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, lambda number, frame: None)
        threading.Thread(target=self._listen, args=(read,), name="drain", daemon=True).start()

    def take_charge(self) -> None:
        """From now on other ranks count on this one: it leaves with them."""
        self._in_charge = True

    def _listen(self, descriptor: int) -> None:
        while numbers := os.read(descriptor, 64):
            if signal.SIGTERM in numbers:
                self.asked = True
                if not self._in_charge:
                    os._exit(DRAINED)
