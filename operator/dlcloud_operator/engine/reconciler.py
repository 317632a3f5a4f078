"""One pass over one job: observe, plan, act. The decisions are the core's; here is how they are carried out.

May import core, api and the engine's own modules. Called for one key at a time (the queue sees to that).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from dlcloud_operator.api import InvalidManifest
from dlcloud_operator.core import plan
from dlcloud_operator.core.model import (
    Action,
    CreatePod,
    DeleteJob,
    DeletePod,
    Emit,
    JobKey,
    JobView,
    PodView,
    Reports,
    Wake,
    WriteStatus,
)

from .cluster import Cluster, Conflict, Refused
from .observer import SILENT, Observer, PassResult
from .refusal import MAX_MESSAGE_CHARS, Refusal, as_planned, next_refusal, with_refusal

log = logging.getLogger(__name__)

PROGRESS_EVERY = timedelta(seconds=5)
WORDS_EVERY = timedelta(seconds=1)
# Above so many running jobs each is written less often: 1,000 of them every 8.2 s, which is 122 writes a second.
_RUNNING_AT_FULL_RATE = 200
_RUNNING_PER_EXTRA_SECOND = 250
_CREATES_AT_ONCE = 16
_CONFLICT_FIRST = timedelta(milliseconds=10)
_CONFLICT_MAX = timedelta(seconds=2)
# A wake that is already due would make the queue spin.
_SHORTEST_WAKE = timedelta(milliseconds=20)


Planner = Callable[[JobView, Sequence[PodView], Reports, datetime], Sequence[Action]]
# The manifests of what a job owns beside its pods.
Objects = Callable[[JobView], Sequence[Mapping[str, Any]]]


class Renderer(Protocol):
    """Makes the manifest of one pod."""

    def render(self, job: JobView, index: int, incarnation: int) -> Mapping[str, Any]: ...


class Rendezvous(Protocol):
    """The part of the rendezvous server a reconciler needs."""

    def publish(self, job: JobView) -> None: ...
    def forget(self, key: JobKey) -> None: ...
    def reports_for(self, key: JobKey) -> Reports: ...


@dataclass
class _Memory:
    """What is kept of a job between two passes. All of it may be lost at any time."""

    uid: str
    written_at: datetime | None = None
    conflicts: int = 0
    refusal: Refusal | None = None


class Reconciler:
    """Carries out plans against a cluster and hands the rounds that were read back to the rendezvous."""

    def __init__(
        self,
        cluster: Cluster,
        renderer: Renderer,
        rendezvous: Rendezvous,
        now: Callable[[], datetime],
        planner: Planner = plan,
        objects: Objects = lambda job: (),
        observer: Observer = SILENT,
    ) -> None:
        """`objects` are made before a job's first pod and kept as they are rendered while it has pods."""
        self._planner = planner
        self._cluster = cluster
        self._renderer = renderer
        self._rendezvous = rendezvous
        self._now = now
        self._objects = objects
        self._observer = observer
        self._memory: dict[JobKey, _Memory] = {}
        self._running: set[JobKey] = set()

    async def reconcile(self, key: JobKey) -> datetime | None:
        """One pass; the answer is when the next is due even if nothing happens. Raises what the cluster raises."""
        result, began_s = PassResult.ERROR, time.monotonic()
        try:
            result, wake = await self._pass(key)
            return wake
        finally:
            self._observer.reconciled(key, result, time.monotonic() - began_s)

    async def _pass(self, key: JobKey) -> tuple[PassResult, datetime | None]:
        job = await self._cluster.get_job(key)
        if job is None:
            self._memory.pop(key, None)
            self._running.discard(key)
            self._rendezvous.forget(key)
            return PassResult.OK, None
        memory = self._memory.get(key)
        if memory is None or memory.uid != job.uid:
            # Met in mid-training: a new operator with a thousand of them does not write all their progress at once.
            memory = self._memory[key] = _Memory(job.uid, written_at=self._now() if job.status.round else None)
        self._publish(job)
        pods = await self._cluster.list_pods(job)
        reports = self._rendezvous.reports_for(key)
        now = self._now()
        if memory.refusal is not None and memory.refusal.generation != job.generation:
            memory.refusal = None  # the user changed the job: try at once
        refusals = 0 if memory.refusal is None else memory.refusal.count
        planned = as_planned(job, memory.refusal)
        actions = list(self._planner(planned, pods, reports, now))
        creates = any(isinstance(action, CreatePod) for action in actions)
        missing = self._missing(job) if pods or creates else []
        if not creates and not missing:
            memory.refusal = None  # nothing is asked of the cluster any more
        if planned is not job and not any(isinstance(action, WriteStatus) for action in actions):
            actions.insert(0, WriteStatus(planned.status, urgent=False))
        try:
            wake = await self._apply(job, memory, actions, missing)
        except Conflict as conflict:
            memory.conflicts += 1
            log.debug("%s: %s; planning again", key, conflict)
            # At once the first time; then slower, because a reading from a cache may need time to catch up.
            again = timedelta() if memory.conflicts == 1 else _CONFLICT_FIRST * 2 ** min(memory.conflicts, 10)
            return PassResult.CONFLICT, self._now() + min(again, _CONFLICT_MAX)
        memory.conflicts = 0
        refused = memory.refusal is not None and memory.refusal.count > refusals
        due = None if wake is None else max(wake, self._now() + _SHORTEST_WAKE)
        return PassResult.REFUSED if refused else PassResult.OK, due

    def progress_due(self, key: JobKey) -> datetime | None:
        """When progress may be written again; None when nothing was written yet."""
        memory = self._memory.get(key)
        return None if memory is None or memory.written_at is None else memory.written_at + self._progress_every()

    def knows(self, key: JobKey) -> bool:
        """Whether the job existed in its last pass."""
        return key in self._memory

    def _publish(self, job: JobView) -> None:
        """Hand out what the job decides, and keep count of those that run."""
        self._rendezvous.publish(job)
        if job.status.round is not None and not _finished(job):
            self._running.add(job.key)
        else:
            self._running.discard(job.key)

    def _progress_every(self) -> timedelta:
        more = max(0, len(self._running) - _RUNNING_AT_FULL_RATE)
        return PROGRESS_EVERY + timedelta(seconds=more / _RUNNING_PER_EXTRA_SECOND)

    def _missing(self, job: JobView) -> list[Mapping[str, Any]]:
        """The job's objects that are not as they should be; by the index, so it costs no call."""
        if _finished(job) or job.spec is None or job.deleting:
            return []
        return [manifest for manifest in self._objects(job) if not self._cluster.has_object(job, manifest)]

    async def _apply(
        self, job: JobView, memory: _Memory, actions: list[Action], missing: list[Mapping[str, Any]]
    ) -> datetime | None:
        wakes: list[datetime] = []
        held = False
        position = 0
        while position < len(actions):
            action = actions[position]
            position += 1
            match action:
                case WriteStatus():
                    job, held_until = await self._write(job, memory, action)
                    if held_until is not None:
                        held = True  # the events belong to the write: told now, they would be told again with it
                        wakes.append(held_until)
                case CreatePod():
                    creates = [action]
                    while position < len(actions) and isinstance(following := actions[position], CreatePod):
                        creates.append(following)
                        position += 1
                    job, retry_at = await self._create(job, memory, missing, creates)
                    wakes += [retry_at] if retry_at else []
                    missing = []
                case DeletePod():
                    await self._cluster.delete_pod(job, action)
                case DeleteJob():
                    if action.uid == job.uid:
                        await self._cluster.delete_job(job)
                case Emit() if not held:
                    await self._cluster.emit(job, action)
                case Wake():
                    wakes.append(action.at)
        if missing and not _finished(job):
            _, retry_at = await self._create(job, memory, missing, [])
            wakes += [retry_at] if retry_at else []
        return min(wakes, default=None)

    async def _write(self, job: JobView, memory: _Memory, action: WriteStatus) -> tuple[JobView, datetime | None]:
        """Write a status unless it may wait; the answer is the job as it is now, and until when the write is held."""
        status = with_refusal(action.status, memory.refusal)
        if status == job.status:
            return job, None
        now = self._now()
        urgent = action.urgent or (not action.said and status.message != job.status.message)
        every = WORDS_EVERY if action.said else self._progress_every()
        if not urgent and memory.written_at is not None and now < memory.written_at + every:
            # Nothing is kept: the pass at that time plans again, from newer reports.
            return job, memory.written_at + every
        job = await self._cluster.write_status(job, status)
        memory.written_at = now
        self._publish(job)
        return job, None

    async def _create(
        self, job: JobView, memory: _Memory, missing: Sequence[Mapping[str, Any]], creates: Sequence[CreatePod]
    ) -> tuple[JobView, datetime | None]:
        """Make what is missing, then pods some at a time; after a refusal nothing until the time in the answer."""
        held = memory.refusal
        if held is not None and self._now() < held.retry_at:
            return job, held.retry_at
        room = asyncio.Semaphore(_CREATES_AT_ONCE)
        refused: list[str] = []
        for manifest in missing:  # before any pod: none shall run unprotected
            try:
                await self._cluster.ensure_object(job, manifest)
            except Refused as why:
                refused.append(f"the {manifest['kind']} {manifest['metadata']['name']} cannot be made: {why}")
                break

        async def create(action: CreatePod) -> None:
            async with room:
                if refused:
                    return
                try:
                    manifest = self._renderer.render(job, action.index, action.incarnation)
                    await self._cluster.create_pod(job, manifest)
                except (Refused, InvalidManifest) as error:
                    refused.append(f"worker {action.index} cannot be created: {error}")

        ends = await asyncio.gather(*(create(action) for action in creates), return_exceptions=True)
        # A conflict says more than another error: what was planned is outdated.
        for error in sorted((end for end in ends if end is not None), key=lambda e: not isinstance(e, Conflict)):
            raise error
        if not refused:
            memory.refusal = None
            return job, None
        now = self._now()
        refusal = memory.refusal = next_refusal(held, job.generation, refused[0], now)
        log.warning("%s: %s; next try in %.0f s", job.key, refusal.text, (refusal.retry_at - now).total_seconds())
        if held is None or held.text != refusal.text:
            await self._cluster.emit(job, Emit("FailedCreate", refusal.text[:MAX_MESSAGE_CHARS], warning=True))
        # Written at once, so that the reason does not wait for the next pass.
        job, _ = await self._write(job, memory, WriteStatus(as_planned(job, refusal).status))
        return job, refusal.retry_at


def _finished(job: JobView) -> bool:
    return job.status.phase is not None and job.status.phase.finished
