"""The API server, etcd, a kubelet, a container runtime are killed, the control plane's node goes: training goes on.

One job lives through it all, one fault after the other; the tests look at what it was like after each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ..cluster.nodes import Nodes
from ..rig.client import KubeError
from ..rig.cluster import Cluster
from ..rig.jobs import Object
from . import evidence
from .faults import own_namespace
from .ground import Ground
from .jobs import Jobs
from .release import Release, is_ready
from .store import Store
from .story import Story
from .waiting import until

pytestmark = [pytest.mark.alone, pytest.mark.timeout(1500)]
LIMIT_S = 300.0
NAME = "calm"
STEPS = 20
AWAY_S = 30.0
API_SERVER, ETCD, KUBELET, RUNTIME = "API server killed", "etcd killed", "kubelet restarted", "containerd restarted"
CONTROL_PLANE = "node of the control plane away for 30 s"
_KILL = """
for d in /proc/[0-9]*; do
  [ "$(cat $d/comm 2>/dev/null)" = "$1" ] && kill -9 ${d#/proc/} && found=1
done
test "$found"
"""


@dataclass(frozen=True)
class After:
    """One fault: the job's status, its pods' uids and their containers' restarts, before and when it has gone on."""

    before: Object
    after: Object
    uids_before: dict[int, str]
    uids_after: dict[int, str]
    container_restarts: int
    phases: list[str]
    messages: list[str]


@dataclass
class Calm:
    """A job that nothing should disturb; after a fault that disturbed it no other is tried."""

    jobs: Jobs
    story: Story
    over: Exception | None = None
    lived: dict[str, After] = field(default_factory=dict)

    def live_through(self, name: str, fault: Callable[[], object]) -> None:
        if self.over is not None:
            return
        try:
            before, uids, at = self.jobs.until_training(NAME), self.jobs.uids(NAME), time.time()
            fault()
            until("the API server answers", lambda: answers(self.jobs), LIMIT_S)
            there = until("the status is read", lambda: self.jobs.status(NAME), LIMIT_S)
            furthest = max(int(before["progress"]["step"]), int(there["progress"]["step"]))
            after = self.jobs.until_training(NAME, furthest + STEPS, limit_s=LIMIT_S)
            pods = self.jobs.pods(NAME)
            restarts = sum(one["restartCount"] for pod in pods for one in pod["status"]["containerStatuses"])
            seen = [one.get("phase") or "" for seen_at, one in self.story.statuses() if seen_at >= at]
            self.lived[name] = After(before, after, uids, self.jobs.uids(NAME), restarts, sorted(set(seen)),
                                     self.story.messages(at))  # fmt: skip
            evidence.note("fault", name=name, seconds=round(time.time() - at, 1), stepsLost=0, state=after["phase"],
                          messages=self.story.messages(at))  # fmt: skip
        except Exception as error:
            self.over = error

    def check_undisturbed(self, name: str) -> After:
        """The same round of the same containers went on, and the status says so. Raises what went wrong before."""
        if name not in self.lived:
            raise self.over or AssertionError(f"{name}: was not tried")
        one = self.lived[name]
        assert one.uids_after == one.uids_before and one.container_restarts == 0
        assert one.after["round"] == one.before["round"] and one.after["restarts"] == 0
        assert not one.after.get("failures")
        assert set(one.phases) <= {"Running"}, one.phases
        assert one.after["checkpoint"]["step"] >= one.before["checkpoint"]["step"]
        return one


def answers(jobs: Jobs) -> bool:
    """Whether the API server, and etcd behind it, serve jobs."""
    try:
        return jobs.find(NAME) is not None
    except (KubeError, OSError):
        return False


def kill(nodes: Nodes, node: str, program: str) -> None:
    """Kill all processes of this name in a node."""
    nodes.run(node, "sh", "-c", _KILL, "sh", program)


@pytest.fixture(scope="module")
def calm(
    cluster: Cluster, installed: Release, store: Store, turns: Path, nodes: Nodes, namespaces_of_module: list[str],
    request: pytest.FixtureRequest,
) -> Iterator[Calm]:  # fmt: skip
    """All faults at once, in a turn of the module's own: they disturb everybody."""
    asked = {item.name for item in request.session.items if item.path == request.path}
    with own_namespace(cluster, installed, store, turns, namespaces_of_module, alone=True) as jobs:
        ground = Ground(installed, nodes)
        with Story(jobs, NAME, store) as story:
            jobs.create_long(NAME)
            calm = Calm(jobs, story)
            calm.live_through(API_SERVER, lambda: kill(nodes, nodes.control_plane, "kube-apiserver"))
            calm.live_through(ETCD, lambda: kill(nodes, nodes.control_plane, "etcd"))
            calm.live_through(KUBELET, lambda: restart(ground, "kubelet"))
            calm.live_through(RUNTIME, lambda: restart(ground, "containerd"))
            if test_training_goes_on_while_the_control_planes_node_is_away.__name__ in asked:
                calm.live_through(CONTROL_PLANE, lambda: away(ground))
            if calm.over is None:
                jobs.until_clean(NAME)
        until("everything is as it was", lambda: recovered(ground), LIMIT_S)
    yield calm


def restart(ground: Ground, unit: str) -> None:
    for node in ground.nodes.workers:
        ground.nodes.run(node, "systemctl", "restart", unit)
    ground.nodes.wait_ready(limit_s=LIMIT_S)


def away(ground: Ground) -> None:
    """Kill the control plane's node, DNS included, and start it again."""
    node, at = ground.nodes.control_plane, time.time()
    ground.nodes.kill(node)
    try:
        until("it was away for long", lambda: time.time() >= at + AWAY_S, AWAY_S + 60)
    finally:
        ground.nodes.start(node)


def recovered(ground: Ground) -> bool:
    """Whether the nodes, the pods of kube-system and dlcloud are all ready."""
    try:
        leader = ground.release.leader()
        pods = ground.api.items("/api/v1/namespaces/kube-system/pods")
        return leader is not None and all(map(is_ready, pods)) and all(map(ground.nodes.ready, ground.nodes.names))
    except (KubeError, OSError):
        return False


def test_training_goes_on_while_the_api_server_is_killed(calm: Calm) -> None:
    calm.check_undisturbed(API_SERVER)


def test_training_goes_on_while_etcd_is_killed(calm: Calm) -> None:
    calm.check_undisturbed(ETCD)


def test_a_kubelet_that_restarts_loses_nothing(calm: Calm) -> None:
    calm.check_undisturbed(KUBELET)


def test_a_container_runtime_that_restarts_loses_nothing(calm: Calm) -> None:
    calm.check_undisturbed(RUNTIME)


@pytest.mark.full
def test_training_goes_on_while_the_control_planes_node_is_away(calm: Calm) -> None:
    calm.check_undisturbed(CONTROL_PLANE)


def test_the_job_is_deleted_afterwards_and_nothing_of_it_is_left(calm: Calm) -> None:
    if calm.over is not None:
        raise calm.over
    assert calm.jobs.find(NAME) is None
