"""Waiting for a condition that has to be asked for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from benchmarks.control_plane.measured import Measured


async def until(condition: Callable[[], Awaitable[bool]], limit_s: float, what: str, every_s: float = 0.05) -> None:
    """Asks until it holds. Raises TimeoutError naming what did not happen."""
    end = time.monotonic() + limit_s
    while not await condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not happen within {limit_s:.0f} s")
        await asyncio.sleep(every_s)


async def settled(process: Measured, limit_s: float = 30.0, share: float = 0.05) -> None:
    """Until the process takes less than `share` of a core for two seconds."""
    before = process.cpu_s()
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        await asyncio.sleep(2.0)
        now = process.cpu_s()
        if now - before < 2.0 * share:
            return
        before = now
