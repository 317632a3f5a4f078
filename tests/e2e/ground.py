"""Two nodes to try faults of nodes on: one that carries dlcloud, one that carries nothing but workers. `Ground`.

May import the rigs. What it cordons or kills it gives back; tests that use it have the cluster to themselves.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from typing import Any

from ..cluster.nodes import Nodes
from ..rig.binaries import find_programs
from ..rig.jobs import Object
from .jobs import Jobs
from .release import STORE, SYSTEM, Release, is_ready
from .waiting import until

LIMIT_S = 300


class Ground:
    """`home` has the store, whose volume binds it to its node; `victim` is another node that takes pods."""

    def __init__(self, release: Release, nodes: Nodes) -> None:
        """Raises AssertionError where there is no second node."""
        self.release, self.nodes, self.api = release, nodes, release.api
        store = self.api.find(f"/api/v1/namespaces/{SYSTEM}/pods/{STORE}-0")
        self.home: str = store["spec"]["nodeName"] if store else nodes.workers[0]
        others = [name for name in nodes.workers if name != self.home]
        assert others, "needs two nodes that take pods: make cluster-up makes them"
        self.victim = others[0]

    # --- who is where ---

    def move_operator(self, node: str) -> None:
        """Have the operator run on a node."""
        if all(pod["spec"].get("nodeName") == node for pod in self.release.operator_pods()):
            self.release.wait_leading()
            return
        old = {pod["metadata"]["uid"] for pod in self.release.operator_pods()}
        with self.only(node):
            for pod in self.release.operator_pods():
                self.api.delete(f"/api/v1/namespaces/{SYSTEM}/pods/{pod['metadata']['name']}")
            until(f"an operator leads on {node}", lambda: self._leads_elsewhere(old), LIMIT_S)

    def start(self, jobs: Jobs, name: str, on_victim: int, **spec: Any) -> Object:
        """A long job of two workers, worker `on_victim` on the victim and the other at home; its status as it trains.

        Pods of one job are alike, so nothing in a manifest could say so: where they may go is changed between them.
        """
        with self.only(self.home):
            jobs.create_long(name, **spec)
            until("both workers have a node", lambda: self._node_of(jobs, name, 0) and self._node_of(jobs, name, 1), 60)
        with self.only(self.victim):
            jobs.delete_pod(jobs.pod(name, on_victim))
            until(
                "the worker is on the victim", lambda: self._node_of(jobs, name, on_victim) == self.victim, LIMIT_S
            )  # fmt: skip
        jobs.until_round(name)
        status = jobs.until_training(name)
        assert self._node_of(jobs, name, on_victim) == self.victim
        assert self._node_of(jobs, name, 1 - on_victim) == self.home
        return status

    @contextlib.contextmanager
    def only(self, node: str) -> Iterator[None]:
        """New pods go to this node alone in the block."""
        try:
            for name in self.nodes.workers:
                self.cordon(name, name != node)
            yield
        finally:
            for name in self.nodes.workers:
                self.cordon(name, False)

    def drain(self, node: str) -> str:
        """What `kubectl drain` says, once every pod has left the node; it stays cordoned."""
        words = ["drain", node, "--ignore-daemonsets", "--delete-emptydir-data", f"--timeout={LIMIT_S}s"]
        kubectl = find_programs(("kubectl",))["kubectl"]
        done = subprocess.run(
            [kubectl, "--kubeconfig", self.release.cluster.kubeconfig, *words],
            capture_output=True, text=True, timeout=LIMIT_S + 30, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def cordon(self, node: str, closed: bool) -> None:
        self.api.merge(f"/api/v1/nodes/{node}", {"spec": {"unschedulable": closed or None}})

    # --- afterwards ---

    def heal(self, *names: str) -> None:
        """Return when these nodes (all, when none is named) take pods again, and what each node runs is ready."""
        self.nodes.wait_ready(*names, limit_s=LIMIT_S)
        until("the nodes' own pods are ready", self._own_pods_ready, LIMIT_S)

    # --- inside ---

    def _node_of(self, jobs: Jobs, name: str, worker: int) -> str:
        try:
            return str(jobs.pod(name, worker)["spec"].get("nodeName") or "")
        except LookupError:
            return ""

    def _leads_elsewhere(self, old: set[str]) -> bool:
        leader = self.release.leader()
        return leader is not None and leader["metadata"]["uid"] not in old

    def _own_pods_ready(self) -> bool:
        """A node that was restarted starts the pods it had again; only those of its daemons are waited for."""
        pods = self.api.items("/api/v1/namespaces/kube-system/pods")
        owned = [pod for pod in pods if pod["metadata"].get("ownerReferences")]
        return all(is_ready(pod) for pod in owned if "deletionTimestamp" not in pod["metadata"])
