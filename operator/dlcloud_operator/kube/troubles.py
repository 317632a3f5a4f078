"""Why a placed pod does not start, where only its Events say so: volumes that cannot be mounted, sandboxes that fail.

May import core, the engine's reading of objects and `waiting`. Best effort and bounded: a job's Events are listed at
most every 30 s, for some of its pods, and nobody waits long for the answer.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Protocol

from dlcloud_operator.core.model import JobView, PodPhase, PodView
from dlcloud_operator.engine.reading import EPOCH, mapping, text, time_of

from .waiting import CREATING, Waiting, camel, maps, one_line

log = logging.getLogger(__name__)

CREATES_FOR = timedelta(seconds=10)  # most containers are there by then
LOOK_EVERY = timedelta(seconds=30)
_PODS_AT_ONCE = 3  # of a job: its pods mostly share their trouble
_JOBS_AT_ONCE = 4
_WAIT_S = 2.0
_REMEMBERED_JOBS = 4096
_MOUNT = {"FailedMount": "MountFailed", "FailedAttachVolume": "MountFailed", "FailedMapVolume": "MountFailed"}
_PULLING = "Pulling"


class EventsApi(Protocol):
    """What is needed of the API server."""

    async def get(self, path: str, **params: str) -> Mapping[str, Any]: ...


@dataclass
class _Memory:
    """What was found about a job's pods, by uid."""

    looked_at: datetime
    found: dict[str, Waiting] = field(default_factory=dict)


class Troubles:
    """Gives waiting pods the words of their Events."""

    def __init__(self, api: EventsApi) -> None:
        self._api = api
        self._memory: OrderedDict[str, _Memory] = OrderedDict()
        self._looking = 0

    async def explained(self, job: JobView, pods: Sequence[PodView], now: datetime) -> Sequence[PodView]:
        """The pods, those that are being created for more than 10 s with what their Events say. Never raises."""
        stuck = [pod for pod in pods if _is_stuck(pod, now)]
        if not stuck:
            return pods
        memory = self._memory.get(job.uid)
        if memory is None or now >= memory.looked_at + LOOK_EVERY:
            memory = await self._look(job, stuck, now, memory)
        found = memory.found
        # Pods that were not looked at most likely wait for the same.
        common = next(iter(found.values()), None) if len(set(found.values())) == 1 else None
        return [
            _with_words(pod, found.get(pod.uid) or (common if len(stuck) > _PODS_AT_ONCE else None))
            if _is_stuck(pod, now)
            else pod
            for pod in pods
        ]

    async def _look(self, job: JobView, stuck: Sequence[PodView], now: datetime, before: _Memory | None) -> _Memory:
        """List the Events of the first pods; what was known stays where nothing new could be learnt."""
        known = dict(before.found) if before is not None else {}
        memory = _Memory(now, {pod.uid: known[pod.uid] for pod in stuck if pod.uid in known})
        if self._looking >= _JOBS_AT_ONCE:
            return before or memory  # asked again at the job's next pass
        self._memory[job.uid] = memory
        self._memory.move_to_end(job.uid)
        while len(self._memory) > _REMEMBERED_JOBS:
            self._memory.popitem(last=False)
        self._looking += 1
        try:
            async with asyncio.timeout(_WAIT_S):
                for pod in stuck[:_PODS_AT_ONCE]:
                    waiting = newest_trouble(await self._events(job, pod))
                    if waiting is not None:
                        memory.found[pod.uid] = waiting
                    else:
                        memory.found.pop(pod.uid, None)
        except Exception as error:  # a missing explanation must never keep a job from its work
            log.debug("%s: the pods' events cannot be listed: %s", job.key, error)
        finally:
            self._looking -= 1
        return memory

    async def _events(self, job: JobView, pod: PodView) -> Any:
        path = f"/api/v1/namespaces/{job.key.namespace}/events"
        answer = await self._api.get(path, fieldSelector=f"involvedObject.uid={pod.uid}")
        return mapping(answer).get("items")


def newest_trouble(events: Any) -> Waiting | None:
    """The newest Warning of a pod, in its own words, or that its image is being pulled; None when there is neither."""
    newest: tuple[datetime, Mapping[str, Any]] | None = None
    for event in maps(events):
        if event.get("type") != "Warning" and event.get("reason") != _PULLING:
            continue
        at = _time(event)
        if newest is None or at >= newest[0]:
            newest = at, event
    if newest is None:
        return None
    event = newest[1]
    reason, said = text(event.get("reason")), one_line(text(event.get("message")))
    if event.get("type") != "Warning":
        return Waiting(CREATING, said or _PULLING)
    # The kubelet's own prefix says less than what follows it, and its time would be news with every repetition.
    return Waiting(_MOUNT.get(reason) or camel(reason), one_line(f"{reason}: {said}" if said else reason))


def _is_stuck(pod: PodView, now: datetime) -> bool:
    return (
        pod.phase is PodPhase.PENDING
        and pod.waiting_reason == CREATING
        and not pod.deleting
        and now >= pod.created_at + CREATES_FOR
    )


def _with_words(pod: PodView, waiting: Waiting | None) -> PodView:
    if waiting is None:
        return pod
    return replace(pod, waiting=waiting.words, waiting_reason=waiting.reason)


def _time(event: Mapping[str, Any]) -> datetime:
    times = (
        mapping(event.get("series")).get("lastObservedTime"),
        event.get("lastTimestamp"),
        event.get("eventTime"),
        mapping(event.get("metadata")).get("creationTimestamp"),
    )
    return next((at for at in map(time_of, times) if at is not None), EPOCH)
