"""One pod as processes of this machine: volumes, init containers, the trainer container, and how it ended.

May import this package, the engine's reading of last words and the core's values. It does what a kubelet does.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dlcloud_operator.core.model import JobKey, PodExit, PodPhase, PodView, RankResult
from dlcloud_operator.engine.reading import last_words

from .environment import Launch, base_environment, build_launch
from .facts import ADDRESS, NODE, Manifest, NotReady, Objects, PodFacts
from .gpus import GpuPool
from .processes import Supervised
from .volumes import PathMap, mounts, prepare_volumes

TRAINER = "trainer"
SCRATCH = "/dlcloud/scratch"
_TERMINATION_PATH = "/dev/termination-log"
_MESSAGE_BYTES, _TAIL_BYTES, _TAIL_LINES = 4096, 2048, 80  # the kubelet's limits
_RETRY_S = 1.0
_DEFAULT_GRACE_S = 30


@dataclass(frozen=True)
class PodContext:
    """What a pod takes from its run. `cwd` None: the pod's own scratch folder."""

    objects: Objects
    gpus: GpuPool
    python: str
    cwd: Path | None
    share_credentials: bool
    now: Callable[[], datetime]


class LocalPod:
    """A pod object and the processes behind it; `on_change` is called with it at every change."""

    def __init__(
        self,
        manifest: Manifest,
        *,
        owner: JobKey,
        owner_uid: str,
        uid: str,
        token: str,
        folder: Path,
        context: PodContext,
        on_change: Callable[[LocalPod], None],
    ) -> None:
        metadata = manifest["metadata"]
        self.name = str(metadata["name"])
        self.uid = uid
        self.owner = owner
        self.owner_uid = owner_uid
        self.log = folder / "log"
        self.deleting = False
        self._spec: Manifest = manifest["spec"]
        self._facts = PodFacts(
            namespace=owner.namespace,
            name=self.name,
            uid=uid,
            labels=metadata.get("labels") or {},
            annotations=metadata.get("annotations") or {},
            service_account=self._spec.get("serviceAccountName") or "default",
        )
        self._token = token
        self._folder = folder
        self._volumes = (
            folder / f"volumes-{uid[:8]}"
        )  # not shared with a later pod of this name, while they are being deleted
        self._context = context
        self._on_change = on_change
        self._created_at = context.now()
        self._phase = PodPhase.PENDING
        self._waiting = "ContainerCreating"
        self._exit: PodExit | None = None
        self._running_since: datetime | None = None
        self._process: Supervised | None = None
        self._stopping = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"pod {self.name}")

    @property
    def ended(self) -> bool:
        """None of its processes is left, and none will start."""
        return self._task.done() or self._exit is not None

    def view(self) -> PodView:
        _, index, incarnation = self.name.rsplit("-", 2)
        return PodView(
            name=self.name,
            uid=self.uid,
            index=int(index),
            incarnation=int(incarnation),
            phase=self._phase,
            created_at=self._created_at,
            deleting=self.deleting,
            ip=ADDRESS,
            node=NODE,
            waiting=self._waiting,
            exit=self._exit,
            running_since=self._running_since,
        )

    def terminate(self, grace_s: float | None) -> None:
        """SIGTERM now, SIGKILL after `grace_s` (None: as the pod says); a second call may only shorten that."""
        if grace_s is None:
            grace_s = self._spec.get("terminationGracePeriodSeconds", _DEFAULT_GRACE_S)
        first = not self._stopping.is_set()
        self.deleting = True
        self._stopping.set()
        if self._process is None:
            return
        if grace_s <= 0:
            self._process.kill()
            return
        if first:
            self._process.terminate()
        asyncio.get_running_loop().call_later(grace_s, self._process.kill)

    async def wait(self) -> None:
        """Return when the pod has ended."""
        await asyncio.wait([self._task])

    def remove_volumes(self) -> None:
        """Delete its folders, secrets and tokens among them; the log stays."""
        shutil.rmtree(self._volumes, ignore_errors=True)

    async def _run(self) -> None:
        try:
            code, what = await self._run_containers()
            message, results = self._last_words(code)
            reason = "Completed" if code == 0 else "Error"
        except Exception as error:  # whatever is wrong with it, a pod has an end
            code, what, results = 128, "", ()
            reason, message = "StartError", f"{type(error).__name__}: {error}"
        self._exit = PodExit(self._context.now(), code, reason, what + message, results)
        self._phase = PodPhase.SUCCEEDED if code == 0 else PodPhase.FAILED
        self._waiting = ""
        self._context.gpus.give_back(self.uid)
        self._on_change(self)

    async def _run_containers(self) -> tuple[int, str]:
        launches = await self._prepared()
        for name, launch, cwd in launches:
            if self._stopping.is_set():
                return 143, ""
            # Nothing is awaited between this look at `_stopping` and the start, so no deletion falls between them.
            self._process = Supervised.start(
                launch.command, env=launch.env, cwd=cwd, log=self.log, python=self._context.python
            )
            if name == TRAINER:
                self._phase, self._waiting, self._running_since = PodPhase.RUNNING, "", self._context.now()
            else:
                self._waiting = f"PodInitializing: init container {name!r} runs"
            self._on_change(self)
            code = await self._process.wait()
            if code != 0 or name == TRAINER:
                return code, "" if name == TRAINER else f"init container {name!r} ended with {code}: "
        return 143, ""  # deleted before anything could start

    async def _prepared(self) -> list[tuple[str, Launch, Path]]:
        while not self._stopping.is_set():
            try:
                return self._launches()
            except NotReady as missing:
                if str(missing) != self._waiting:
                    self._waiting = str(missing)
                    self._on_change(self)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _RETRY_S)
        return []

    def _launches(self) -> list[tuple[str, Launch, Path]]:
        context = self._context
        trainer = next(container for container in self._spec["containers"] if container["name"] == TRAINER)
        cuda = context.gpus.take(self.uid, trainer)
        self._termination_file.touch(mode=0o600)
        volumes = prepare_volumes(self._spec, self._volumes, self._facts, context.objects, self._token)
        base = base_environment(os.environ, context.python, context.share_credentials) | {"CUDA_VISIBLE_DEVICES": cuda}
        found = []
        for container in [*self._spec.get("initContainers", ()), trainer]:
            folders = mounts(container, volumes)
            written_to = container.get("terminationMessagePath", _TERMINATION_PATH)
            paths = PathMap({**folders, written_to: self._termination_file})
            launch = build_launch(container, base, paths, self._facts, context.objects, context.python)
            inside = paths.folder(container["workingDir"]) if "workingDir" in container else None
            found.append((container["name"], launch, context.cwd or inside or folders.get(SCRATCH) or self._folder))
        return found

    @property
    def _termination_file(self) -> Path:
        return self._folder / "termination"

    def _last_words(self, code: int) -> tuple[str, tuple[RankResult, ...]]:
        """The termination message and the results in it; after an error without one, the end of the log."""
        try:
            with self._termination_file.open("rb") as file:
                text = file.read(_MESSAGE_BYTES).decode("utf-8", "replace")
        except OSError:
            text = ""
        if not text.strip():
            return ("" if code == 0 else log_tail(self.log)), ()
        return last_words(text, self._context.now())


def log_tail(path: Path) -> str:
    """The last 80 lines or 2,048 bytes of a log, whichever is less."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.rstrip("\n").split("\n")[-_TAIL_LINES:])
