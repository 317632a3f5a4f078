"""Turns on a cluster that several tests use at once: those that disturb all others wait until they are alone.

May import the standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def turn(folder: Path, *, alone: bool) -> Iterator[None]:
    """Wait for a turn, and hold it for the length of the block; across processes.

    Whoever wants to be alone closes the gate first, so that those who come later do not go before him.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
    with (folder / "inside").open("a") as inside:
        with (folder / "gate").open("a") as gate:
            fcntl.flock(gate, kind)
            fcntl.flock(inside, kind)
        yield
