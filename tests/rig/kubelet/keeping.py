"""One pod on the stand-in kubelet's node, from its binding to the removal of its object.

May import aiohttp, the rig's own modules and the command line's local mode.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import aiohttp

from dlcloud.local.facts import Objects

from ..client import KubeError
from .bodies import Body, Processes, Still, now, runs_processes
from .client import STRATEGIC, AsyncClient, Object, path
from .node_objects import references, texts, token_request
from .played import Play, PlayedPod, Sessions
from .pod_status import Look, stamp, status_patch

log = logging.getLogger(__name__)

Mode = Literal["processes", "played", "still"]
LOST = (aiohttp.ClientError, OSError, TimeoutError, ValueError)
AGAIN_S = 0.2
_LOOK_AGAIN_S = 1.0


@dataclass
class Surroundings:
    """What the pods of a node share."""

    name: str
    mode: Mode
    folder: Path
    env: Mapping[str, str]
    play: Play
    client: AsyncClient
    sessions: Sessions
    withheld: dict[str, str] = field(default_factory=dict)
    objects: dict[str, Objects] = field(default_factory=dict)
    frozen: bool = False
    thawed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def image(self) -> Path:
        """What stands for the trainer image's /opt/dlcloud."""
        return self.folder / "image"


class Pod:
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

    async def next_change(self) -> None:
        await self.changed.wait()
        self.changed.clear()


class Keeper:
    """Does to one pod what a kubelet does."""

    def __init__(self, node: Surroundings, pod: Pod) -> None:
        self._node, self._pod = node, pod
        self._client = node.client

    async def run(self) -> None:
        """From the pod's binding to the removal of its object."""
        pod, node = self._pod, self._node
        supplying: asyncio.Task[None] | None = None
        try:
            if (pod.raw.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
                while pod.grace_s is None and not pod.gone:
                    await pod.next_change()
                await self._remove()
                return
            supplying = asyncio.create_task(self._supply())
            await self._follow()
        finally:
            pod.gone = True
            if supplying is not None:
                supplying.cancel()
                await asyncio.gather(supplying, return_exceptions=True)
            if pod.body is not None and not node.frozen:
                await pod.body.close()

    async def _follow(self) -> None:
        pod, node = self._pod, self._node
        told: Look | None = None
        asked: float | None = None
        while not pod.gone:
            if node.frozen:
                await node.thawed.wait()
            look = pod.look()
            if look != told and await self._tell(look):
                told = look
            if pod.grace_s is not None and asked != pod.grace_s:
                asked = pod.grace_s
                if pod.body is not None:
                    pod.body.terminate(asked)
            ended = pod.look().end is not None or pod.body is None
            if pod.grace_s is not None and ended and pod.look() in (told, Look(pod.waiting)):
                await self._remove()
                break
            if pod.look() == told:
                await pod.next_change()

    async def _supply(self) -> None:
        """Give the pod its image, Secrets, token and body, however long they take; then fresh tokens."""
        pod, node = self._pod, self._node
        image = pod.raw["spec"]["containers"][0]["image"]
        event = ""
        while (withheld := node.withheld.get(image)) is not None and not pod.over:
            word = "ImagePullBackOff" if event else "ErrImagePull"
            text = f'Back-off pulling image "{image}": ErrImagePull: {withheld}' if event else withheld
            pod.wait_for(word, text)
            if not event:
                event = f'Failed to pull image "{image}": {withheld}'
                await self._event("Failed", event)
            await asyncio.sleep(_LOOK_AGAIN_S)
        objects = node.objects.setdefault(pod.namespace, Objects({}, {}))
        while not pod.over and pod.body is None:
            try:
                await self._read_references(objects)
                token, life_s = await self.token()
                if not pod.over:
                    pod.body = self._body(objects, token)
                    pod.changed.set()
            except (KubeError, *LOST) as error:
                log.info("kubelet %s: pod %s: %r", node.name, pod.name, error)
                await asyncio.sleep(AGAIN_S)
        told = ""
        while not pod.over and pod.body is not None:
            look = pod.body.look()
            if look.running_since is not None or look.end is not None:
                break
            _, message = look.waiting
            if message != told and message.startswith("MountVolume"):
                told = message
                await self._event("FailedMount", message)
            with contextlib.suppress(KubeError, *LOST):
                await self._read_references(objects)
            await asyncio.sleep(_LOOK_AGAIN_S / 2)
        while not pod.over and pod.body is not None:
            await asyncio.sleep(0.8 * life_s)
            with contextlib.suppress(KubeError, *LOST):
                token, life_s = await self.token()
                pod.body.renew_token(token)

    def _body(self, objects: Objects, token: str) -> Body:
        pod, node = self._pod, self._node
        changed: Callable[[], None] = pod.changed.set
        if not runs_processes(pod.raw) or node.mode == "still":
            return Still(changed)
        if node.mode == "played":
            return PlayedPod(pod.raw, token=token, play=node.play, sessions=node.sessions, on_change=changed)
        folder = node.folder / "pods" / f"{pod.namespace}_{pod.name}_{pod.uid[:8]}"
        return Processes(
            pod.raw, folder=folder, image=node.image, token=token, objects=objects, on_change=changed, env=node.env
        )

    async def token(self) -> tuple[str, float]:
        """A token as the pod's projected volume asks for it, and its seconds of life; none where it has no such."""
        pod = self._pod
        request = token_request(pod.raw)
        if request is None:
            return "", 3600.0
        account = pod.raw["spec"].get("serviceAccountName") or "default"
        where = path("serviceaccounts", pod.namespace, account, "token")
        answer = await self._client.ask("POST", where, request)
        return answer["status"]["token"], float(answer["spec"]["expirationSeconds"])

    async def _read_references(self, objects: Objects) -> None:
        pod = self._pod
        for kind, name in references(pod.raw["spec"]):
            held: Any = objects.secrets if kind == "secrets" else objects.config_maps
            try:
                found = await self._client.ask("GET", path(kind, pod.namespace, name))
                held[name] = texts(found)
            except KubeError as refusal:
                if refusal.status != 404:
                    raise
                held.pop(name, None)

    async def _tell(self, look: Look) -> bool:
        """Write the status; False when the node went dark before that was done."""
        pod, node = self._pod, self._node
        patch = status_patch(pod.raw, look, pod.started_at)
        while not pod.gone and not node.frozen:
            try:
                where = path("pods", pod.namespace, pod.name, "status")
                await self._client.ask("PATCH", where, patch, content_type=STRATEGIC)
                return True
            except KubeError as refusal:
                if refusal.status in (404, 409, 422):
                    return True  # the object is gone, or another one has its name
            except LOST:
                pass
            await asyncio.sleep(AGAIN_S)
        return pod.gone

    async def _remove(self) -> None:
        pod, node = self._pod, self._node
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod.uid}}
        while not pod.gone:
            if node.frozen:
                await node.thawed.wait()
            try:
                await self._client.ask("DELETE", path("pods", pod.namespace, pod.name), options)
                return
            except KubeError as refusal:
                if refusal.status in (404, 409):
                    return
            except LOST:
                pass
            await asyncio.sleep(AGAIN_S)

    async def _event(self, reason: str, message: str) -> None:
        pod, node = self._pod, self._node
        at = stamp(now())
        body = {
            "metadata": {"generateName": f"{pod.name}.", "namespace": pod.namespace},
            "involvedObject": {"kind": "Pod", "apiVersion": "v1", "namespace": pod.namespace, "name": pod.name}
            | {"uid": pod.uid},
            "reason": reason,
            "message": message,
            "type": "Warning",
            "source": {"component": "kubelet", "host": node.name},
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": 1,
        }
        with contextlib.suppress(KubeError, *LOST):
            await self._client.ask("POST", path("events", pod.namespace), body)
