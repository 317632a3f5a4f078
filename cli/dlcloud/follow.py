"""Follow a session from its start to its end: show it, stop it when asked, leave nothing behind.

May import the session, the views and the stop requests. Every wait here has a limit or can be ended by a second Ctrl-C.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from dlcloud_operator.api import Phase

from .exits import (
    EXIT_BROKEN_PIPE,
    EXIT_FAILED,
    EXIT_HUNG_UP,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_SUSPENDED,
    EXIT_TERMINATED,
)
from .output import Output
from .session import LocalSession
from .stopping import StopRequests
from .view.snapshot import Snapshot
from .view.terminal import View

TICK_S = 0.2
DRAIN_MARGIN_S = 10.0
FINISHED_GRACE_S = 10.0
SETTLE_S = 5.0
Companion = Callable[[LocalSession], Awaitable[None]]
_WORDS = {
    EXIT_INTERRUPTED: "Ctrl-C",
    EXIT_TERMINATED: "SIGTERM",
    EXIT_HUNG_UP: "the terminal is gone",
    EXIT_BROKEN_PIPE: "nobody reads the output any more",
    EXIT_SUSPENDED: "dlcloud suspend",
}


async def follow(
    session: LocalSession,
    view: View,
    out: Output,
    stop: StopRequests,
    beside: Companion | None = None,
    at_end: Companion | None = None,
) -> tuple[int, Snapshot]:
    """Run the session; the answer is the exit code and the last snapshot. Raises SessionError, when all is ended.

    `beside` runs beside the job and is cancelled at its end; `at_end` runs after it, while the store still answers.
    """
    companion: asyncio.Task[None] | None = None
    grace_s = 0.0
    try:
        if await _start(session, stop):
            if beside is not None:
                companion = asyncio.create_task(_awaited(beside(session)))
            await _watch(session, view, out, stop)
            grace_s = 0.0 if stop.now.is_set() else FINISHED_GRACE_S
            if at_end is not None:
                await _unless(stop.now, at_end(session))
            if session.phase is not None and session.phase.finished:
                await _unless(stop.now, session.settle(SETTLE_S))
    finally:
        if companion is not None:
            companion.cancel()
            await asyncio.gather(companion, return_exceptions=True)
        await _close(session, stop, grace_s)
        last = session.snapshot()
        view.close(last)
    if last.phase is Phase.SUCCEEDED:
        return EXIT_OK, last
    return stop.exit_code or EXIT_FAILED, last


async def _unless(event: asyncio.Event, work: Awaitable[None]) -> None:
    """Do the work, or leave it when the event comes first."""
    working, waiting = asyncio.create_task(_awaited(work)), asyncio.create_task(event.wait())
    await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
    for task in (working, waiting):
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working


async def _awaited(work: Awaitable[None]) -> None:
    await work


async def _start(session: LocalSession, stop: StopRequests) -> bool:
    starting = asyncio.create_task(session.start())
    stopped = asyncio.create_task(stop.soon.wait())
    await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    if not starting.done():
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
        return False
    starting.result()
    return True


async def _watch(session: LocalSession, view: View, out: Output, stop: StopRequests) -> None:
    """Return when the job has ended, is suspended at our wish, the drain took too long, or a second signal came."""
    loop = asyncio.get_running_loop()
    deadline: float | None = None
    while True:
        session.check()
        view.show(session.snapshot())
        if out.closed_pipe:
            stop.request(EXIT_BROKEN_PIPE)
        phase = session.phase
        if (phase is not None and phase.finished) or stop.now.is_set():
            return
        if stop.soon.is_set() and deadline is None:
            deadline = loop.time() + session.drain_s + DRAIN_MARGIN_S
            session.tracker.stopping = (
                f"stopping ({_WORDS.get(stop.exit_code, 'asked to')}): saving, at most {session.drain_s:.0f} s; "
                "Ctrl-C again kills"
            )
            await session.suspend()
            continue
        if deadline is not None and (phase is Phase.SUSPENDED or loop.time() > deadline):
            return
        await _wait_any(session.changed, stop.now if deadline is not None else stop.soon)


async def _wait_any(*events: asyncio.Event) -> None:
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=TICK_S, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


async def _close(session: LocalSession, stop: StopRequests, grace_s: float) -> None:
    """Close the session; a second signal meanwhile takes the pods' grace away."""
    closing = asyncio.create_task(session.close(grace_s))
    hurry = asyncio.create_task(stop.now.wait())
    await asyncio.wait({closing, hurry}, return_when=asyncio.FIRST_COMPLETED)
    if not closing.done():
        await session.hurry()
    hurry.cancel()
    await closing
