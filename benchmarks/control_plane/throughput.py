"""How fast jobs become pods, and what a job costs: dlcloud, Kubeflow's training operator, and a bare client.

May import this package. Each measurement has a control plane of its own without nodes; the scheduler sees every pod.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.control_plane import manifests, peers, plane
from benchmarks.control_plane.client import Client, difference
from benchmarks.control_plane.install import Installation
from benchmarks.control_plane.manifests import NAMESPACE, WORKERS
from benchmarks.control_plane.measured import Measured
from benchmarks.control_plane.profiled import BEGIN
from benchmarks.control_plane.waiting import settled

PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
TRAINING_JOBS = f"/apis/dlcloud.dev/v1/namespaces/{NAMESPACE}/trainingjobs"
PYTORCH_JOBS = f"/apis/kubeflow.org/v1/namespaces/{NAMESPACE}/pytorchjobs"
_LIMIT_S = 900.0


@dataclass
class Sample:
    """One run: `latencies` in ms, one job after the other; the rest for `num_jobs` at once."""

    num_jobs: int
    jobs_per_s: float = 0.0
    client_cpu_share: float = 0.0
    cpu_ms: float = 0.0  # of the operator, for each job
    memory_kib: float = 0.0  # of the operator, for each job
    resident_mib: float = 0.0
    latencies: list[float] = field(default_factory=list)
    writes: dict[tuple[str, str], int] = field(default_factory=dict)  # of all clients of the API server
    events: dict[str, int] = field(default_factory=dict)  # Event objects by who wrote them


class PodWatch:
    """Notes when each pod of the namespace appeared."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.seen: dict[str, float] = {}
        self._news = asyncio.Event()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[PodWatch]:
        self._task = asyncio.create_task(self._follow(await self._client.version(PODS)))
        try:
            yield self
        finally:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self, since: str) -> None:
        async for arrived, event in self._client.watch(PODS, since):
            if event["type"] == "ADDED":
                self.seen[event["object"]["metadata"]["name"]] = arrived
                self._news.set()

    async def count(self, num_pods: int, check: Callable[[], None] = lambda: None) -> float:
        """Waits until so many pods have appeared; CLOCK_MONOTONIC of the last one."""
        end = time.monotonic() + _LIMIT_S
        while len(self.seen) < num_pods:
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), 1.0)
            check()
            if self._task.done():
                self._task.result()
                raise RuntimeError("the watch of the pods has ended")
            if time.monotonic() > end:
                raise TimeoutError(f"{len(self.seen)} of {num_pods} pods after {_LIMIT_S:.0f} s")
        return max(self.seen.values())


async def dlcloud(num_jobs: int, num_alone: int, profile: Path | None = None) -> Sample:
    """The operator under the chart's rights; `profile`: where samples of its work on `num_jobs` are written."""
    with tempfile.TemporaryDirectory() as name, plane.started(Path(name)) as server:
        async with Client(server) as client:
            installation = Installation(client, server, Path(name))
            await installation.apply()
            with installation.start(profile) as operator:
                await installation.ready(operator)
                sample = await _measure(
                    client, operator, TRAINING_JOBS, manifests.training_job, num_jobs, num_alone, profile is not None
                )
                operator.stop()
                return sample


async def kubeflow(num_jobs: int, num_alone: int) -> Sample:
    """The training operator with its default settings. Raises peers.NotBuilt."""
    peers.built()
    with tempfile.TemporaryDirectory() as name, plane.started(Path(name)) as server:
        async with Client(server) as client:
            await client.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
            async with peers.training_operator(client, server, Path(name)) as operator:
                return await _measure(client, operator, PYTORCH_JOBS, manifests.pytorch_job, num_jobs, num_alone)


async def bare_client(num_jobs: int) -> Sample:
    """The same pods without any job: what API server and scheduler allow."""
    pods = [pod for n in range(num_jobs) for pod in manifests.bare_pods(f"bulk-{n:05d}")]
    with tempfile.TemporaryDirectory() as name, plane.started(Path(name)) as server:
        async with Client(server) as client:
            await client.create("/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
            await client.exists(f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default")
            return await _bulk(client, None, PODS, pods, num_jobs)


async def _measure(
    client: Client,
    operator: Measured,
    path: str,
    job: Callable[[str], dict[str, Any]],
    num_jobs: int,
    num_alone: int,
    profiled: bool = False,
) -> Sample:
    latencies = []
    async with PodWatch(client).open() as pods:
        for n in range(num_alone):
            created = time.monotonic()
            await client.request("POST", path, job(f"alone-{n:05d}"))
            latencies.append(1000 * (await pods.count((n + 1) * WORKERS, operator.check) - created))
            await asyncio.sleep(0.3)  # what follows a job's pods, its status and Events, belongs to that job
    await settled(operator)
    if profiled:
        operator.signal(BEGIN)
    sample = await _bulk(client, operator, path, [job(f"bulk-{n:05d}") for n in range(num_jobs)], num_jobs)
    sample.latencies = latencies
    return sample


async def _bulk(
    client: Client, operator: Measured | None, path: str, bodies: list[dict[str, Any]], num_jobs: int
) -> Sample:
    sample = Sample(num_jobs)
    memory, cpu_s = (operator.memory_kib(), operator.cpu_s()) if operator else (0, 0.0)
    writes, began_at = await client.writes(), datetime.now(UTC)
    async with PodWatch(client).open() as pods:
        began, own_cpu_s = time.monotonic(), time.process_time()
        await client.create_all(path, bodies)
        ended = await pods.count(num_jobs * WORKERS, operator.check if operator else lambda: None)
        sample.jobs_per_s = num_jobs / (ended - began)
        sample.client_cpu_share = (time.process_time() - own_cpu_s) / (ended - began)
    if operator:
        await settled(operator)
        sample.cpu_ms = 1000 * (operator.cpu_s() - cpu_s) / num_jobs
        sample.memory_kib = (operator.memory_kib() - memory) / num_jobs
        sample.resident_mib = operator.memory_kib() / 1024
    sample.writes = difference(await client.writes(), writes)
    sample.events = await client.events(NAMESPACE, since=began_at)
    return sample
