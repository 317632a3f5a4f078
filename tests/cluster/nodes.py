"""A kind cluster's nodes as containers of this machine: to be killed, paused, started again, and looked into.

May import this package and the rig. A node is found by its container, whoever made the cluster; a cluster whose nodes
are no containers here has no `Nodes`.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..rig.client import KubeClient
from ..rig.processes import until
from .engine import ClusterError, Engine, find_engine

GPU = "nvidia.com/gpu"
READY_S = 120.0
CONTROL_PLANE = "node-role.kubernetes.io/control-plane"


class Nodes:
    """The nodes of one kind cluster; `workers` are those that take pods."""

    def __init__(self, engine: Engine, api: KubeClient) -> None:
        """Raises ClusterError where a node of the cluster is no container of `engine`."""
        self._engine, self._api = engine, api
        items = api.items("/api/v1/nodes")
        self.names = sorted(item["metadata"]["name"] for item in items)
        self.workers = sorted(
            item["metadata"]["name"] for item in items if CONTROL_PLANE not in item["metadata"].get("labels", {})
        )
        self.control_plane = next(name for name in self.names if name not in self.workers)
        for name in self.names:
            engine.run("inspect", "--format", "{{.Id}}", name, timeout_s=30)

    def kill(self, name: str) -> None:
        """As when the power fails: nothing on the node runs any more, nobody is told."""
        self._engine.run("kill", name, timeout_s=60)

    def start(self, name: str) -> None:
        """Start a killed node again; `wait_ready` waits for it."""
        self._engine.run("start", name, timeout_s=60)

    def pause(self, name: str) -> None:
        """Freeze every process of the node: it is silent, and comes back with all it had."""
        self._engine.run("pause", name, timeout_s=60)

    def unpause(self, name: str) -> None:
        self._engine.run("unpause", name, timeout_s=60)

    def run(self, name: str, *command: str, timeout_s: float = 60) -> str:
        """The output of a command in the node, as its root. Raises ClusterError where it fails."""
        return self._engine.run("exec", name, *command, timeout_s=timeout_s)

    def processes(self, name: str, pod_uid: str) -> dict[int, str]:
        """Process id (as the node counts) -> command line, of the containers of one of its pods."""
        script = (
            'for d in /proc/[0-9]*; do if grep -q "$1" $d/cgroup 2>/dev/null; then '
            'echo "${d#/proc/} $(tr "\\0" " " <$d/cmdline)"; fi; done'
        )
        told = self.run(name, "sh", "-c", script, "sh", f"pod{pod_uid}")
        return {int(pid): command for pid, _, command in (line.partition(" ") for line in told.splitlines())}

    def signal(self, name: str, pids: Sequence[int], signal: str = "KILL") -> None:
        """Send a signal to processes of the node, by its own process ids."""
        self.run(name, "kill", f"-{signal}", *map(str, pids))

    def ready(self, name: str) -> bool:
        """What the cluster believes of it."""
        node = self._api.get(f"/api/v1/nodes/{name}")
        return any(one["type"] == "Ready" and one["status"] == "True" for one in node["status"].get("conditions", ()))

    def wait_ready(self, *names: str, limit_s: float = READY_S) -> None:
        """Until these (all when none is named) are Ready, with the GPUs they had. Raises RigError."""
        for name in names or self.names:
            until(f"node {name} is Ready", lambda name=name: self.ready(name), limit_s, poll_s=0.3)  # type: ignore[misc]

    def set_gpus(self, name: str, count: int) -> None:
        """Say that the node has so many GPUs; what asks for them is scheduled as where they are real."""
        set_gpus(self._api, name, count)

    def gpus(self, name: str) -> int:
        """How many can be given to pods."""
        return int(self._api.get(f"/api/v1/nodes/{name}")["status"].get("allocatable", {}).get(GPU, "0"))


def set_gpus(api: KubeClient, node: str, count: int) -> None:
    """Patch the extended resource into the node's capacity; a kubelet that starts anew forgets it.

    Kubernetes' documentation, "Advertise Extended Resources for a Node". Allocatable follows with the kubelet's next
    status, so it is set as well.
    """
    told = {GPU: str(count)}
    api.request(
        "PATCH",
        f"/api/v1/nodes/{node}/status",
        {"status": {"capacity": told, "allocatable": told}},
        "application/merge-patch+json",
    )


def find_nodes(engine: Engine | None, api: KubeClient) -> Nodes | None:
    """The nodes, or None where they are not containers of this machine; `engine` is looked for when it is None."""
    try:
        return Nodes(engine or find_engine(), api)
    except ClusterError:
        return None
