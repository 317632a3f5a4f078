"""What faults cost a built-in workload on the cluster, from the records that the job leaves in the store.

May import the rigs and the suite's words for jobs (tests/e2e). One fault at a time, on one job after the other.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.cluster.nodes import Nodes
from tests.e2e.jobs import Jobs, Object
from tests.e2e.release import Release
from tests.e2e.store import Store
from tests.e2e.story import Cost, Story
from tests.rig.cluster import Cluster
from tests.rig.processes import until

AWAY_S = 60.0
QUIET_S = 5.0
_names = (f"bench-{number}" for number in itertools.count(1))


@dataclass(frozen=True)
class Bench:
    """The cluster, dlcloud in it, and a namespace for jobs."""

    cluster: Cluster
    release: Release
    store: Store
    jobs: Jobs
    nodes: Nodes | None

    @contextlib.contextmanager
    def training(self, **spec: object) -> Iterator[tuple[str, Story]]:
        """A long job that trains on two workers."""
        name = next(_names)
        with Story(self.jobs, name, self.store) as story:
            self.jobs.create_long(name, **spec)
            try:
                self.jobs.until_training(name, 20)
                yield name, story
            finally:
                self.jobs.remove(name)
                self.jobs.until_gone(name)

    def fault(self, name: str, story: Story, strike: Callable[[], float]) -> Cost:
        """Strike a job that trains; `strike` returns when it did (seconds since the epoch)."""
        self.jobs.until_training(name, (self.jobs.status(name).get("progress") or {}).get("step", 0) + 20)
        before = story.until_further_than_ever()
        at = strike()
        self.jobs.until_goes_on(name, before)
        return story.cost(at, before)


def starts(bench: Bench, count: int) -> list[float]:
    """Seconds from the create of a built-in job until its first step; its images are on the nodes."""
    seconds = []
    for _ in range(count):
        name = next(_names)
        at = time.time()
        bench.jobs.create_long(name)
        bench.jobs.until_training(name, 5)
        seconds.append(min(record["at"] for record in bench.store.steps(name, bench.jobs)) - at)
        bench.jobs.remove(name)
        bench.jobs.until_gone(name)
    return seconds


def pods_deleted(bench: Bench, count: int) -> list[Cost]:
    """Worker 1 and worker 0 in turn, as `kubectl delete pod` does: they save before they go."""
    costs = []
    with bench.training() as (name, story):
        for number in range(count):
            pod = bench.jobs.pod(name, 1 - number % 2)

            def strike(pod: Object = pod) -> float:
                at = time.time()
                bench.jobs.delete_pod(pod)
                return at

            costs.append(bench.fault(name, story, strike))
    return costs


def ranks_killed(bench: Bench, count: int) -> list[Cost]:
    """kill -9 of a rank, in turn. The budget of failures is set aside."""
    with bench.training(restart={"maxFailures": count + 1}) as (name, story):
        return [
            bench.fault(name, story, lambda worker=n % 2: bench.jobs.kill_rank(bench.jobs.pod(name, worker)))  # type: ignore[misc]
            for n in range(count)
        ]


def nodes_lost(bench: Bench, count: int) -> list[Cost]:
    """The node of worker 1, which carries nothing else of ours, loses its power."""
    costs = []
    assert bench.nodes is not None
    for _ in range(count):
        system = {pod["spec"]["nodeName"] for pod in bench.cluster.api.items("/api/v1/namespaces/dlcloud-system/pods")}
        doomed = next((node for node in bench.nodes.workers if node not in system), None)
        if doomed is None:
            raise SystemExit("dlcloud's own pods are on every node: no node can be killed without them")
        with bench.training(**apart(bench)) as (name, story):
            victim = next(pod for pod in bench.jobs.pods(name) if pod["spec"]["nodeName"] == doomed)

            def strike(victim: Object = victim) -> float:
                at = time.time()
                bench.nodes.kill(victim["spec"]["nodeName"])  # type: ignore[union-attr]
                return at

            try:
                costs.append(bench.fault(name, story, strike))
            finally:
                bench.nodes.start(doomed)
                bench.nodes.wait_ready(doomed)
    return costs


def apart(bench: Bench) -> Object:
    """Workers prefer different nodes, and take what there is when one is lost."""
    term = {"labelSelector": {"matchLabels": {"app.kubernetes.io/name": "dlcloud-worker"}}}
    prefer = {"weight": 100, "podAffinityTerm": {**term, "topologyKey": "kubernetes.io/hostname"}}
    affinity = {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [prefer]}}
    return {"scheduling": {"affinity": affinity}}


def operators_replaced(bench: Bench, count: int, *, hard: bool) -> list[float]:
    """Seconds from the end of the leading operator's pod until another one leads and is ready.

    `hard`: without a word, as when its node is lost; otherwise as in a drain.
    """
    seconds = []
    for _ in range(count):
        old = bench.release.wait_leading()
        at = time.time()
        body = {"gracePeriodSeconds": 0} if hard else {}
        bench.cluster.api.delete(f"/api/v1/namespaces/dlcloud-system/pods/{old['metadata']['name']}", body)

        def another(old: Object = old) -> bool:
            there = bench.release.leader()
            return there is not None and there["metadata"]["uid"] != old["metadata"]["uid"]

        until("another operator leads", another, 120)
        seconds.append(time.time() - at)
        time.sleep(QUIET_S)
    return seconds


def store_away(bench: Bench, count: int) -> list[tuple[int, int, int]]:
    """For a minute without the store: steps lost, steps made meanwhile, restarts."""
    found = []
    for _ in range(count):
        with bench.training() as (name, _):
            before = bench.jobs.status(name)
            bench.release.scale_store(0)
            time.sleep(AWAY_S)
            during = bench.jobs.status(name)
            bench.release.scale_store(1)
            saved = before["checkpoint"]["step"]
            bench.jobs.until(
                name, "it saves again", lambda status, saved=saved: status["checkpoint"]["step"] > saved + 20, 180
            )
            after = bench.jobs.status(name)
            rounds = {record["round"] for record in bench.store.steps(name, bench.jobs)}
            lost = 0 if rounds == {before["round"]["number"]} else after["progress"]["step"]
            made = during["progress"]["step"] - before["progress"]["step"]
            found.append((lost, made, after.get("restarts", 0)))
    return found


def memory(bench: Bench) -> dict[str, float]:
    """Proportional set size (Pss) in MiB of the operator's process, and of an agent and its zygote."""
    pod = bench.release.wait_leading()["metadata"]["name"]
    told = {"operator": pss(bench.cluster, "dlcloud-system", pod, "operator")["1"][1]}
    with bench.training() as (name, _):
        worker = bench.jobs.pod(name, 0)["metadata"]["name"]
        for command, size in pss(bench.cluster, bench.jobs.namespace, worker, "trainer").values():
            part = "agent" if "agent.pyz" in command else "zygote and rank"
            told[part] = told.get(part, 0.0) + size
    return told


_PSS = """
import os
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        sizes = open(f"/proc/{pid}/smaps_rollup").read()
        command = open(f"/proc/{pid}/cmdline").read().replace("\\0", " ")
    except OSError:
        continue
    if int(pid) != os.getpid():
        print(pid, sizes.split("Pss:")[1].split()[0], command, sep="\\t")
"""


def pss(cluster: Cluster, namespace: str, pod: str, container: str) -> dict[str, tuple[str, float]]:
    """Process id in the container -> command line and MiB."""
    told = cluster.kubectl("exec", "-n", namespace, pod, "-c", container, "--", "python3", "-c", _PSS)
    rows = (line.split("\t") for line in told.splitlines())
    return {pid: (command, int(kib) / 1024) for pid, kib, command in rows}
