"""Jobs at work: their pods on simulated nodes, their agents simulated in a process that reports like real ones.

May import this package and PyJWT. Tokens are signed with the control plane's own key; the claims are the API server's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt

from benchmarks.control_plane import manifests, plane
from benchmarks.control_plane.client import Client
from benchmarks.control_plane.install import Installation
from benchmarks.control_plane.manifests import NAMESPACE, WORKERS
from benchmarks.control_plane.measured import Measured
from benchmarks.control_plane.throughput import PODS, TRAINING_JOBS
from benchmarks.control_plane.waiting import until

TOKEN_S = 86_400


@dataclass(frozen=True)
class Line:
    """What an agent noted: `at` is CLOCK_MONOTONIC, `what` is its words."""

    at: float
    job: str
    index: int
    what: tuple[str, ...]


@dataclass
class JobSeen:
    """A job as its watch told it."""

    phase: str = ""
    restarts: int = 0
    round: int = 0
    steps: list[tuple[float, int]] = field(default_factory=list)  # when which step was in the status


@dataclass
class Fleet:
    """Running jobs, and all that keeps them running."""

    client: Client
    plane: plane.Plane
    installation: Installation
    operator: Measured
    agents: Measured
    record: Path
    jobs: dict[str, JobSeen]
    _read: int = 0

    def lines(self) -> list[Line]:
        """What the agents noted since this was asked last."""
        with self.record.open() as record:
            record.seek(self._read)
            whole, newline, _ = record.read().rpartition("\n")
        self._read += len(whole) + len(newline)
        texts = (text.split("\t") for text in whole.splitlines())
        return [Line(float(at), job, int(index), tuple(what)) for at, job, index, *what in texts]

    def running(self) -> int:
        """Jobs whose ranks all make steps."""
        return sum(job.phase == "Running" for job in self.jobs.values())

    def check(self) -> None:
        """Raises RuntimeError when a process of it has ended."""
        self.operator.check()
        self.agents.check()


@contextlib.asynccontextmanager
async def running(num_jobs: int, nodes: int, every_s: float, profile: Path | None = None) -> AsyncIterator[Fleet]:
    """`num_jobs` jobs of two workers in phase Running, each agent reporting every `every_s`."""
    with tempfile.TemporaryDirectory() as name, plane.started(Path(name), nodes) as server:
        async with Client(server) as client:
            installation = Installation(client, server, Path(name))
            await installation.apply()
            with installation.start(profile) as operator:
                await installation.ready(operator)
                _say("the operator is ready")
                jobs: dict[str, JobSeen] = {}
                watching = asyncio.create_task(_follow(client, jobs, await client.version(TRAINING_JOBS)))
                try:
                    names = [f"job-{n:05d}" for n in range(num_jobs)]
                    await client.create_all(TRAINING_JOBS, [manifests.training_job(one, saves=True) for one in names])
                    _say(f"{num_jobs} jobs are created")
                    pods = await _pods_that_run(client, operator, num_jobs * WORKERS)
                    _say(f"{len(pods)} pods run")
                    config = await _config(client, server, installation, Path(name), pods, every_s)
                    with _agents(Path(name), config) as agents:
                        fleet = Fleet(client, server, installation, operator, agents, Path(config["record"]), jobs)

                        async def all_train() -> bool:
                            fleet.check()
                            return fleet.running() == num_jobs

                        await until(all_train, 60 + num_jobs * 0.3, f"{num_jobs} jobs in phase Running", 0.5)
                        _say(f"{num_jobs} jobs are Running")
                        yield fleet
                finally:
                    watching.cancel()
                    await asyncio.gather(watching, return_exceptions=True)


def _say(text: str) -> None:
    print(f"  {time.strftime('%H:%M:%S')} {text}", file=sys.stderr)


async def _follow(client: Client, jobs: dict[str, JobSeen], since: str) -> None:
    async for arrived, event in client.watch(TRAINING_JOBS, since):
        seen = jobs.setdefault(event["object"]["metadata"]["name"], JobSeen())
        status = event["object"].get("status") or {}
        seen.phase, seen.restarts = status.get("phase", ""), status.get("restarts", 0)
        seen.round = (status.get("round") or {}).get("number", 0)
        step = (status.get("progress") or {}).get("step", 0)
        if not seen.steps or seen.steps[-1][1] != step:
            seen.steps.append((arrived, step))


async def _pods_that_run(client: Client, operator: Measured, num_pods: int) -> list[dict[str, Any]]:
    pods: list[dict[str, Any]] = []

    async def all_run() -> bool:
        operator.check()
        pods[:] = (await client.request("GET", PODS, resourceVersion="0"))["items"]
        return sum(str(pod["status"].get("phase")) == "Running" for pod in pods) == num_pods

    await until(all_run, 60 + num_pods * 0.3, f"{num_pods} pods that run", 2.0)
    return pods


async def _config(
    client: Client,
    server: plane.Plane,
    installation: Installation,
    folder: Path,
    pods: list[dict[str, Any]],
    every_s: float,
) -> dict[str, Any]:
    """What the agents' process is told (docs: agents.py)."""
    account = await client.request("GET", f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default")
    key_id = (await client.request("GET", "/openid/v1/jwks"))["keys"][0]["kid"]
    issuer = (await client.request("GET", "/.well-known/openid-configuration"))["issuer"]
    key, agents = server.signing_key.read_bytes(), []
    for pod in pods:
        metadata = pod["metadata"]
        job, index = metadata["labels"]["dlcloud.dev/job"], int(metadata["labels"]["dlcloud.dev/index"])
        claims = _claims(issuer, metadata, pod["spec"]["nodeName"], account["metadata"])
        agents.append(
            {
                "job": job,
                "index": index,
                "ip": pod["status"]["podIP"],
                "path": f"/v1/namespaces/{NAMESPACE}/jobs/{job}/pods/{metadata['name']}",
                "token": jwt.encode(claims, key, "RS256", {"kid": key_id}),
            }
        )
    return {
        "host": "127.0.0.1",
        "port": installation.rendezvous_port,
        "serverName": installation.rendezvous_name,
        "ca": str(installation.tls / "ca.crt"),
        "everyS": every_s,
        "rampS": max(every_s, len(agents) / 100),  # reports come evenly, as after hours of work
        "askAgain": True,
        "record": str(folder / "record"),
        "agents": agents,
    }


def _claims(issuer: str, pod: dict[str, Any], node: str, account: dict[str, Any]) -> dict[str, Any]:
    """Those of a projected token: the API server's, word for word."""
    now = int(time.time())
    return {
        "aud": ["dlcloud"],
        "exp": now + TOKEN_S,
        "iat": now,
        "iss": issuer,
        "jti": str(uuid.uuid4()),
        "kubernetes.io": {
            "namespace": NAMESPACE,
            "node": {"name": node, "uid": str(uuid.uuid4())},
            "pod": {"name": pod["name"], "uid": pod["uid"]},
            "serviceaccount": {"name": account["name"], "uid": account["uid"]},
            "warnafter": now + 3607,
        },
        "nbf": now,
        "sub": f"system:serviceaccount:{NAMESPACE}:{account['name']}",
    }


def _agents(folder: Path, config: dict[str, Any]) -> Measured:
    path = folder / "agents.json"
    path.write_text(json.dumps(config))
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "benchmarks.control_plane.agents", str(path)]
    return Measured(command, folder / "agents.log", environment)
