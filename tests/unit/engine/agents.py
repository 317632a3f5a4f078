"""Agents without ranks: they speak the protocol over real HTTP, and tests say what becomes of their ranks."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import aiohttp

from dlcloud_operator.core.model import JobKey, PodPhase, PodView
from dlcloud_operator.engine.clock import utc_now
from dlcloud_operator.engine.rendezvous import PodIdentity, Unauthorized

from .memory_cluster import MemoryCluster


class UidTokens:
    """A pod's token is `namespace/pod/uid`."""

    async def identify(self, token: str) -> PodIdentity:
        parts = token.split("/")
        if len(parts) != 3:
            raise Unauthorized("the token is unknown")
        return PodIdentity(*parts)


class Agent:
    """Keeps a long poll open, starts what it is told to, and reports every change."""

    def __init__(self, url: str, http: aiohttp.ClientSession, key: JobKey, pod: PodView) -> None:
        self.pod = pod
        self.round = 0
        self.told: list[tuple[float, dict[str, Any]]] = []  # (perf_counter seconds, instruction)
        self.finished = ""
        self._base = f"{url}/v1/namespaces/{key.namespace}/jobs/{key.name}/pods/{pod.name}"
        self._headers = {"Authorization": f"Bearer {key.namespace}/{pod.name}/{pod.uid}"}
        self._http = http
        self._ranks: dict[int, str] = {}
        self._results: list[dict[str, Any]] = []
        self._port = 20_000 + pod.index

    async def run(self) -> None:
        await self.report()
        while not self.finished:
            query = {"after": str(self.round), "wait": "20"}
            async with self._http.get(f"{self._base}/assignment", params=query, headers=self._headers) as answer:
                if answer.status != 200:
                    await asyncio.sleep(0 if answer.status == 204 else 0.05)
                    continue
                told = await answer.json()
            self.told.append((time.perf_counter(), told))
            if told["kind"] == "finished":
                self.finished = told["phase"]
                return
            for rank, state in self._ranks.items():
                if state != "ended":
                    self._end(rank, "Stopped", -9)
            self.round = told["round"]
            self._ranks = dict.fromkeys(told["ranks"], "running")
            self._port += 1
            await self.report()

    async def end_ranks(self, outcome: str, exit_code: int) -> float:
        """All ranks of this agent end; the answer is the time at which that was reported (perf_counter)."""
        for rank in list(self._ranks):
            self._end(rank, outcome, exit_code)
            self._ranks[rank] = "ended"
        at = time.perf_counter()
        await self.report()
        return at

    def _end(self, rank: int, outcome: str, exit_code: int) -> None:
        self._results.append(
            {
                "round": self.round,
                "rank": rank,
                "outcome": outcome,
                "exitCode": exit_code,
                "endedAt": utc_now().isoformat(),
            }
        )

    async def report(self, **more: Any) -> None:
        body = {
            "sentAt": utc_now().isoformat(),
            "round": self.round,
            "address": "127.0.0.1",
            "port": self._port,
            "ranks": [{"rank": rank, "state": state} for rank, state in self._ranks.items()],
            "results": self._results,
            **more,
        }
        async with self._http.post(f"{self._base}/report", json=body, headers=self._headers) as answer:
            assert answer.status == 200, await answer.text()


class Kubelet:
    """Lets every pod of a MemoryCluster run, with an agent in it."""

    def __init__(self, cluster: MemoryCluster, url: str, http: aiohttp.ClientSession) -> None:
        self.agents: dict[str, Agent] = {}  # by pod name, the newest of that name
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._cluster, self._url, self._http = cluster, url, http
        cluster.subscribe(self._look)

    def _look(self, key: JobKey) -> None:
        for pod in self._cluster.pods():
            if pod.phase is PodPhase.PENDING and (
                pod.name not in self.agents or self.agents[pod.name].pod.uid != pod.uid
            ):
                self.agents[pod.name] = agent = Agent(self._url, self._http, key, pod)
                self._tasks[pod.name] = asyncio.create_task(self._start(agent))

    async def _start(self, agent: Agent) -> None:
        self._cluster.set_pod(agent.pod.name, phase=PodPhase.RUNNING, ip="127.0.0.1")
        await agent.run()

    async def kill(self, name: str) -> None:
        """The pod is gone, without a word."""
        self._tasks[name].cancel()
        await asyncio.gather(self._tasks[name], return_exceptions=True)
        self._cluster.lose_pod(name)
        del self.agents[name]

    async def stop(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
