"""The running engine: changes go on the queue, the queue drives the reconciler, once a minute all is looked at again.

May import core, api and the engine's own modules. It owns neither cluster nor rendezvous: others start and stop them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from dlcloud_operator.core.model import JobKey

from . import reconciler
from .clock import utc_now
from .cluster import Cluster
from .observer import SILENT, Observer, QueueState
from .queue import Backoff, KeyedQueue
from .reconciler import Objects, Reconciler, Renderer

RESYNC_S = 60.0
# No single pass is this slow, even for 1,024 pods: a call that hangs must not take a worker away for good.
PASS_LIMIT_S = 120.0


class Rendezvous(reconciler.Rendezvous, Protocol):
    """The rendezvous server, as the engine sees it."""

    def subscribe(
        self, notify: Callable[[JobKey], None], progressed: Callable[[JobKey], None] | None = None
    ) -> None: ...


class Engine:
    """Keeps every job of a cluster on its way, until `stop`."""

    def __init__(
        self,
        cluster: Cluster,
        renderer: Renderer,
        rendezvous: Rendezvous,
        now: Callable[[], datetime] = utc_now,
        workers: int = 4,
        resync_s: float = RESYNC_S,
        backoff: Backoff | None = None,
        objects: Objects = lambda job: (),
        observer: Observer = SILENT,
        expected: tuple[type[Exception], ...] = (),
    ) -> None:
        """Subscribes to the cluster's changes and to the agents' reports; nothing is done with them before `run`.

        `objects(job)`: the manifests of what a job owns beside its pods. `expected`: errors of the transport, which
        are logged without a traceback.
        """
        self._now = now
        self._resync_s = resync_s
        self._started = False
        self._reconciler = Reconciler(cluster, renderer, rendezvous, now, objects=objects, observer=observer)
        self._queue: KeyedQueue[JobKey] = KeyedQueue(self._handle, workers, backoff, expected=expected)
        self._known: set[JobKey] = set()
        cluster.subscribe(self.add)
        rendezvous.subscribe(self.add, self._progressed)

    def add(self, key: JobKey) -> None:
        """Look at this job as soon as possible. Call it from the event loop's thread.

        Those added before `run` are all the jobs there are: what happens then goes before them.
        """
        self._known.add(key)
        self._queue.add(key, urgent=self._started)

    def queue_state(self) -> QueueState:
        """What waits and what is being handled, and for how long."""
        return self._queue.state()

    async def run(self) -> None:
        """Work until `stop` is called or this is cancelled; an error of one job is logged and tried again."""
        self._started = True
        resync = asyncio.create_task(self._resync(), name="engine-resync")
        try:
            await self._queue.run()
        finally:
            resync.cancel()
            await asyncio.gather(resync, return_exceptions=True)

    def stop(self) -> None:
        """End `run`; a pass under way is cancelled, which is harmless: it can be repeated at any point."""
        self._queue.stop()

    def _progressed(self, key: JobKey) -> None:
        """Nothing has to be done; the status may tell it when its next turn comes."""
        due = self._reconciler.progress_due(key)
        if due is None:
            self.add(key)
        else:
            delay_s = max(0.0, (due - self._now()).total_seconds())
            self._queue.add_at(key, asyncio.get_running_loop().time() + delay_s)

    async def _handle(self, key: JobKey) -> None:
        self._known.add(key)
        async with asyncio.timeout(PASS_LIMIT_S):
            wake = await self._reconciler.reconcile(key)
        if not self._reconciler.knows(key):
            self._known.discard(key)
        if wake is not None:
            delay_s = max(0.0, (wake - self._now()).total_seconds())
            self._queue.add_at(key, asyncio.get_running_loop().time() + delay_s)

    async def _resync(self) -> None:
        """Each job once in `resync_s`, evenly: a thousand at once would hold up what matters."""
        while True:
            keys = sorted(self._known)
            pause_s = self._resync_s / (len(keys) + 1)
            for key in keys:
                await asyncio.sleep(pause_s)
                if key in self._known:
                    self._queue.add(key, urgent=False)
            await asyncio.sleep(pause_s)
