"""Notices that a peer is gone when the collectives do not.

May import the standard library only. gloo closes the connection to a dead peer at once, but about one time in a hundred
an operation that was just being started is never woken (seen with torch 2.13, three ranks: it would wait for its time
limit), and a kernel of NCCL may wait for ever. So a thread watches the connections themselves.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

LOOK_S = 0.25
GRACE_S = 1.0


def connections() -> frozenset[str]:
    """The connected sockets of this process, by their names in /proc (unique while the machine runs)."""
    return frozenset(_connections())


class Lifeline:
    """Watches sockets: when one is closed, and `release` not called within the grace, it calls `on_lost`."""

    def __init__(self, watched: frozenset[str], on_lost: Callable[[], None], grace_s: float = GRACE_S) -> None:
        self._watched, self._on_lost, self._grace_s = watched, on_lost, grace_s
        self._released = threading.Event()
        threading.Thread(target=self._watch, name="lifeline", daemon=True).start()

    def release(self) -> None:
        """From now on peers may leave."""
        self._released.set()

    def _watch(self) -> None:
        while not self._released.wait(LOOK_S):
            if self._watched - frozenset(_names()):
                # Usually the main thread has heard of it already and is on its way out.
                if not self._released.wait(self._grace_s):
                    self._on_lost()
                return


def _connections() -> Iterator[str]:
    for descriptor, name in _sockets():
        with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as one:
            if one.family in (socket.AF_INET, socket.AF_INET6) and one.getpeername():
                yield name


def _names() -> Iterator[str]:
    for _, name in _sockets():
        yield name


def _sockets() -> Iterator[tuple[int, str]]:
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            name = str(entry.readlink())
            if name.startswith("socket:["):
                yield int(entry.name), name
