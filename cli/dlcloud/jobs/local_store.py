"""A way to the objects of a local run: the user's S3 server, the embedded one that runs, or one started for a while.

May import the embedded store and the objects module. A server that is started here ends with the context.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from dlcloud_operator.api import InvalidManifest, TrainingJobSpec

from ..home import short
from ..objects import Access
from ..store import given_access, is_locked
from .errors import JobsError, Unreachable
from .run_folder import RunInfo

_ATTACH_S = 20.0
_START_S = 60.0
_POLL_S = 0.05


@contextlib.contextmanager
def store_access(uri: str, spec: TrainingJobSpec | None, info: RunInfo) -> Iterator[Access | None]:
    """Access to what is below `uri` while the context lasts; None for file:// and for no URI. Raises JobsError."""
    if not uri.startswith("s3://"):
        yield None
    elif info.endpoint:
        yield own_server(info.endpoint, spec.object_store.region if spec else "us-east-1")
    else:
        with embedded_server(info.store) as access:
            yield access


def own_server(endpoint: str, region: str) -> Access:
    """The user's own S3 server, keys from the environment. Raises JobsError with what is missing."""
    try:
        return given_access(endpoint, region, os.environ)
    except InvalidManifest as invalid:
        raise JobsError("; ".join(problem.message for problem in invalid.problems)) from None


@contextlib.contextmanager
def embedded_server(folder: Path) -> Iterator[Access]:
    """The S3 server over this folder: the one of a run that has it, else one of our own. Raises JobsError."""
    if not (folder / "data").is_dir():
        raise JobsError(f"{short(folder)}: the data of the run's S3 server is gone")
    give_up = time.monotonic() + _ATTACH_S
    while is_locked(folder):
        access = _running(folder)
        if access is not None:
            yield access
            return
        if time.monotonic() > give_up:
            raise Unreachable(f"{short(folder)}: the S3 server of another run holds it and does not answer; try again")
        time.sleep(_POLL_S)
    with _started(folder) as access:
        yield access


def _running(folder: Path) -> Access | None:
    from ..local.store import access_of_running

    found = access_of_running(folder)
    return Access(*found) if found is not None else None


@contextlib.contextmanager
def _started(folder: Path) -> Iterator[Access]:
    """A server in a thread with a loop of its own: the caller may have one already."""
    told: queue.SimpleQueue[Access | BaseException] = queue.SimpleQueue()
    stop = _Stop()
    thread = threading.Thread(target=lambda: asyncio.run(_serve(folder, told, stop)), daemon=True)
    thread.start()
    try:
        found = told.get(timeout=_START_S)
        if isinstance(found, BaseException):
            raise Unreachable(str(found)) from None
        yield found
    finally:
        stop.set()
        thread.join()


class _Stop:
    """An event of one loop that another thread sets, also before the loop is there."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._set = False
        self._task: tuple[asyncio.AbstractEventLoop, asyncio.Task[None]] | None = None

    def watch(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
        with self._lock:
            self._task = (loop, task)
            if self._set:
                task.cancel()

    def set(self) -> None:
        with self._lock:
            self._set = True
            if self._task is not None:
                loop, task = self._task
                with contextlib.suppress(RuntimeError):  # it ended by itself, and its loop with it
                    loop.call_soon_threadsafe(task.cancel)


async def _serve(folder: Path, told: queue.SimpleQueue[Access | BaseException], stop: _Stop) -> None:
    from ..local.store import EmbeddedStore
    from ..local.weed import StoreFailed

    async def serve() -> None:
        async with EmbeddedStore(folder) as store:
            told.put(Access(store.endpoint, store.access_key, store.secret_key))
            await asyncio.Event().wait()

    task = asyncio.create_task(serve())
    stop.watch(asyncio.get_running_loop(), task)
    try:
        await task
    except asyncio.CancelledError:
        told.put(StoreFailed("stopped"))
    except (StoreFailed, OSError) as error:
        told.put(error)
