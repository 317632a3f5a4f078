"""One pass over one job: observe, plan, act. The decisions are the core's; here is how they are carried out.

May import core, api and the engine's own modules. Called for one key at a time (the queue sees to that).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from dlcloud_operator.api import InvalidManifest, TrainingJobStatus
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

log = logging.getLogger(__name__)

PROGRESS_EVERY = timedelta(seconds=5)
_MAX_MESSAGE_CHARS = 1024
_CREATES_AT_ONCE = 16
_CONFLICT_FIRST = timedelta(milliseconds=10)
_CONFLICT_MAX = timedelta(seconds=2)
_REFUSED_FIRST = timedelta(seconds=1)
_REFUSED_MAX = timedelta(seconds=60)
# A wake that is already due would make the queue spin.
_SHORTEST_WAKE = timedelta(milliseconds=20)


Planner = Callable[[JobView, Sequence[PodView], Reports, datetime], Sequence[Action]]


class Renderer(Protocol):
    """Makes the manifest of one pod."""

    def render(self, job: JobView, index: int, incarnation: int) -> Mapping[str, Any]: ...


class Rendezvous(Protocol):
    """The part of the rendezvous server a reconciler needs."""

    def publish(self, job: JobView) -> None: ...
    def forget(self, key: JobKey) -> None: ...
    def reports_for(self, key: JobKey) -> Reports: ...


@dataclass
class _Refusal:
    """The cluster does not want a pod: shown in the job's message, tried again at `retry_at`."""

    generation: int
    text: str
    retry_at: datetime
    count: int
    shown: str = ""  # the job's message as written with `text` in it
    planned: str = ""  # the same message as the plan gave it


@dataclass
class _Memory:
    """What is kept of a job between two passes. All of it may be lost at any time."""

    uid: str
    written_at: datetime | None = None
    conflicts: int = 0
    refusal: _Refusal | None = None


class Reconciler:
    """Carries out plans against a cluster and hands the rounds that were read back to the rendezvous."""

    def __init__(
        self,
        cluster: Cluster,
        renderer: Renderer,
        rendezvous: Rendezvous,
        now: Callable[[], datetime],
        planner: Planner = plan,
    ) -> None:
        self._planner = planner
        self._cluster = cluster
        self._renderer = renderer
        self._rendezvous = rendezvous
        self._now = now
        self._memory: dict[JobKey, _Memory] = {}

    async def reconcile(self, key: JobKey) -> datetime | None:
        """One pass; the answer is when the next is due even if nothing happens. Raises what the cluster raises."""
        job = await self._cluster.get_job(key)
        if job is None:
            self._memory.pop(key, None)
            self._rendezvous.forget(key)
            return None
        memory = self._memory.get(key)
        if memory is None or memory.uid != job.uid:
            memory = self._memory[key] = _Memory(job.uid)
        self._rendezvous.publish(job)
        pods = await self._cluster.list_pods(job)
        reports = self._rendezvous.reports_for(key)
        now = self._now()
        if memory.refusal is not None and memory.refusal.generation != job.generation:
            memory.refusal = None  # the user changed the job: try at once
        planned = _as_planned(job, memory.refusal)
        actions = list(self._planner(planned, pods, reports, now))
        if not any(isinstance(action, CreatePod) for action in actions):
            memory.refusal = None  # nothing is asked of the cluster any more
        if planned is not job and not any(isinstance(action, WriteStatus) for action in actions):
            actions.insert(0, WriteStatus(planned.status, urgent=False))
        try:
            wake = await self._apply(job, memory, actions)
        except Conflict as conflict:
            memory.conflicts += 1
            log.debug("%s: %s; planning again", key, conflict)
            # At once the first time; then slower, because a reading from a cache may need time to catch up.
            again = timedelta() if memory.conflicts == 1 else _CONFLICT_FIRST * 2 ** min(memory.conflicts, 10)
            return self._now() + min(again, _CONFLICT_MAX)
        memory.conflicts = 0
        return None if wake is None else max(wake, self._now() + _SHORTEST_WAKE)

    def knows(self, key: JobKey) -> bool:
        """Whether the job existed in its last pass."""
        return key in self._memory

    async def _apply(self, job: JobView, memory: _Memory, actions: list[Action]) -> datetime | None:
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
                    job, retry_at = await self._create(job, memory, creates)
                    wakes += [retry_at] if retry_at else []
                case DeletePod():
                    await self._cluster.delete_pod(job, action)
                case DeleteJob():
                    if action.uid == job.uid:
                        await self._cluster.delete_job(job)
                case Emit() if not held:
                    await self._cluster.emit(job, action)
                case Wake():
                    wakes.append(action.at)
        return min(wakes, default=None)

    async def _write(self, job: JobView, memory: _Memory, action: WriteStatus) -> tuple[JobView, datetime | None]:
        """Write a status unless it may wait; the answer is the job as it is now, and until when the write is held."""
        status = _with_refusal(action.status, memory.refusal)
        if status == job.status:
            return job, None
        urgent = action.urgent or status.message != job.status.message
        now = self._now()
        if not urgent and memory.written_at is not None and now < memory.written_at + PROGRESS_EVERY:
            # Nothing is kept: the pass at that time plans again, from newer reports.
            return job, memory.written_at + PROGRESS_EVERY
        job = await self._cluster.write_status(job, status)
        memory.written_at = now
        self._rendezvous.publish(job)
        return job, None

    async def _create(
        self, job: JobView, memory: _Memory, creates: Sequence[CreatePod]
    ) -> tuple[JobView, datetime | None]:
        """Create pods some at a time; after a refusal no more are tried before the time in the answer."""
        held = memory.refusal
        if held is not None and self._now() < held.retry_at:
            return job, held.retry_at
        room = asyncio.Semaphore(_CREATES_AT_ONCE)
        refused: list[str] = []

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
        count = 1 if held is None else held.count + 1
        pause = min(_REFUSED_FIRST * 2 ** min(count - 1, 10), _REFUSED_MAX)
        refusal = _Refusal(job.generation, refused[0], self._now() + pause, count)
        if held is not None:
            refusal.shown, refusal.planned = held.shown, held.planned
        memory.refusal = refusal
        log.warning("%s: %s; next try in %.0f s", job.key, refusal.text, pause.total_seconds())
        if held is None or held.text != refusal.text:
            await self._cluster.emit(job, Emit("FailedCreate", refusal.text[:_MAX_MESSAGE_CHARS], warning=True))
        # Written at once, so that the reason does not wait for the next pass.
        job, _ = await self._write(job, memory, WriteStatus(_as_planned(job, refusal).status))
        return job, refusal.retry_at


def _as_planned(job: JobView, refusal: _Refusal | None) -> JobView:
    """The job without the refusal in its message, as the plan itself would have left it."""
    if refusal is None or not refusal.shown or job.status.message != refusal.shown:
        return job
    return replace(job, status=job.status.model_copy(update={"message": refusal.planned}))


def _with_refusal(status: TrainingJobStatus, refusal: _Refusal | None) -> TrainingJobStatus:
    if refusal is None or (status.phase is not None and status.phase.finished):
        return status
    text = f"{status.message}; {refusal.text}" if status.message else refusal.text
    refusal.planned, refusal.shown = status.message, text[:_MAX_MESSAGE_CHARS]
    return status.model_copy(update={"message": refusal.shown})
