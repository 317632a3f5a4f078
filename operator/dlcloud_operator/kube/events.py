"""Kubernetes Events on TrainingJobs: what happened to a job, for `kubectl describe` and `kubectl events`.

May import core and the API's names. Nobody waits for it and nothing fails by it: events are told to a queue with one
sender. A repetition raises the count of the first; a job that tells too much is held back, and what was left out is
counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from dlcloud_operator.api import API_VERSION
from dlcloud_operator.core.model import Emit, JobKey, JobView

log = logging.getLogger(__name__)

COMPONENT = "dlcloud-operator"
SAME_FOR = timedelta(minutes=10)
BURST, REFILL_S = 25, 5.0  # a job may tell so many events at once, then one in so many seconds
_REMEMBERED = 4096
_QUEUED = 10_000
_FLUSH_S = 2.0
_MAX_MESSAGE_BYTES, _MAX_REASON_CHARS = 1024, 128  # the API server's limits
_MAX_NAME = 200


class WritingApi(Protocol):
    """What is needed of the API server."""

    async def create(self, path: str, body: Mapping[str, Any]) -> Any: ...
    async def merge(self, path: str, patch: Mapping[str, Any]) -> Any: ...


@dataclass
class _Told:
    """One event and its repetitions. `written`: how many of them the API server knows, 0 before it was created."""

    job: JobView
    event: Emit
    message: str
    name: str
    first_at: datetime
    last_at: datetime
    count: int = 1
    written: int = 0
    queued: bool = False


@dataclass
class _Allowance:
    """How much a job may still tell. `left_out`: events since the last one that was told."""

    tokens: float
    at: datetime
    left_out: int = 0


class EventRecorder:
    """Sends events in the order in which they happened, between `start` and `stop`."""

    def __init__(self, api: WritingApi, now: Callable[[], datetime], instance: str = "") -> None:
        """`instance` is the operator's pod."""
        self._api = api
        self._now = now
        self._instance = instance
        self._told: OrderedDict[tuple[str, str, str], _Told] = OrderedDict()
        self._allowances: OrderedDict[str, _Allowance] = OrderedDict()
        self._queue: asyncio.Queue[_Told] = asyncio.Queue(_QUEUED)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to send."""
        if self._task is None:
            self._task = asyncio.create_task(self._send_all(), name="events")

    async def stop(self) -> None:
        """Send what waits, for at most 2 s, and end."""
        task, self._task = self._task, None
        if task is None:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._queue.join(), _FLUSH_S)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def emit(self, job: JobView, event: Emit) -> None:
        """Have an event told. Returns at once and never raises."""
        now = self._now()
        key = (job.uid, event.reason, event.message)
        told = self._told.get(key)
        if told is not None and timedelta() <= now - told.last_at < SAME_FOR:
            told.count += 1
            told.last_at = now
            told.job = job
            self._told.move_to_end(key)
            # A repetition that may not be sent now is in the count of the next one.
            if not told.queued and self._allowed(job.uid, now) is not None:
                self._enqueue(told)
            return
        allowance = self._allowed(job.uid, now)
        if allowance is None:
            self._allowances[job.uid].left_out += 1
            return
        message = _shortened(event.message, allowance.left_out)
        told = _Told(job, event, message, _name(job.key), now, now)
        if self._enqueue(told):
            allowance.left_out = 0
            self._told[key] = told
            self._told.move_to_end(key)
            while len(self._told) > _REMEMBERED:
                self._told.popitem(last=False)
        else:
            allowance.left_out += 1

    def _allowed(self, uid: str, now: datetime) -> _Allowance | None:
        """Take one of the job's tokens, None when it has none."""
        allowance = self._allowances.get(uid)
        if allowance is None:
            allowance = self._allowances[uid] = _Allowance(BURST, now)
            while len(self._allowances) > _REMEMBERED:
                self._allowances.popitem(last=False)
        else:
            self._allowances.move_to_end(uid)
        passed_s = max(0.0, (now - allowance.at).total_seconds())
        allowance.tokens = min(float(BURST), allowance.tokens + passed_s / REFILL_S)
        allowance.at = now
        if allowance.tokens < 1:
            return None
        allowance.tokens -= 1
        return allowance

    def _enqueue(self, told: _Told) -> bool:
        try:
            self._queue.put_nowait(told)
        except asyncio.QueueFull:
            log.debug("%s: too many events wait, %s is left out", told.job.key, told.event.reason)
            return False
        told.queued = True
        return True

    async def _send_all(self) -> None:
        while True:
            told = await self._queue.get()
            told.queued = False
            try:
                await self._send(told)
            except Exception as error:  # an event that is lost must not lose those after it
                log.debug("%s: event %s is not written: %s", told.job.key, told.event.reason, error)
            finally:
                self._queue.task_done()

    async def _send(self, told: _Told) -> None:
        path = f"/api/v1/namespaces/{told.job.key.namespace}/events"
        count = told.count
        if told.written:
            try:
                await self._api.merge(f"{path}/{told.name}", {"count": count, "lastTimestamp": _stamp(told.last_at)})
                told.written = count
                return
            except Exception as error:
                if getattr(error, "status", None) != 404:
                    raise
                told.name = _name(told.job.key)  # the API server keeps events for an hour
        await self._api.create(path, self._body(told, count))
        told.written = count

    def _body(self, told: _Told, count: int) -> dict[str, Any]:
        job = told.job
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": told.name, "namespace": job.key.namespace},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": "TrainingJob",
                "namespace": job.key.namespace,
                "name": job.key.name,
                "uid": job.uid,
                "resourceVersion": job.resource_version,
            },
            "reason": told.event.reason[:_MAX_REASON_CHARS],
            "message": told.message,
            "type": "Warning" if told.event.warning else "Normal",
            "count": count,
            "firstTimestamp": _stamp(told.first_at),
            "lastTimestamp": _stamp(told.last_at),
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
            "reportingInstance": self._instance,
        }


def _name(key: JobKey) -> str:
    return f"{key.name[:_MAX_NAME]}.{secrets.token_hex(8)}"


def _stamp(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _shortened(message: str, left_out: int) -> str:
    """At most what the API server takes, with how many events are missing before this one."""
    tail = ""
    if left_out:
        tail = f" ({left_out} event{'s' * (left_out != 1)} before this one left out)"
    room = _MAX_MESSAGE_BYTES - len(tail.encode())
    data = message.encode("utf-8", "replace")
    kept = data if len(data) <= room else data[: room - 3] + "…".encode()
    return kept.decode(errors="ignore") + tail
