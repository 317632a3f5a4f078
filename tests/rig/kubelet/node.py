"""A stand-in kubelet: one Node object of a real API server, whose pods are processes of this machine, or are played.

May import aiohttp, the rig's own modules and the command line's local mode. It does to objects what a kubelet does, and
what dead nodes, full memories and missing images do to them where a test says so. Runs on a thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
import sys
from collections.abc import Coroutine, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from dlcloud.sabotage import rank_pids

from ..client import KubeError
from .bodies import Processes, now
from .client import MERGE, STRATEGIC, Access, AsyncClient, LoopThread, Object, path
from .keeping import AGAIN_S, LOST, Keeper, Mode, Pod, Surroundings
from .node_objects import lease, node, node_status
from .played import Play, PlayedPod, Sessions

log = logging.getLogger(__name__)

_HEARTBEAT_S, _LEASE_S = 5.0, 40


class Kubelet:
    """Start it, and pods that the scheduler binds to its node run. Every method may be called from any thread."""

    def __init__(
        self,
        kubeconfig: Path,
        folder: Path,
        *,
        name: str = "node-0",
        mode: Mode = "processes",
        cpu: str = "64",
        memory: str = "256Gi",
        pods: int = 5000,
        gpus: int = 0,
        labels: Mapping[str, str] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """`env` goes into the trainer containers; `played`: agents without ranks; `still`: no agents."""
        self.name = name
        self.play = Play()
        self._kubeconfig, self._folder, self._mode = kubeconfig, folder, mode
        self._capacity = {"cpu": cpu, "memory": memory, "pods": str(pods)}
        self._capacity |= {"nvidia.com/gpu": str(gpus)} if gpus else {}
        self._labels, self._env = dict(labels or {}), dict(env or {})
        self._pods: dict[str, Pod] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> Self:
        """Make the node and wait until pods can be scheduled on it. Raises TimeoutError after 60 s."""
        if self._mode == "processes":
            image = self._folder / "image"
            image.mkdir(parents=True, exist_ok=True)
            build = [sys.executable, "-m", "dlcloud_trainer.agent_build", str(image / "agent.pyz")]
            subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
        self._thread = LoopThread(f"kubelet {self.name}")
        self._thread.run(self._start())
        return self

    def stop(self) -> None:
        """End every pod's processes and remove the node; the pod objects stay as they are."""
        self._thread.run(self._stop())
        self._thread.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # --- what tests ask of it ---

    def freeze(self, *, kill: bool) -> None:
        """The node goes dark: no heartbeat, no status, no deletion is carried out; `kill`: its processes die, too."""
        self._thread.run(self._freeze(kill))

    def thaw(self) -> None:
        """The node is back."""
        self._thread.run(self._thaw())

    def end(self, namespace: str, pod: str, code: int, reason: str = "", message: str = "") -> None:
        """The pod's container ends now, in these words: `OOMKilled` with 137, for example. Raises LookupError."""
        found = self._find(namespace, pod)

        async def now_on_the_loop() -> None:
            found.body_or_fail().end_as(code, reason, message)

        self._thread.run(now_on_the_loop())

    def fail_ranks(self, namespace: str, pod: str, outcome: str = "Error", code: int = 1) -> None:
        """The ranks of a played pod end so, as soon as it has some. Raises LookupError, TimeoutError after 30 s."""
        body = self._find(namespace, pod).body_or_fail()
        assert isinstance(body, PlayedPod), "only played pods are told how their ranks end"
        self._thread.run(body.fail_ranks(outcome, code), 30)

    def ranks(self, namespace: str, pod: str) -> list[int]:
        """The process ids of a pod's ranks. Raises LookupError."""
        return rank_pids(self._find(namespace, pod).uid)

    def log(self, namespace: str, pod: str) -> str:
        """What the pod has written so far; nothing before it is here."""
        try:
            body = self._find(namespace, pod).body_or_fail()
        except LookupError:
            return ""
        return body.log.read_text(errors="replace") if isinstance(body, Processes) else ""

    def withhold_image(self, image: str, message: str) -> None:
        """Pods of this image cannot start: ErrImagePull in these words, then ImagePullBackOff."""
        self._thread.call(self._node.withheld.__setitem__, image, message)

    def release_image(self, image: str) -> None:
        """The image can be pulled after all."""
        self._thread.call(self._node.withheld.pop, image, "")

    def renew_tokens(self) -> None:
        """Every pod gets a fresh token, as an hour from now."""
        self._thread.run(self._renew_tokens())

    # --- inside ---

    async def _start(self) -> None:
        self._client = AsyncClient(Access.of(self._kubeconfig))
        self._node = Surroundings(self.name, self._mode, self._folder, self._env, self.play, self._client, Sessions())
        with contextlib.suppress(KubeError):
            await self._client.ask("DELETE", path("nodes", name=self.name))
        await self._client.ask("POST", path("nodes"), node(self.name, self._labels))
        await self._beat()
        self._spawn(self._heart())
        async with asyncio.timeout(60):
            # The control plane takes its taints off when it has heard of the node.
            while True:
                found = await self._client.ask("GET", path("nodes", name=self.name))
                if not found["spec"].get("taints"):
                    break
                await asyncio.sleep(0.05)
        self._spawn(self._watch())

    async def _stop(self) -> None:
        self._node.frozen = True  # nothing is said of what ends now
        await _end(self._tasks)
        for pod in self._pods.values():
            if pod.body is not None:
                await pod.body.close()
        with contextlib.suppress(KubeError, *LOST):
            await self._client.ask("DELETE", path("nodes", name=self.name))
        await self._node.sessions.close()
        await self._client.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _find(self, namespace: str, name: str) -> Pod:
        for pod in list(self._pods.values()):
            if (pod.namespace, pod.name) == (namespace, name):
                return pod
        raise LookupError(f"node {self.name} has no pod {namespace}/{name}")

    async def _freeze(self, kill: bool) -> None:
        self._node.frozen = True
        self._node.thawed.clear()
        for pod in self._pods.values():
            if kill and pod.body is not None:
                pod.body.end_as(137, "Error", "")
                if isinstance(pod.body, Processes):
                    await pod.body.close()

    async def _renew_tokens(self) -> None:
        for pod in list(self._pods.values()):
            if pod.body is not None:
                token, _ = await Keeper(self._node, pod).token()
                pod.body.renew_token(token)

    async def _thaw(self) -> None:
        self._node.frozen = False
        self._node.thawed.set()
        await self._beat()

    async def _heart(self) -> None:
        while True:
            await asyncio.sleep(_HEARTBEAT_S)
            if not self._node.frozen:
                with contextlib.suppress(KubeError, *LOST):
                    await self._beat()

    async def _beat(self) -> None:
        status = path("nodes", name=self.name, part="status")
        await self._client.ask("PATCH", status, node_status(self._capacity, now()), content_type=STRATEGIC)
        leases = path("coordination.k8s.io/v1/leases", "kube-node-lease")
        beat = lease(self.name, now(), _LEASE_S)
        try:
            await self._client.ask("PATCH", f"{leases}/{self.name}", beat, content_type=MERGE)
        except KubeError as refusal:
            if refusal.status != 404:
                raise
            await self._client.ask("POST", leases, beat)

    async def _watch(self) -> None:
        here = {"fieldSelector": f"spec.nodeName={self.name}"}
        while True:
            try:
                listed = await self._client.ask("GET", path("pods"), **here)
                present = {pod["metadata"]["uid"] for pod in listed["items"]}
                for pod in listed["items"]:
                    self._seen(pod)
                for uid in [uid for uid in self._pods if uid not in present]:
                    self._gone(uid)
                version = listed["metadata"]["resourceVersion"]
                async for event in self._client.watch(path("pods"), version, **here):
                    if event["type"] == "ERROR":
                        break
                    if event["type"] == "DELETED":
                        self._gone(event["object"]["metadata"]["uid"])
                    elif event["type"] != "BOOKMARK":
                        self._seen(event["object"])
            except (KubeError, *LOST) as error:
                log.info("kubelet %s: the watch ended: %r", self.name, error)
            await asyncio.sleep(AGAIN_S)

    def _seen(self, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        if uid not in self._pods:
            self._pods[uid] = known = Pod(pod)
            self._spawn(Keeper(self._node, known).run())
        known = self._pods[uid]
        if "deletionTimestamp" in pod["metadata"] and (
            known.grace_s is None or pod["metadata"]["deletionGracePeriodSeconds"] < known.grace_s
        ):
            known.grace_s = float(pod["metadata"]["deletionGracePeriodSeconds"])
            known.changed.set()

    def _gone(self, uid: str) -> None:
        """The object was removed by force: a kubelet kills what is left."""
        if (pod := self._pods.pop(uid, None)) is not None:
            pod.gone = True
            pod.changed.set()


async def _end(tasks: set[asyncio.Task[None]]) -> None:
    for task in list(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
