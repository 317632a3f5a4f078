"""Which pod agents reach: the leader labels itself, and the rendezvous Service selects that label.

May import the package's api alone. Best effort: a wrong label costs agents a 503 and a retry, never a wrong answer.

    label = LeaderLabel(api, namespace, pod_name, lease.valid)
    tasks.create_task(label.run())            # once the lease is held; until cancelled
    ...
    await label.drop()                        # when stopping, before the lease is released
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable

from .api import ApiError, KubeApi, path_of

log = logging.getLogger(__name__)

LABEL_LEADER = "dlcloud.dev/leader"
OPERATOR = "app.kubernetes.io/name=dlcloud-operator"
RESYNC_S = 60.0
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.5, 10.0


class LeaderLabel:
    """The label of one operator pod; without a pod name (outside a cluster) nothing is done."""

    def __init__(
        self,
        api: KubeApi,
        namespace: str,
        pod_name: str,
        leads: Callable[[], bool],
        resync_s: float = RESYNC_S,
    ) -> None:
        """`leads`: asked before each write, so that a process that was frozen does not label itself afterwards."""
        self._api = api
        self._namespace = namespace
        self._pod = pod_name
        self._leads = leads
        self._resync_s = resync_s
        self._failures = 0

    async def run(self) -> None:
        """Keep the label on this pod and off the others while this one leads; until cancelled. Never raises."""
        while self._pod:
            done = await self.take()
            self._failures = 0 if done else self._failures + 1
            pause_s = min(_MAX_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(self._failures - 1, 10))
            await asyncio.sleep(self._resync_s if done else pause_s * random.uniform(0.5, 1.0))

    async def take(self) -> bool:
        """Label this pod and take the label from every other that carries it. False when something failed."""
        if not self._pod or not self._leads():
            return True
        try:
            await self._set(self._pod, "true")
            others = [pod async for pod in self._labelled() if pod[0] != self._pod]
            for name, uid in others:
                if self._leads():
                    await self._set(name, None, uid)
                    log.info("pod %s does not lead any more: its label %s was taken away", name, LABEL_LEADER)
        except ApiError as error:
            log.log(
                logging.DEBUG if self._failures else logging.WARNING,
                "agents may not find this leader: label %s of the pods in %s: %s; trying again",
                LABEL_LEADER,
                self._namespace,
                error,
            )
            return False
        return True

    async def drop(self, limit_s: float = 2.0) -> None:
        """Take the label from this pod. Best effort, within `limit_s`; never raises."""
        if not self._pod:
            return
        try:
            async with asyncio.timeout(limit_s):
                await self._set(self._pod, None)
        except (ApiError, TimeoutError) as error:
            log.warning("this pod keeps the label %s for now: %s", LABEL_LEADER, error or "no answer in time")

    async def _set(self, pod: str, value: str | None, uid: str = "") -> None:
        """Merge the label into a pod; None removes it. A pod that is gone, or another's by now (`uid`), is no error."""
        metadata = {"labels": {LABEL_LEADER: value}, **({"uid": uid} if uid else {})}
        try:
            await self._api.merge(path_of("pods", self._namespace, pod), {"metadata": metadata})
        except ApiError as error:
            gone = error.status == 404 or (uid and error.status == 409)
            if not gone or (value is not None):
                raise

    async def _labelled(self) -> AsyncIterator[tuple[str, str]]:
        selector = f"{OPERATOR},{LABEL_LEADER}=true"
        async for pod in self._api.items(path_of("pods", self._namespace), labelSelector=selector):
            metadata = pod["metadata"]
            yield str(metadata["name"]), str(metadata["uid"])
