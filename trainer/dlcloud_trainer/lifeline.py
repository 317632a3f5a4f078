"""Notices that a peer is gone when the collectives do not.

May import the standard library only. gloo closes the connection to a dead peer at once, but about one time in a hundred
an operation that was just being started is never woken (seen with torch 2.13, three ranks: it would wait for its time
limit), and a kernel of NCCL may wait for ever. So a thread watches the connections themselves.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

LOOK_S = 0.25
GRACE_S = 1.0


class Connection(NamedTuple):
    """A connected socket: its name in /proc (unique while the machine runs), and its two ends as `address port`."""

    name: str
    here: str
    there: str


def connections() -> frozenset[Connection]:
    """The connected sockets of this process."""
    return frozenset(_connections())


def seen_from_there(mine: Iterable[Connection]) -> str:
    """For `to_peers` at the other ends: what they call these connections."""
    return "\n".join(f"{one.there} {one.here}" for one in mine)


def to_peers(mine: Iterable[Connection], told: Iterable[str]) -> frozenset[Connection]:
    """Those of `mine` that the peers who told `seen_from_there` have as well.

    The others lead elsewhere: a thread may reach the object store while the ranks find each other.
    """
    known = {line for text in told for line in text.splitlines()}
    return frozenset(one for one in mine if f"{one.here} {one.there}" in known)


class Lifeline:
    """Watches sockets: when one is closed, and `release` not called within the grace, it calls `on_lost`."""

    def __init__(self, watched: frozenset[Connection], on_lost: Callable[[], None], grace_s: float = GRACE_S) -> None:
        self._watched = frozenset(one.name for one in watched)
        self._on_lost, self._grace_s = on_lost, grace_s
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


def _connections() -> Iterator[Connection]:
    for descriptor, name in _sockets():
        with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as one:
            if one.family in (socket.AF_INET, socket.AF_INET6):
                yield Connection(name, _end(one.getsockname()), _end(one.getpeername()))


def _end(address: tuple[str, int]) -> str:
    return f"{address[0].removeprefix('::ffff:')} {address[1]}"  # an IPv6 socket may hold an IPv4 connection


def _names() -> Iterator[str]:
    for _, name in _sockets():
        yield name


def _sockets() -> Iterator[tuple[int, str]]:
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            name = str(entry.readlink())
            if name.startswith("socket:["):
                yield int(entry.name), name
