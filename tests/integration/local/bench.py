"""What the tests of local mode share: one job, pods made of small manifests, and waits that end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

from dlcloud.local.cluster import LocalCluster
from dlcloud_operator.api import TrainingJob
from dlcloud_operator.core.model import JobView, PodPhase, PodView


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on an event loop of its own."""

    @functools.wraps(test)
    def run(*args: Any, **fixtures: Any) -> None:
        asyncio.run(test(*args, **fixtures))

    return run


def training_job(name: str = "demo", **spec: Any) -> TrainingJob:
    return TrainingJob.model_validate({"metadata": {"name": name}, "spec": {"workload": "cnn", **spec}})


def pod(command: list[str], index: int = 0, incarnation: int = 1, **spec: Any) -> dict[str, Any]:
    """A pod whose trainer container has `command`; keys of `trainer` go to the container, the others to the spec."""
    container = {"name": "trainer", "image": "any", "command": command, **spec.pop("trainer", {})}
    metadata = {"name": f"demo-{index}-{incarnation}", "namespace": "default", "labels": {"color": "blue"}}
    return {"metadata": metadata, "spec": {"containers": [container], "terminationGracePeriodSeconds": 5, **spec}}


def python(code: str) -> list[str]:
    return ["python3", "-u", "-c", code]


async def until(condition: Callable[[], Any], what: str, limit_s: float = 10.0) -> Any:
    """The first true value of `condition`; fails after `limit_s`."""
    give_up = time.monotonic() + limit_s
    while time.monotonic() < give_up:
        if value := condition():
            return value
        await asyncio.sleep(0.005)
    raise AssertionError(f"{limit_s} s went by without: {what}")


def alive(pid: int) -> bool:
    """Whether a process runs (a dead one that nobody has reaped does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def processes_with(word: str) -> list[int]:
    """Ids of running processes that carry `word` in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if word.encode() in (folder / "environ").read_bytes() and alive(int(folder.name)):
                found.append(int(folder.name))
    return [pid for pid in found if pid != os.getpid()]


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


class Bench:
    """A LocalCluster with one applied job, and short words for what tests do with it."""

    def __init__(self, cluster: LocalCluster, job: JobView, run_dir: Path) -> None:
        self.cluster = cluster
        self.job = job
        self.run_dir = run_dir

    async def create(self, manifest: dict[str, Any]) -> str:
        await self.cluster.create_pod(self.job, manifest)
        return str(manifest["metadata"]["name"])

    def pod(self, name: str) -> PodView | None:
        found = self.cluster._pods.get(name)
        return found.view() if found else None

    async def ended(self, name: str) -> PodView:
        """The pod once it has ended by itself."""
        phases = (PodPhase.SUCCEEDED, PodPhase.FAILED)
        await until(lambda: (view := self.pod(name)) is None or view.phase in phases, f"the end of {name}")
        view = self.pod(name)
        assert view is not None
        return view

    async def run(self, manifest: dict[str, Any]) -> tuple[PodView, str]:
        """Create a pod, wait for its end; its view and its log."""
        name = await self.create(manifest)
        return await self.ended(name), self.log(name)

    def log(self, name: str) -> str:
        return self.cluster.pod_log_path(name).read_text()

    async def said(self, name: str, word: str) -> str:
        """The log once `word` is in it."""
        await until(lambda: word in self.log(name), f"{word!r} in the log of {name}")
        return self.log(name)


@contextlib.asynccontextmanager
async def bench(run_dir: Path, job: TrainingJob | None = None, **options: Any) -> AsyncIterator[Bench]:
    """A cluster with an applied job; whatever the test left running is killed at the end."""
    cluster = LocalCluster(run_dir, **options)
    try:
        view = await cluster.apply(job or training_job())
        yield Bench(cluster, view, run_dir)
    finally:
        await cluster.close(0)
