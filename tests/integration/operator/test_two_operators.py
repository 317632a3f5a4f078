"""Two operators of one release: one acts, the other waits, and no death or sleep of one makes anything happen twice."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from ...rig.cluster import Cluster
from ...rig.jobs import Jobs
from ...rig.kubelet import Kubelet
from ...rig.processes import until
from .conftest import Install
from .installation import Installation, OperatorProcess
from .proxy import Call, Proxy

TAKEOVER_S = 15.0
SLACK_S = 5.0  # for a machine with other work


@dataclass
class Pair:
    """A leader and its standby, each behind a proxy of its own."""

    leader: OperatorProcess
    standby: OperatorProcess
    of_leader: Proxy
    of_standby: Proxy


class Crew:
    """The operators of one release; who is alive stays for the next test."""

    def __init__(self, release: Installation, stack: contextlib.ExitStack) -> None:
        self._release, self._stack = release, stack
        self._alive: list[tuple[OperatorProcess, Proxy]] = []

    def pair(self) -> Pair:
        """Two that run, the leader first."""
        self._alive = [one for one in self._alive if one[0].running]
        while len(self._alive) < 2:
            proxy = self._stack.enter_context(Proxy(self._release.cluster.kubeconfig))
            operator = self._release.start_operator(proxy=proxy)
            self._alive.append((operator, proxy))
            if len(self._alive) == 1:
                operator.wait_leading()
        self._alive.sort(key=lambda one: one[0].name != self._release.leader())
        (leader, of_leader), (standby, of_standby) = self._alive
        return Pair(leader, standby, of_leader, of_standby)


@pytest.fixture(scope="module")
def release(install: Install, own_home: str) -> Installation:
    return install(own_home)


@pytest.fixture(scope="module")
def jobs(control_plane: Cluster, own_home: str) -> Jobs:
    return Jobs(control_plane, own_home)


@pytest.fixture(scope="module")
def crew(release: Installation) -> Iterator[Crew]:
    with contextlib.ExitStack() as stack:
        yield Crew(release, stack)
        for operator in release.operators:
            operator.kill()


@pytest.fixture
def pair(crew: Crew, node: Kubelet) -> Iterator[Pair]:
    node.play.work_s = None
    yield crew.pair()
    node.play.succeed.clear()


def test_both_are_ready_and_one_acts(pair: Pair, release: Installation, jobs: Jobs) -> None:
    assert pair.leader.ready() and pair.standby.ready()
    jobs.create("shared")
    jobs.until_round("shared")
    assert pair.of_leader.writes() and release.leader() == pair.leader.name
    assert [str(call) for call in pair.of_standby.writes()] == []
    assert (pair.leader.metric("dlcloud_operator_leader"), pair.standby.metric("dlcloud_operator_leader")) == (1, 0)


@pytest.mark.slow
def test_after_a_hard_death_the_standby_acts_within_15_s_and_restarts_nothing(
    pair: Pair, node: Kubelet, jobs: Jobs
) -> None:
    jobs.create("orphan")
    jobs.until_round("orphan")
    uids = [pod["metadata"]["uid"] for pod in jobs.pods("orphan")]
    pair.leader.kill()
    died_at = time.monotonic()
    jobs.create("newborn")
    until("the standby makes pods", lambda: jobs.pods("newborn"), TAKEOVER_S + SLACK_S)
    assert time.monotonic() - died_at < TAKEOVER_S + SLACK_S
    node.play.succeed |= {"orphan", "newborn"}
    for name in ("orphan", "newborn"):
        assert jobs.until_phase(name, "Succeeded")["restarts"] == 0
    assert [pod["metadata"]["uid"] for pod in jobs.pods("orphan")] == uids
    assert pair.standby.troubles() == []


def test_after_a_clean_stop_the_standby_acts_at_once(pair: Pair, jobs: Jobs) -> None:
    pair.leader.stop(grace_s=20)
    stopped_at = time.monotonic()
    assert pair.leader.exit_code() == 0
    jobs.create("handed")
    until("the standby makes pods", lambda: jobs.pods("handed"), 3 + SLACK_S)
    assert time.monotonic() - stopped_at < 3 + SLACK_S
    assert pair.leader.troubles() == []


def test_a_leader_frozen_in_the_middle_of_a_pass_changes_nothing_when_it_wakes(
    pair: Pair, release: Installation, node: Kubelet, jobs: Jobs
) -> None:
    """It sleeps between the status that names a pod and the create; the answer to the status reaches it afterwards."""
    asleep: list[float] = []

    def freeze() -> None:
        pair.leader.freeze()
        asleep.append(time.monotonic())

    def first_status(call: Call) -> bool:
        return call.method == "PATCH" and call.path.endswith("/trainingjobs/sleepy/status")

    pair.of_leader.interrupt(first_status, freeze)
    jobs.create("sleepy")
    until("the leader sleeps", lambda: asleep, 15)
    until("the standby leads", lambda: release.leader() == pair.standby.name, TAKEOVER_S + SLACK_S)
    jobs.until_round("sleepy")
    made = {pod["metadata"]["uid"] for pod in jobs.pods("sleepy")}
    pair.leader.thaw()
    assert pair.leader.exit_code() == 1
    own_pod = f"/api/v1/namespaces/{release.namespace}/pods/{pair.leader.name}"  # it takes its own label away
    late = [call for call in pair.of_leader.writes() if call.at > asleep[0] and call.path != own_pod]
    assert [str(call) for call in late] == [], "it did not even try"
    assert {pod["metadata"]["uid"] for pod in jobs.pods("sleepy")} == made
    node.play.succeed.add("sleepy")
    assert jobs.until_phase("sleepy", "Succeeded")["restarts"] == 0
    assert "lease" in pair.leader.text() and pair.leader.tracebacks() == []


@pytest.mark.slow
def test_writes_that_arrive_late_from_a_frozen_leader_are_refused(
    pair: Pair, release: Installation, node: Kubelet, jobs: Jobs
) -> None:
    """A status and a pod it had already sent reach the API server when the standby has long done its own."""
    held = pair.of_leader.hold(lambda call: call.method == "PATCH" and call.path.endswith("/late/status"), times=1)
    jobs.create("late")
    until("the status is on its way", lambda: pair.of_leader.waiting(), 15)
    pair.leader.freeze()
    until("the standby leads", lambda: release.leader() == pair.standby.name, TAKEOVER_S + SLACK_S)
    jobs.until_round("late")
    node.play.succeed.add("late")
    jobs.until_phase("late", "Succeeded")
    before = jobs.get("late")["status"]
    held()
    until("it has arrived", lambda: not pair.of_leader.waiting(), 15)
    (sent,) = [call for call in pair.of_leader.writes() if call.path.endswith("/late/status")]
    until("it was answered", lambda: sent.status, 15)
    assert sent.status == 409
    assert jobs.get("late")["status"] == before
    pair.leader.thaw()
    assert pair.leader.exit_code() == 1
