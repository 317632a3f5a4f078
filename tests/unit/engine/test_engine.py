"""The whole engine over real HTTP with the real plan: from a job to its end, through failures and restarts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import statistics
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from dlcloud_operator.api import Phase
from dlcloud_operator.core.model import JobKey, JobView
from dlcloud_operator.engine.clock import utc_now
from dlcloud_operator.engine.engine import Engine
from dlcloud_operator.engine.observer import Observer, PassResult
from dlcloud_operator.engine.queue import Backoff
from dlcloud_operator.engine.rendezvous import RendezvousServer

from .agents import Agent, Kubelet, UidTokens
from .memory_cluster import KEY, MemoryCluster, NameRenderer, job_view, until


@dataclass
class Plant:
    cluster: MemoryCluster
    server: RendezvousServer
    kubelet: Kubelet
    engine: Engine

    def job(self, key: JobKey = KEY) -> JobView:
        return self.cluster.jobs[key]

    def agent(self, name: str) -> Agent:
        return self.kubelet.agents[name]

    async def in_round(self, number: int, *names: str, limit_s: float = 10.0) -> None:
        """Until the agents of these pods were told this round, and the status says so."""
        await until(
            lambda: all(
                name in self.kubelet.agents and self.kubelet.agents[name].round == number
                for name in names or ("mnist-0-1", "mnist-1-1")
            ),
            limit_s,
        )


class FragileCluster(MemoryCluster):
    """One that fails as often as it is told to."""

    def __init__(self) -> None:
        super().__init__(utc_now)
        self.failures = 0
        self.hang = asyncio.Event()
        self.hang.set()

    async def get_job(self, key: JobKey) -> JobView | None:
        await self.hang.wait()
        if self.failures > 0:
            self.failures -= 1
            raise OSError("the API server is away")
        return await super().get_job(key)


@contextlib.asynccontextmanager
async def plant(cluster: MemoryCluster | None = None, **options: Any) -> AsyncIterator[Plant]:
    cluster = cluster or MemoryCluster(utc_now)
    server = RendezvousServer(UidTokens(), cluster.owner_of)
    url = await server.start()
    engine = Engine(cluster, NameRenderer(), server, backoff=Backoff(first_s=0.01), **options)
    running = asyncio.create_task(engine.run())
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        kubelet = Kubelet(cluster, url, http)
        try:
            yield Plant(cluster, server, kubelet, engine)
        finally:
            engine.stop()
            await asyncio.wait_for(running, 2)
            await kubelet.stop()
            await server.stop()


def with_plant(test: Callable[[Plant], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def scenario() -> None:
        async with plant(**options) as one:
            await test(one)

    asyncio.run(scenario())


def test_a_job_trains_survives_a_failing_rank_and_succeeds() -> None:
    async def test(one: Plant) -> None:
        one.cluster.put_job(job_view(created_at=utc_now()))
        await one.in_round(1)
        first = [one.agent(name).told[-1][1] for name in ("mnist-0-1", "mnist-1-1")]
        assert [told["ranks"] for told in first] == [[0], [1]]
        assert {told["masterPort"] for told in first} == {20_000}

        await one.agent("mnist-1-1").end_ranks("Error", 1)
        await one.in_round(2)
        second = [one.agent(name).told[-1][1] for name in ("mnist-0-1", "mnist-1-1")]
        assert {told["nonce"] for told in second}.isdisjoint({told["nonce"] for told in first})
        assert {told["restarts"] for told in second} == {1}
        assert one.job().status.phase is Phase.RUNNING

        for name in ("mnist-0-1", "mnist-1-1"):
            await one.agent(name).end_ranks("Succeeded", 0)
        await until(lambda: all(agent.finished for agent in one.kubelet.agents.values()))
        assert {agent.finished for agent in one.kubelet.agents.values()} == {"Succeeded"}
        assert one.job().status.phase is Phase.SUCCEEDED
        assert [failure.exit_code for failure in one.job().status.failures] == [1]
        assert set(one.kubelet.agents) == {"mnist-0-1", "mnist-1-1"}  # the pods stayed

    with_plant(test)


def test_a_lost_pod_is_replaced_and_the_other_stays() -> None:
    async def test(one: Plant) -> None:
        one.cluster.put_job(job_view(created_at=utc_now()))
        await one.in_round(1)
        before = {pod.index: pod.uid for pod in one.cluster.pods()}
        await one.kubelet.kill("mnist-1-1")
        await one.in_round(2, "mnist-0-1")
        after = {pod.index: pod.uid for pod in one.cluster.pods()}
        assert after[0] == before[0]
        assert after[1] != before[1]
        await until(lambda: {agent.round for agent in one.kubelet.agents.values()} == {2})

    with_plant(test)


def test_from_the_report_of_a_failure_to_the_next_rounds_assignment_takes_milliseconds() -> None:
    async def test(one: Plant) -> None:
        took = []
        for number in range(15):  # another job each time: rounds without progress pause on purpose
            key = JobKey("default", f"job{number}")
            one.cluster.put_job(job_view(key, uid=f"uid-{number}", created_at=utc_now()))
            names = (f"{key.name}-0-1", f"{key.name}-1-1")
            await one.in_round(1, *names)
            reported_at = await one.agent(names[1]).end_ranks("Error", 1)
            await one.in_round(2, *names)
            took += [one.agent(name).told[-1][0] - reported_at for name in names]
        assert statistics.quantiles(took, n=4)[0] < 0.05, took  # the slower ones tell of the machine's other work

    with_plant(test)


def test_a_restarted_operator_goes_on_with_the_round_that_stands_in_the_status() -> None:
    async def scenario() -> None:
        cluster = MemoryCluster(utc_now)
        async with plant(cluster) as first:
            cluster.put_job(job_view(created_at=utc_now()))
            await first.in_round(1)
            pods = cluster.pods()
        cluster._notify.clear()
        async with plant(cluster) as second:
            async with aiohttp.ClientSession() as http:
                url = second.kubelet._url
                agents = [Agent(url, http, KEY, pod) for pod in pods]
                tasks = [asyncio.create_task(agent.run()) for agent in agents]
                await until(lambda: all(agent.round == 1 for agent in agents))
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
            assert cluster.jobs[KEY].status.restarts == 0
            assert cluster.pods() == pods

    asyncio.run(scenario())


def test_errors_of_the_cluster_are_logged_and_outlived(caplog: pytest.LogCaptureFixture) -> None:
    async def test(one: Plant) -> None:
        assert isinstance(one.cluster, FragileCluster)
        one.cluster.failures = 4
        one.cluster.put_job(job_view(created_at=utc_now()))
        await one.in_round(1)

    with caplog.at_level(logging.ERROR):
        with_plant(test, cluster=FragileCluster())
    assert "the API server is away" in caplog.text


def test_a_job_that_cannot_be_read_does_not_hold_up_another() -> None:
    other = JobKey("default", "other")

    class Selective(MemoryCluster):
        async def get_job(self, key: JobKey) -> JobView | None:
            if key == KEY:
                raise ValueError("a damaged object")
            return await super().get_job(key)

    async def test(one: Plant) -> None:
        one.cluster.put_job(job_view(created_at=utc_now()))
        one.cluster.put_job(job_view(other, uid="other-uid", created_at=utc_now()))
        await one.in_round(1, "other-0-1", "other-1-1")

    with_plant(test, cluster=Selective(utc_now), workers=1)


def test_jobs_are_looked_at_again_though_nothing_was_noticed() -> None:
    async def test(one: Plant) -> None:
        one.cluster.put_job(job_view(created_at=utc_now()))
        await one.in_round(1)
        one.cluster._notify.clear()
        one.cluster.remove_job(KEY)  # nobody tells the engine
        await until(lambda: not one.server.reports_for(KEY).by_uid)

    with_plant(test, resync_s=0.05)


def test_jobs_that_exist_before_the_start_are_found() -> None:
    async def scenario() -> None:
        cluster = MemoryCluster(utc_now)
        cluster.put_job(job_view(created_at=utc_now()))
        async with plant(cluster) as one:
            await one.in_round(1)

    asyncio.run(scenario())


def test_the_engine_stops_in_the_middle_of_a_pass() -> None:
    async def scenario() -> None:
        cluster = FragileCluster()
        cluster.hang.clear()
        cluster.put_job(job_view(created_at=utc_now()))
        async with plant(cluster):
            await asyncio.sleep(0)  # leaving waits at most 2 s

    asyncio.run(scenario())


def test_what_happens_after_the_start_does_not_wait_behind_the_jobs_there_are() -> None:
    new = JobKey("default", "new")

    class Order(Observer):
        def __init__(self) -> None:
            self.keys: list[JobKey] = []

        def reconciled(self, key: JobKey, result: PassResult, seconds: float) -> None:
            if not self.keys:
                cluster.put_job(job_view(new, uid="new", created_at=utc_now()))
            self.keys.append(key)

    cluster = MemoryCluster(utc_now)
    for number in range(3000):
        cluster.put_job(job_view(JobKey("default", f"job{number}"), uid=f"uid-{number}", spec=None))
    order = Order()

    async def test(one: Plant) -> None:
        await until(lambda: new in order.keys)

    with_plant(test, cluster=cluster, observer=order, workers=8)
    assert order.keys.index(new) < 1000  # after what was begun in the same turn of the event loop


def test_reports_of_progress_alone_cause_no_passes_until_the_status_may_be_written() -> None:
    class Count(Observer):
        passes = 0

        def reconciled(self, key: JobKey, result: PassResult, seconds: float) -> None:
            self.passes += 1

    count = Count()

    async def test(one: Plant) -> None:
        one.cluster.put_job(job_view(created_at=utc_now()))
        await one.in_round(1)
        agent = one.agent("mnist-0-1")
        await agent.report(progress={"step": 1})
        await until(lambda: one.job().status.progress is not None, 10.0)
        before = count.passes
        for step in range(2, 42):
            await agent.report(progress={"step": step})
        assert count.passes - before <= 2
        await until(lambda: (progress := one.job().status.progress) is not None and progress.step == 41, 10.0)

    with_plant(test, observer=count)


def test_twenty_jobs_run_side_by_side() -> None:
    async def test(one: Plant) -> None:
        keys = [JobKey("default", f"job{number}") for number in range(20)]
        for number, key in enumerate(keys):
            one.cluster.put_job(job_view(key, uid=f"uid-{number}", created_at=utc_now()))
        await one.in_round(1, *(f"{key.name}-{index}-1" for key in keys for index in range(2)))

    with_plant(test)
