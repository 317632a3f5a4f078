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
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import aiohttp

from dlcloud.local.facts import Objects
from dlcloud.sabotage import rank_pids

from ..client import KubeError
from .bodies import Body, Processes, Still, now, runs_processes
from .client import MERGE, STRATEGIC, Access, AsyncClient, LoopThread, Object, path
from .node_objects import lease, node, node_status, references, texts, token_request
from .played import Play, PlayedPod, Sessions
from .pod_status import Look, stamp, status_patch

log = logging.getLogger(__name__)

Mode = Literal["processes", "played", "still"]
_HEARTBEAT_S, _LEASE_S = 5.0, 40
_AGAIN_S = 0.2
_LOOK_AGAIN_S = 1.0
_DEFAULT_GRACE_S = 30
_LOST = (aiohttp.ClientError, OSError, TimeoutError, ValueError)


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
        self._image = folder / "image"
        self._pods: dict[str, _Pod] = {}
        self._withheld: dict[str, str] = {}
        self._frozen = False
        self._thawed = asyncio.Event()
        self._objects: dict[str, Objects] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> Self:
        """Make the node and wait until pods can be scheduled on it. Raises AssertionError after 60 s."""
        if self._mode == "processes":
            self._image.mkdir(parents=True, exist_ok=True)
            build = [sys.executable, "-m", "dlcloud_trainer.agent_build", str(self._image / "agent.pyz")]
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
        """The ranks of a played pod end so. Raises LookupError."""
        body = self._find(namespace, pod).body_or_fail()
        assert isinstance(body, PlayedPod), "only played pods are told how their ranks end"
        self._thread.call(body.fail_ranks, outcome, code)

    def ranks(self, namespace: str, pod: str) -> list[int]:
        """The process ids of a pod's ranks. Raises LookupError."""
        return rank_pids(self._find(namespace, pod).uid)

    def log(self, namespace: str, pod: str) -> str:
        """What the pod has written so far. Raises LookupError."""
        body = self._find(namespace, pod).body_or_fail()
        return body.log.read_text(errors="replace") if isinstance(body, Processes) else ""

    def withhold_image(self, image: str, message: str) -> None:
        """Pods of this image cannot start: ErrImagePull in these words, then ImagePullBackOff."""
        self._thread.call(self._withheld.__setitem__, image, message)

    def release_image(self, image: str) -> None:
        """The image can be pulled after all."""
        self._thread.call(self._withheld.pop, image, "")

    def renew_tokens(self) -> None:
        """Every pod gets a fresh token, as an hour from now."""
        self._thread.run(self._renew_tokens())

    # --- inside ---

    async def _start(self) -> None:
        self._client = AsyncClient(Access.of(self._kubeconfig))
        self._sessions = Sessions()
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
        self._frozen = True
        await _end(self._tasks)
        for pod in self._pods.values():
            if pod.body is not None:
                await pod.body.close()
        with contextlib.suppress(KubeError, *_LOST):
            await self._client.ask("DELETE", path("nodes", name=self.name))
        await self._sessions.close()
        await self._client.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _find(self, namespace: str, name: str) -> _Pod:
        for pod in list(self._pods.values()):
            if (pod.namespace, pod.name) == (namespace, name):
                return pod
        raise LookupError(f"node {self.name} has no pod {namespace}/{name}")

    async def _freeze(self, kill: bool) -> None:
        self._frozen = True
        self._thawed.clear()
        for pod in self._pods.values():
            if kill and pod.body is not None:
                pod.body.end_as(137, "Error", "")
                if isinstance(pod.body, Processes):
                    await pod.body.close()

    async def _thaw(self) -> None:
        self._frozen = False
        self._thawed.set()
        await self._beat()

    async def _heart(self) -> None:
        while True:
            await asyncio.sleep(_HEARTBEAT_S)
            if not self._frozen:
                with contextlib.suppress(KubeError, *_LOST):
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
            except (KubeError, *_LOST) as error:
                log.info("kubelet %s: the watch ended: %r", self.name, error)
            await asyncio.sleep(_AGAIN_S)

    def _seen(self, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        if uid not in self._pods:
            self._pods[uid] = known = _Pod(pod)
            self._spawn(self._keep(known))
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

    async def _keep(self, pod: _Pod) -> None:
        """One pod from its binding to the removal of its object."""
        if (pod.raw.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
            while pod.grace_s is None and not pod.gone:
                await pod.next_change(None)
            await self._remove(pod)
            return
        self._spawn(self._supply(pod))
        told: Look | None = None
        asked: float | None = None
        while not pod.gone:
            if self._frozen:
                await self._thawed.wait()
            look = pod.look()
            if look != told:
                await self._tell(pod, look)
                told = look
            if pod.grace_s is not None and asked != pod.grace_s:
                asked = pod.grace_s
                if pod.body is not None:
                    pod.body.terminate(asked)
            ended = pod.look().end is not None or pod.body is None
            if pod.grace_s is not None and ended and pod.look() in (told, Look(pod.waiting)):
                await self._remove(pod)
                break
            if pod.look() == told:
                await pod.next_change(None)
        pod.gone = True
        if pod.body is not None:
            await pod.body.close()

    async def _supply(self, pod: _Pod) -> None:
        """Give the pod its image, Secrets, token and body, however long they take; then fresh tokens."""
        image = pod.raw["spec"]["containers"][0]["image"]
        event = ""
        while (withheld := self._withheld.get(image)) is not None and not pod.over:
            word = "ImagePullBackOff" if event else "ErrImagePull"
            text = f'Back-off pulling image "{image}": ErrImagePull: {withheld}' if event else withheld
            pod.wait_for(word, text)
            if not event:
                event = f'Failed to pull image "{image}": {withheld}'
                await self._event(pod, "Failed", event)
            await asyncio.sleep(_LOOK_AGAIN_S)
        objects = self._objects.setdefault(pod.namespace, Objects({}, {}))
        while not pod.over and pod.body is None:
            try:
                await self._read_references(pod, objects)
                token, life_s = await self._token(pod)
                if not pod.over:
                    pod.body = self._body(pod, objects, token)
                    pod.changed.set()
            except (KubeError, *_LOST) as error:
                log.info("kubelet %s: pod %s: %r", self.name, pod.name, error)
                await asyncio.sleep(_AGAIN_S)
        told = ""
        while not pod.over and pod.body is not None:
            look = pod.body.look()
            if look.running_since is not None or look.end is not None:
                break
            _, message = look.waiting
            if message != told and message.startswith("MountVolume"):
                told = message
                await self._event(pod, "FailedMount", message)
            with contextlib.suppress(KubeError, *_LOST):
                await self._read_references(pod, objects)
            await asyncio.sleep(_LOOK_AGAIN_S / 2)
        while not pod.over and pod.body is not None:
            await asyncio.sleep(0.8 * life_s)
            with contextlib.suppress(KubeError, *_LOST):
                token, life_s = await self._token(pod)
                pod.body.renew_token(token)

    def _body(self, pod: _Pod, objects: Objects, token: str) -> Body:
        changed: Callable[[], None] = pod.changed.set
        if not runs_processes(pod.raw) or self._mode == "still":
            return Still(changed)
        if self._mode == "played":
            return PlayedPod(pod.raw, token=token, play=self.play, sessions=self._sessions, on_change=changed)
        folder = self._folder / "pods" / f"{pod.namespace}_{pod.name}_{pod.uid[:8]}"
        return Processes(
            pod.raw, folder=folder, image=self._image, token=token, objects=objects, on_change=changed, env=self._env
        )

    async def _token(self, pod: _Pod) -> tuple[str, float]:
        """A token as the pod's projected volume asks for it, and its seconds of life; none where it has no such."""
        request = token_request(pod.raw)
        if request is None:
            return "", 3600.0
        account = pod.raw["spec"].get("serviceAccountName") or "default"
        where = path("serviceaccounts", pod.namespace, account, "token")
        answer = await self._client.ask("POST", where, request)
        return answer["status"]["token"], float(answer["spec"]["expirationSeconds"])

    async def _renew_tokens(self) -> None:
        for pod in list(self._pods.values()):
            if pod.body is not None:
                token, _ = await self._token(pod)
                pod.body.renew_token(token)

    async def _read_references(self, pod: _Pod, objects: Objects) -> None:
        for kind, name in references(pod.raw["spec"]):
            held: Any = objects.secrets if kind == "secrets" else objects.config_maps
            try:
                found = await self._client.ask("GET", path(kind, pod.namespace, name))
                held[name] = texts(found)
            except KubeError as refusal:
                if refusal.status != 404:
                    raise
                held.pop(name, None)

    async def _tell(self, pod: _Pod, look: Look) -> None:
        patch = status_patch(pod.raw, look, pod.started_at)
        while not pod.gone and not self._frozen:
            try:
                where = path("pods", pod.namespace, pod.name, "status")
                await self._client.ask("PATCH", where, patch, content_type=STRATEGIC)
                return
            except KubeError as refusal:
                if refusal.status in (404, 409, 422):
                    return  # the object is gone, or another one has its name
            except _LOST:
                pass
            await asyncio.sleep(_AGAIN_S)

    async def _remove(self, pod: _Pod) -> None:
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod.uid}}
        while not pod.gone:
            if self._frozen:
                await self._thawed.wait()
            try:
                await self._client.ask("DELETE", path("pods", pod.namespace, pod.name), options)
                return
            except KubeError as refusal:
                if refusal.status in (404, 409):
                    return
            except _LOST:
                pass
            await asyncio.sleep(_AGAIN_S)

    async def _event(self, pod: _Pod, reason: str, message: str) -> None:
        at = stamp(now())
        body = {
            "metadata": {"generateName": f"{pod.name}.", "namespace": pod.namespace},
            "involvedObject": {"kind": "Pod", "apiVersion": "v1", "namespace": pod.namespace, "name": pod.name}
            | {"uid": pod.uid},
            "reason": reason,
            "message": message,
            "type": "Warning",
            "source": {"component": "kubelet", "host": self.name},
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": 1,
        }
        with contextlib.suppress(KubeError, *_LOST):
            await self._client.ask("POST", path("events", pod.namespace), body)


class _Pod:
    """A pod object bound to the node, and what has become of it here."""

    def __init__(self, raw: Object) -> None:
        self.raw = raw
        self.namespace, self.name = str(raw["metadata"]["namespace"]), str(raw["metadata"]["name"])
        self.uid = str(raw["metadata"]["uid"])
        self.started_at: datetime = now()
        self.grace_s: float | None = None
        self.gone = False
        self.body: Body | None = None
        self.waiting = ("ContainerCreating", "")
        self.changed = asyncio.Event()

    @property
    def over(self) -> bool:
        return self.gone or self.grace_s is not None

    def look(self) -> Look:
        return self.body.look() if self.body is not None else Look(self.waiting)

    def body_or_fail(self) -> Body:
        if self.body is None:
            raise LookupError(f"pod {self.namespace}/{self.name} has not started")
        return self.body

    def wait_for(self, reason: str, message: str) -> None:
        if self.waiting != (reason, message):
            self.waiting = (reason, message)
            self.changed.set()

    async def next_change(self, limit_s: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.changed.wait(), limit_s)
        self.changed.clear()


async def _end(tasks: set[asyncio.Task[None]]) -> None:
    for task in list(tasks):
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
