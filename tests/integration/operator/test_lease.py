"""Leader election on a real API server: who may act, and that never two may."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from dlcloud_operator.kube.api import KubeApi
from dlcloud_operator.kube.connection import Connection
from dlcloud_operator.kube.lease import Lease, LeaseLost, LeaseTiming, boottime, lease_api, make_identity

from ...rig.client import KubeClient
from ...rig.cluster import Cluster
from .contender import LOST
from .proxy import Proxy

NAME = "dlcloud-operator"
QUICK = LeaseTiming(duration_s=3, renew_deadline_s=2.0, retry_s=0.4, poll_s=0.2)
CONTENDER = Path(__file__).with_name("contender.py")
SLACK_S = 1.5  # a loaded machine


@dataclass
class Contender:
    lease: Lease
    running: asyncio.Task[None]
    api: KubeApi

    async def hold(self, limit_s: float = 10.0) -> float:
        """Wait until it leads; when that was (boottime)."""
        async with asyncio.timeout(limit_s):
            await self.lease.held.wait()
        return boottime()


@contextlib.asynccontextmanager
async def contender(
    kubeconfig: Path,
    namespace: str,
    identity: str,
    timing: LeaseTiming = QUICK,
    clock: Callable[[], float] = boottime,
) -> AsyncIterator[Contender]:
    api = lease_api(Connection(kubeconfig))
    lease = Lease(api, namespace, NAME, identity, timing, clock)
    running = asyncio.create_task(lease.run())
    try:
        yield Contender(lease, running, api)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await api.close()


async def until(condition: Callable[[], Any], limit_s: float = 10.0) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110 - no event announces it
            await asyncio.sleep(0.01)


def path_of(namespace: str, name: str = f"/{NAME}") -> str:
    return f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases{name}"


def spec_of(kube: KubeClient, namespace: str) -> dict[str, Any]:
    return dict(kube.get(path_of(namespace))["spec"])


def wall_text(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def held_by_another(kube: KubeClient, namespace: str, renewed: datetime) -> dict[str, Any]:
    """A lease whose holder says this of its clock."""
    spec = {
        "holderIdentity": "rival",
        "leaseDurationSeconds": QUICK.duration_s,
        "acquireTime": wall_text(renewed),
        "renewTime": wall_text(renewed),
        "leaseTransitions": 4,
    }
    return dict(kube.create(path_of(namespace, ""), {"metadata": {"name": NAME}, "spec": spec}))


def run(scenario: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await scenario

    asyncio.run(bounded())


# --- two alive ---


def test_while_one_renews_the_other_waits(control_plane: Cluster, namespace: str) -> None:
    async def scenario() -> None:
        async with contender(control_plane.kubeconfig, namespace, "one") as one:
            began = await one.hold()
            async with contender(control_plane.kubeconfig, namespace, "two") as two:
                await until(lambda: boottime() > began + QUICK.duration_s + 1)
                assert one.lease.valid()
                assert not two.lease.held.is_set()
                assert not two.lease.valid()

    run(scenario())


def test_a_lease_given_back_is_taken_at_once(control_plane: Cluster, namespace: str, kube: KubeClient) -> None:
    async def scenario() -> None:
        kubeconfig = control_plane.kubeconfig
        async with contender(kubeconfig, namespace, "one") as one, contender(kubeconfig, namespace, "two") as two:
            first, second = (one, two) if await _leads(one, two) is one else (two, one)
            await first.lease.release()
            given_back = boottime()
            assert not first.lease.valid()
            assert await second.hold() - given_back < 0.2 + SLACK_S < QUICK.duration_s
            assert spec_of(kube, namespace)["leaseTransitions"] == 1
            await asyncio.wait_for(first.running, 2)  # it ends without an error

    run(scenario())


async def _leads(*contenders: Contender) -> Contender:
    await until(lambda: any(one.lease.held.is_set() for one in contenders))
    return next(one for one in contenders if one.lease.held.is_set())


def test_a_process_before_it_in_the_same_pod_is_not_waited_for(control_plane: Cluster, namespace: str) -> None:
    async def scenario() -> None:
        async with contender(control_plane.kubeconfig, namespace, make_identity("pod-a", "uid-1")) as killed:
            await killed.hold()
        began = boottime()
        async with contender(control_plane.kubeconfig, namespace, make_identity("pod-a", "uid-1")) as restarted:
            assert await restarted.hold() - began < SLACK_S < QUICK.duration_s

    run(scenario())


@pytest.mark.parametrize(
    "identity",
    [pytest.param("pod-a_uid-2_0", id="another pod"), pytest.param("pod-a_0", id="no uid", marks=pytest.mark.slow)],
)
def test_every_other_process_waits_for_the_end_of_the_lease(
    control_plane: Cluster, namespace: str, identity: str
) -> None:
    async def scenario() -> None:
        async with contender(control_plane.kubeconfig, namespace, "pod-a_uid-1_0") as killed:
            await killed.hold()
        began = boottime()
        async with contender(control_plane.kubeconfig, namespace, identity) as other:
            assert await other.hold() - began >= QUICK.duration_s

    run(scenario())


# --- clocks ---


def test_a_holder_whose_clock_is_an_hour_behind_keeps_its_lease(
    control_plane: Cluster, namespace: str, kube: KubeClient
) -> None:
    async def scenario() -> None:
        behind = datetime.now(UTC) - timedelta(hours=1)
        held = held_by_another(kube, namespace, behind)
        async with contender(control_plane.kubeconfig, namespace, "one") as one:
            for second in range(1, 2 * QUICK.duration_s):
                await asyncio.sleep(0.8)  # the rival's renewals
                held["spec"]["renewTime"] = wall_text(behind + timedelta(seconds=second))
                held = kube.replace(path_of(namespace), held)
                assert not one.lease.held.is_set()

    run(scenario())


def test_a_dead_holder_whose_clock_was_an_hour_ahead_is_not_waited_for(
    control_plane: Cluster, namespace: str, kube: KubeClient
) -> None:
    async def scenario() -> None:
        held_by_another(kube, namespace, datetime.now(UTC) + timedelta(hours=1))
        began = boottime()
        async with contender(control_plane.kubeconfig, namespace, "one") as one:
            assert QUICK.duration_s <= await one.hold() - began < QUICK.duration_s + SLACK_S
            assert spec_of(kube, namespace)["leaseTransitions"] == 5

    run(scenario())


# --- an API server that is away ---


@pytest.mark.parametrize("trouble", ["silent", pytest.param("503", marks=pytest.mark.slow)])
def test_a_short_absence_of_the_api_server_costs_nothing(control_plane: Cluster, namespace: str, trouble: str) -> None:
    async def scenario() -> None:
        with Proxy(control_plane.kubeconfig) as proxy:
            async with contender(proxy.kubeconfig(control_plane.kubeconfig), namespace, "one") as one:
                began = await one.hold()
                over = proxy.hold(lambda _: True, 1000) if trouble == "silent" else proxy.answer(lambda _: True, 503)
                await until(lambda: boottime() > began + QUICK.renew_deadline_s * 5 / 8)
                over()
                await until(lambda: boottime() > began + QUICK.duration_s)
                assert one.lease.valid()
                assert not one.running.done()

    run(scenario())


@pytest.mark.parametrize("trouble", [pytest.param("silent", marks=pytest.mark.slow), "503"])
def test_a_long_absence_ends_the_holder_before_others_may_begin(
    control_plane: Cluster, namespace: str, trouble: str
) -> None:
    async def scenario() -> None:
        with Proxy(control_plane.kubeconfig) as proxy:
            through = proxy.kubeconfig(control_plane.kubeconfig)
            async with contender(through, namespace, "one") as one:
                await one.hold()
                began = boottime()
                over = proxy.hold(lambda _: True, 1000) if trouble == "silent" else proxy.answer(lambda _: True, 503)
                with pytest.raises(LeaseLost, match="was not renewed within 2 s: "):
                    await asyncio.wait_for(one.running, QUICK.renew_deadline_s + SLACK_S)
                assert boottime() - began < QUICK.renew_deadline_s + 0.5
                assert not one.lease.valid()
                over()

    run(scenario())


def test_a_renewal_whose_reply_is_lost_is_known_as_ones_own(control_plane: Cluster, namespace: str) -> None:
    async def scenario() -> None:
        with Proxy(control_plane.kubeconfig) as proxy:
            async with contender(proxy.kubeconfig(control_plane.kubeconfig), namespace, "one") as one:
                began = await one.hold()
                lost: list[float] = []
                proxy.strike(lambda call: call.method == "PUT", after=lambda: lost.append(boottime()))
                await until(lambda: lost)
                await until(lambda: boottime() > began + QUICK.duration_s)
                assert one.lease.valid()

    run(scenario())


def test_an_acquisition_whose_reply_is_lost_is_known_as_ones_own(control_plane: Cluster, namespace: str) -> None:
    async def scenario() -> None:
        with Proxy(control_plane.kubeconfig) as proxy:
            proxy.strike(lambda call: call.method == "POST", after=lambda: None)
            began = boottime()
            async with contender(proxy.kubeconfig(control_plane.kubeconfig), namespace, "one") as one:
                assert await one.hold() - began < QUICK.renew_deadline_s / 2 + SLACK_S < QUICK.duration_s

    run(scenario())


# --- the object in other hands ---


def test_a_lease_that_names_another_ends_the_holder_at_once(
    control_plane: Cluster, namespace: str, kube: KubeClient
) -> None:
    async def scenario() -> None:
        async with contender(control_plane.kubeconfig, namespace, "one") as one:
            await one.hold()
            kube.merge(path_of(namespace), {"spec": {"holderIdentity": "somebody"}})
            with pytest.raises(LeaseLost, match="was taken by somebody"):
                await asyncio.wait_for(one.running, QUICK.retry_s + SLACK_S)
            assert not one.lease.valid()

    run(scenario())


def test_a_lease_that_somebody_deletes_stays_with_its_holder(
    control_plane: Cluster, namespace: str, kube: KubeClient
) -> None:
    async def scenario() -> None:
        kubeconfig = control_plane.kubeconfig
        async with contender(kubeconfig, namespace, "one") as one:
            await one.hold()
            async with contender(kubeconfig, namespace, "two") as two:
                await until(lambda: two.lease._seen is not None)
                kube.delete(path_of(namespace))
                await until(lambda: (kube.find(path_of(namespace)) or {}).get("spec"))
                assert spec_of(kube, namespace)["holderIdentity"] == "one"
                assert one.lease.valid()
                assert not two.lease.held.is_set()

    run(scenario())


def test_a_missing_right_is_told_once_and_tried_again(
    control_plane: Cluster, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "dlcloud_operator.kube.lease")
    control_plane.make_service_account(namespace, "powerless")
    kubeconfig = control_plane.kubeconfig_for_service_account(namespace, "powerless")

    async def scenario() -> None:
        async with contender(kubeconfig, namespace, "one") as one:
            await until(lambda: caplog.records)
            began = boottime()
            await until(lambda: boottime() > began + 3 * QUICK.poll_s)
            assert not one.running.done()

    run(scenario())
    [record] = caplog.records
    assert "cannot get resource" in record.getMessage()
    assert "leases" in record.getMessage()


# --- processes ---


StartContender = Callable[..., "Process"]


class Process:
    def __init__(self, kubeconfig: Path, namespace: str, identity: str, timing: list[str], output: Path) -> None:
        self.output = output
        command = [sys.executable, str(CONTENDER), str(kubeconfig), namespace, identity, *timing]
        with output.open("wb") as stream, output.with_suffix(".err").open("wb") as errors:
            self.popen = subprocess.Popen(command, stdout=stream, stderr=errors)

    def looks(self) -> list[tuple[float, bool]]:
        """What it believed, and when."""
        lines = self.output.read_text().splitlines(keepends=True)
        parts = [line.split() for line in lines if line.endswith("\n")]
        return [(float(at), valid == "1") for at, valid in parts]

    def leads(self) -> bool:
        return any(valid for _, valid in self.looks())

    def stands_by(self) -> bool:
        return len(self.looks()) > 40

    def led_at(self) -> list[float]:
        return [at for at, valid in self.looks() if valid]


@pytest.fixture
def start_contender(control_plane: Cluster, namespace: str, tmp_path: Path) -> Iterator[StartContender]:
    started: list[Process] = []

    def start(identity: str, timing: LeaseTiming | None = None) -> Process:
        times = []
        if timing is not None:
            times = [str(t) for t in (timing.duration_s, timing.renew_deadline_s, timing.retry_s, timing.poll_s)]
        started.append(Process(control_plane.kubeconfig, namespace, identity, times, tmp_path / f"{identity}.out"))
        return started[-1]

    yield start
    for process in started:
        if process.popen.poll() is None:
            process.popen.send_signal(signal.SIGCONT)
            process.popen.kill()
        process.popen.wait(10)


def wait_until(condition: Callable[[], Any], limit_s: float) -> float:
    """Wait for it; how long it took, in seconds."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() > began + limit_s:
            pytest.fail(f"not within {limit_s:g} s")
        time.sleep(0.02)
    return time.monotonic() - began


@pytest.mark.parametrize(
    ("timing", "limit_s"),
    [(QUICK, QUICK.duration_s + QUICK.poll_s + SLACK_S), pytest.param(None, 15.0, marks=pytest.mark.slow)],
    ids=["quick", "as shipped"],
)
def test_after_a_hard_death_the_standby_takes_over(
    start_contender: StartContender, timing: LeaseTiming | None, limit_s: float
) -> None:
    one = start_contender("one", timing)
    wait_until(one.leads, 20)
    two = start_contender("two", timing)
    wait_until(two.stands_by, 20)
    one.popen.kill()
    took = wait_until(two.leads, 30)
    assert took <= limit_s, took
    assert max(one.led_at()) < min(two.led_at())


@pytest.mark.slow
def test_a_process_that_is_told_to_end_hands_over_at_once(start_contender: StartContender) -> None:
    one = start_contender("one")
    wait_until(one.leads, 20)
    two = start_contender("two")
    wait_until(two.stands_by, 20)
    one.popen.terminate()
    assert one.popen.wait(5) == 0
    assert wait_until(two.leads, 10) < 1 + SLACK_S


def test_a_frozen_holder_knows_at_the_first_instruction_that_its_time_is_over(start_contender: StartContender) -> None:
    one = start_contender("one", QUICK)
    wait_until(one.leads, 20)
    two = start_contender("two", QUICK)
    wait_until(two.stands_by, 20)
    one.popen.send_signal(signal.SIGSTOP)
    stopped = boottime()
    wait_until(two.leads, 20)
    wait_until(lambda: boottime() > stopped + QUICK.duration_s, 20)
    before = len(one.looks())
    one.popen.send_signal(signal.SIGCONT)
    assert one.popen.wait(5) == LOST
    # A line may have been under way when the process was stopped: it tells the time it was written at.
    after = [(at, valid) for at, valid in one.looks()[before:] if at > stopped + 0.1]
    assert not any(valid for _, valid in after), after
    assert max(one.led_at()) < min(two.led_at())
    assert "lease dlcloud-operator" in one.output.with_suffix(".err").read_text()


# --- settings ---


@pytest.mark.parametrize(
    "times",
    [{"duration_s": 8}, {"renew_deadline_s": 2.0}, {"retry_s": 0.0}, {"poll_s": 0.0}],
    ids=["no safety", "one try", "no pause", "no poll"],
)
def test_timings_that_cannot_be_safe_are_refused(times: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="lease timing"):
        LeaseTiming(**times)
