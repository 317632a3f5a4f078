"""Who may act: one operator at a time holds the Lease, and each knows by its own clock until when it may believe so.

May import the package's api, connection and lease_terms. It compares no clocks of two machines: a rival's lease has run
out when its object has not changed for a whole duration of our own clock. It never ends the process; whoever awaits
`Lease.run` does.

    lease = Lease(lease_api(connection), namespace, "dlcloud-operator", make_identity(pod_name, pod_uid))
    async with asyncio.TaskGroup() as tasks:  # LeaseLost cancels the rest, and the rest's end cancels it
        tasks.create_task(lease.run())
        await lease.held.wait()
        tasks.create_task(engine.run())       # every write, every answer to an agent: only while lease.valid()
    ...
    await lease.release()                     # last of all, when nothing acts any more
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from .api import ApiError, KubeApi, path_of
from .connection import Connection
from .lease_terms import LeaseTiming, Reading, boottime, make_identity, now_text, same_pod

__all__ = ["Lease", "LeaseLost", "LeaseTiming", "boottime", "lease_api", "make_identity"]

log = logging.getLogger(__name__)

_GROUP = "coordination.k8s.io"


class LeaseLost(Exception):
    """This process may not act any more; the message says why. It cannot be taken back: end the process."""


def lease_api(connection: Connection) -> KubeApi:
    """A way to the API server for the lease alone: behind thousands of creates a renewal would wait until too late."""
    return KubeApi(connection, in_flight=2, patience_s=0.0, call_s=5.0)


class Lease:
    """One contender for the Lease `namespace/name`."""

    def __init__(
        self,
        api: KubeApi,
        namespace: str,
        name: str,
        identity: str,
        timing: LeaseTiming | None = None,
        clock: Callable[[], float] = boottime,
    ) -> None:
        """`identity`: of this process alone (`make_identity`); `clock`: seconds, also while the process is stopped."""
        self._api = api
        self._collection = path_of("leases", namespace, group=_GROUP)
        self._path = path_of("leases", namespace, name, group=_GROUP)
        self._name, self._identity = name, identity
        self._timing = timing or LeaseTiming()
        self._clock = clock
        self._seen: Reading | None = None
        self._valid_until = -math.inf
        self._writing = asyncio.Lock()
        self._released = False
        self._complaint = ""
        self.held = asyncio.Event()  # set once, when the lease was acquired; ask `valid` whether it still is

    def valid(self) -> bool:
        """Whether this process may act now: by its own clock, counted from before the last renewal was sent."""
        return self._clock() < self._valid_until

    def age_s(self) -> float | None:
        """Seconds since the lease was renewed by this process, or was seen to change; None before it was read."""
        if self._seen is None or self._seen.since == -math.inf:
            return None
        return self._clock() - self._seen.since

    async def run(self) -> None:
        """Acquire the lease, however long that takes, and renew it until `release`. Raises LeaseLost when it is lost.

        No error of the API server ends it before the lease runs out by our own clock.
        """
        limit_s = self._timing.renew_deadline_s / 2
        while not self._released and not await self._attempt(self._contend, limit_s):  # noqa: ASYNC110
            await asyncio.sleep(self._wait_s())
        if self._released:
            return
        log.info("lease %s: this process (%s) leads now", self._name, self._identity)
        self.held.set()
        await self._keep()

    async def release(self) -> None:
        """Give the lease back, so that a standby need not wait for its end. Best effort, within 2 s; never raises."""
        self._released = True
        self._valid_until = -math.inf
        if not self.held.is_set():
            return
        try:
            async with asyncio.timeout(2.0):
                while not await self._attempt(self._give_back, 2.0):  # noqa: ASYNC110 - the API server tells no event
                    await asyncio.sleep(0.1)
        except TimeoutError:
            log.warning("lease %s could not be given back; others wait %d s", self._name, self._timing.duration_s)

    async def _keep(self) -> None:
        timing = self._timing
        pause_s = timing.retry_s
        while True:
            await asyncio.sleep(max(0.0, min(pause_s, self._valid_until - self._clock())))
            if self._released:
                return
            left_s = self._valid_until - self._clock()
            if left_s <= 0:
                why = f": {self._complaint}" if self._complaint else ""
                raise LeaseLost(f"the lease {self._name} was not renewed within {timing.renew_deadline_s:g} s{why}")
            renewed = await self._attempt(self._renew, min(left_s, timing.renew_deadline_s / 2))
            pause_s = timing.retry_s if renewed else min(timing.retry_s, 0.5)

    async def _attempt(self, step: Callable[[], Awaitable[bool]], limit_s: float) -> bool:
        """One step against the API server; False when it failed, which is logged once for each reason."""
        try:
            async with asyncio.timeout(limit_s), self._writing:
                done = await step()
        except (ApiError, TimeoutError) as error:
            complaint = str(error) or "no answer in time"
            if complaint != self._complaint:
                log.warning("lease %s: %s; trying again", self._name, complaint)
            self._complaint = complaint
            return False
        self._complaint = ""
        return done

    async def _contend(self) -> bool:
        """Look, and take the lease if nobody holds it."""
        seen = await self._look()
        # Held by ourselves: an attempt of which no reply came.
        free = seen.holder in ("", self._identity) or same_pod(self._identity, seen.holder)
        if (seen.object is not None and free) or self._clock() >= seen.since + self._patience_s(seen):
            return await self._take(seen)
        return False

    def _patience_s(self, seen: Reading) -> float:
        """How long this reading must stay as it is until its holder counts as gone."""
        if seen.object is None and seen.since == -math.inf:
            return 0.0  # there never was one
        told = seen.spec.get("leaseDurationSeconds")
        return float(told) if isinstance(told, int) and told > 0 else float(self._timing.duration_s)

    def _wait_s(self) -> float:
        """Until the next look: in time for the end of a lease that nobody renews."""
        left_s = math.inf
        if self._seen is not None and self._seen.holder:
            left_s = self._seen.since + self._patience_s(self._seen) - self._clock()
        poll_s = self._timing.poll_s * random.uniform(0.8, 1.0)
        return min(poll_s, left_s) if left_s > 0 else poll_s

    async def _look(self) -> Reading:
        try:
            found: Mapping[str, Any] | None = await self._api.get(self._path)
        except ApiError as error:
            if error.status != 404:
                raise
            found = None
        if self._seen is None:
            # A lease never met is treated as renewed just now; where there is none, nobody can hold it.
            self._seen = Reading(found, -math.inf if found is None else self._clock())
        elif not self._seen.looks_like(found):
            self._seen = Reading(found, self._clock())
        return self._seen

    async def _take(self, seen: Reading) -> bool:
        transitions = int(seen.spec.get("leaseTransitions") or 0) + (1 if seen.object is not None else 0)
        return await self._write(seen, acquired_at=now_text(), transitions=transitions)

    async def _renew(self) -> bool:
        """Write a new time. Raises LeaseLost when the object names another holder."""
        assert self._seen is not None
        spec = self._seen.spec
        acquired_at, transitions = str(spec.get("acquireTime")), int(spec.get("leaseTransitions") or 0)
        if await self._write(self._seen, acquired_at=acquired_at, transitions=transitions):
            return True
        # Somebody wrote it since: an earlier attempt of ours that was believed lost, a person, or a rival.
        seen = await self._look()
        if seen.object is not None and seen.holder != self._identity:
            self._valid_until = -math.inf
            raise LeaseLost(f"the lease {self._name} was taken by {seen.holder or 'nobody'}")
        return await self._write(seen, acquired_at=acquired_at, transitions=transitions)

    async def _write(self, seen: Reading, acquired_at: str, transitions: int) -> bool:
        """Make the lease ours from this moment on, if it still is as seen. False when it is not."""
        spec = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": self._timing.duration_s,
            "acquireTime": acquired_at,
            "renewTime": now_text(),
            "leaseTransitions": transitions,
        }
        before = self._clock()
        try:
            written = await self._put(seen.object, spec)
        except ApiError as error:
            if error.status not in (404, 409):
                raise
            return False
        if self._released:
            return False
        self._seen = Reading(written, before)
        self._valid_until = before + self._timing.renew_deadline_s
        return True

    async def _put(self, known: Mapping[str, Any] | None, spec: Mapping[str, Any]) -> Mapping[str, Any]:
        if known is None:
            metadata = {"name": self._name}
            body = {"apiVersion": f"{_GROUP}/v1", "kind": "Lease", "metadata": metadata, "spec": spec}
            return await self._api.create(self._collection, body)
        return await self._api.replace(self._path, {**known, "spec": {**(known.get("spec") or {}), **spec}})

    async def _give_back(self) -> bool:
        seen = await self._look()
        if seen.object is None or seen.holder != self._identity:
            return True
        spec = {"holderIdentity": "", "renewTime": now_text()}
        try:
            await self._put(seen.object, spec)
        except ApiError as error:
            if error.status not in (404, 409):
                raise
            return False  # a renewal that was under way came first
        log.info("lease %s: given back", self._name)
        return True
