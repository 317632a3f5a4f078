"""What stands behind a pod object of the stand-in kubelet: real processes, or nothing at all.

May import the command line's local mode, whose LocalPod does what a kubelet does with volumes, environment and signals.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from dlcloud.local.facts import Objects
from dlcloud.local.gpus import GpuPool
from dlcloud.local.pods import TRAINER, LocalPod, PodContext, log_tail
from dlcloud_operator.core.model import JobKey

from .pod_status import End, Look

Object = Mapping[str, Any]
_MESSAGE_BYTES = 4096


class Body(Protocol):
    """A pod's inside."""

    def look(self) -> Look: ...

    def terminate(self, grace_s: float) -> None:
        """Ask it to end; 0: at once."""
        ...

    def end_as(self, code: int, reason: str, message: str) -> None:
        """End it at once and say this of it, whatever its processes say."""
        ...

    def renew_token(self, token: str) -> None: ...

    async def close(self) -> None:
        """Nothing of it is left afterwards."""
        ...


class Still:
    """A container that does nothing but run, until it is asked to end."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._look = Look(running_since=now())

    def look(self) -> Look:
        return self._look

    def terminate(self, grace_s: float) -> None:
        self.end_as(143, "", "")

    def end_as(self, code: int, reason: str, message: str) -> None:
        if self._look.end is None:
            self._look = replace(self._look, end=End(code, now(), reason, message))
            self._on_change()

    def renew_token(self, token: str) -> None:
        """It has none."""

    async def close(self) -> None:
        self.terminate(0)


class Processes:
    """The pod's containers as processes of this machine, one after the other, under LocalPod."""

    def __init__(
        self,
        pod: Object,
        *,
        folder: Path,
        image: Path,
        token: str,
        objects: Objects,
        on_change: Callable[[], None],
        python: str = sys.executable,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """`image` takes the place of the trainer image's /opt/dlcloud; `env` is added to the trainer's environment."""
        metadata = pod["metadata"]
        self._folder = folder
        self._told: End | None = None
        self._on_change = on_change
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        (folder / "log").touch()
        owner = next(iter(metadata.get("ownerReferences") or ()), {"name": metadata["name"], "uid": ""})
        self._pod = LocalPod(
            _with_image(pod, image, env or {}),
            owner=JobKey(metadata["namespace"], owner["name"]),
            owner_uid=owner["uid"],
            uid=metadata["uid"],
            token=token,
            folder=folder,
            context=PodContext(objects, GpuPool(()), python, None, False, now),
            on_change=lambda _: on_change(),
        )

    @property
    def log(self) -> Path:
        return self._pod.log

    def look(self) -> Look:
        view = self._pod.view()
        if view.exit is not None:
            end = self._told or End(view.exit.exit_code or 0, view.exit.at, *self._last_words(view.exit))
            return Look(running_since=view.running_since, end=end)
        return Look(waiting=_waiting(view.waiting), running_since=view.running_since)

    def terminate(self, grace_s: float) -> None:
        self._pod.terminate(grace_s)

    def end_as(self, code: int, reason: str, message: str) -> None:
        self._told = End(code, now(), reason, message)
        self._pod.terminate(0)

    def renew_token(self, token: str) -> None:
        for path in self._folder.glob("volumes-*/token/token"):
            fresh = path.with_name("token.new")
            fresh.touch(mode=0o600)
            fresh.write_text(token)
            fresh.replace(path)

    async def close(self) -> None:
        self._pod.terminate(0)
        await self._pod.wait()
        self._pod.remove_volumes()

    def _last_words(self, told: Any) -> tuple[str, str]:
        if told.reason == "StartError":
            return told.reason, told.message
        try:
            message = (self._folder / "termination").read_bytes()[:_MESSAGE_BYTES].decode("utf-8", "replace")
        except OSError:
            message = ""
        if not message.strip() and told.exit_code:
            message = log_tail(self._pod.log)  # terminationMessagePolicy: FallbackToLogsOnError
        return "", message


def runs_processes(pod: Object) -> bool:
    """Whether LocalPod can run it: a worker pod of ours, with the trainer's container alone."""
    labels = pod["metadata"].get("labels") or {}
    names = [container["name"] for container in pod["spec"]["containers"]]
    return labels.get("app.kubernetes.io/name") == "dlcloud-worker" and names == [TRAINER]


def _with_image(pod: Object, image: Path, env: Mapping[str, str]) -> dict[str, Any]:
    """The pod with the folder that stands for the image's own mounted where the image has it."""
    mount = {"name": "image-of-the-test", "mountPath": "/opt/dlcloud"}
    more = [{"name": name, "value": value} for name, value in env.items()]

    def mounted(container: Object) -> dict[str, Any]:
        own = dict(container)
        own["volumeMounts"] = [*container.get("volumeMounts", ()), mount]
        own["env"] = [*container.get("env", ()), *more]
        return own

    spec = dict(pod["spec"])
    spec["volumes"] = [*spec.get("volumes", ()), {"name": mount["name"], "hostPath": {"path": str(image)}}]
    spec["containers"] = [mounted(one) for one in spec["containers"]]
    spec["initContainers"] = [mounted(one) for one in spec.get("initContainers", ())]
    return {**pod, "spec": spec}


def _waiting(text: str) -> tuple[str, str]:
    """What LocalPod says while it waits, as the kubelet's reason and message."""
    reason, colon, message = text.partition(": ")
    if colon and reason in ("CreateContainerConfigError", "PodInitializing"):
        return reason, message
    return ("ContainerCreating", text if text != "ContainerCreating" else "")


def now() -> datetime:
    return datetime.now(UTC)
