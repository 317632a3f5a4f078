"""What faults cost on a real cluster, and Kubeflow's training operator on the same one.

Uses the cluster of `make cluster-up` (or KUBECONFIG's), and dlcloud in it. `python -m benchmarks.cluster` takes about
40 minutes on 2 cores; `... faults --count 3` less.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.cluster import faults, peer, programs
from benchmarks.cluster.faults import Bench
from benchmarks.common import Figure, print_table
from benchmarks.control_plane.peers import NotBuilt
from tests.cluster.engine import ClusterError
from tests.cluster.nodes import find_nodes
from tests.cluster.place import Place, current
from tests.e2e.jobs import Jobs
from tests.e2e.release import Release
from tests.e2e.store import Store
from tests.rig.binaries import find_programs
from tests.rig.cluster import Cluster
from tests.rig.processes import RigError

GONE_S = 90.0


@contextlib.contextmanager
def prepared(place: Place, folder: Path) -> Iterator[Bench]:
    """dlcloud in the cluster, and a namespace."""
    cluster = Cluster(place.kubeconfig, folder, find_programs(("kubectl",))["kubectl"])
    release = Release(cluster, place)
    if not release.is_current:
        release.install()
    release.wait_leading()
    store = Store(release, folder)
    with cluster.namespace("bench", {}) as namespace:  # the peer's pods do not meet the restricted standard
        release.admit(namespace)
        try:
            yield Bench(cluster, release, store, Jobs(cluster, namespace), find_nodes(place.engine, cluster.api))
        finally:
            store.close()


def show_starts(bench: Bench, count: int) -> None:
    """apply -> first step."""
    print_table("Start", [Figure("built-in cnn, 2 pods: create -> first step", "s", faults.starts(bench, count))])


def show_faults(bench: Bench, count: int) -> None:
    """Processes and pods."""
    rows = []
    for name, costs in (
        ("kill -9 of a rank", faults.ranks_killed(bench, count)),
        ("kubectl delete pod", faults.pods_deleted(bench, count)),
    ):
        rows.append(Figure(f"{name} -> next step", "s", [cost.seconds for cost in costs]))
        rows.append(Figure(f"{name}: steps made again", "steps", [cost.steps_lost for cost in costs]))
    print_table("Processes and pods", rows)


def show_nodes(bench: Bench, count: int) -> None:
    """Nodes."""
    costs = faults.nodes_lost(bench, min(count, 3))
    print_table(
        "A node lost",
        [
            Figure("node killed -> next step", "s", [cost.seconds for cost in costs]),
            Figure("node killed: steps made again", "steps", [cost.steps_lost for cost in costs]),
        ],
    )


def show_operator(bench: Bench, count: int) -> None:
    """The operator."""
    print_table(
        "The operator's pod",
        [
            Figure("deleted -> another leads", "s", faults.operators_replaced(bench, count, hard=False)),
            Figure("killed without a word -> another leads", "s", faults.operators_replaced(bench, count, hard=True)),
        ],
    )


def show_store(bench: Bench, count: int) -> None:
    """The store."""
    found = faults.store_away(bench, min(count, 3))
    names = ("steps lost", "steps made meanwhile", "restarts")
    print_table(
        "The store is away for 60 s",
        [Figure(name, "", [one[place] for one in found]) for place, name in enumerate(names)],
    )


def show_memory(bench: Bench, count: int) -> None:
    """Memory."""
    seen = [faults.memory(bench) for _ in range(min(count, 3))]
    print_table("Memory (Pss)", [Figure(part, "MiB", [one[part] for one in seen]) for part in seen[0]])


def show_peer(bench: Bench, count: int) -> None:
    """The same program and image under dlcloud and under Kubeflow's training operator, in turn."""
    image = bench.release.place.images.trainer
    programs.put_program(bench.cluster, bench.jobs.namespace)
    kinds = (programs.training_jobs(image), programs.pytorch_jobs(image))
    begun: dict[str, list[float]] = {kind.name: [] for kind in kinds}
    back: dict[str, list[float]] = {kind.name: [] for kind in kinds}
    never: dict[str, int] = {kind.name: 0 for kind in kinds}
    with tempfile.TemporaryDirectory() as folder, peer.training_operator(bench.cluster, Path(folder), image):
        for number in range(count):
            for kind in kinds:
                job = programs.Running(bench.cluster, kind, f"peer-{kind.name.lower()}-{number}", bench.jobs.namespace)
                firsts = job.wait_steps()
                begun[kind.name].append(max(step.at for step in firsts) - job.created_at)
                time.sleep(programs.SETTLED_S)
                at = job.delete_pod(job.pods()[-1])
                try:
                    back[kind.name].append(job.wait_replaced(firsts, GONE_S).at - at)
                except RigError:
                    never[kind.name] += 1
                job.remove()
    rows = [Figure(f"{name}: create -> every rank's first step", "s", values) for name, values in begun.items()]
    rows += [
        Figure(f"{name}: worker deleted -> all step again", "s", values) for name, values in back.items() if values
    ]
    print_table("The same DDP program, image and nodes", rows)
    for name, times in never.items():
        print(f"{name}: {times} of {count} jobs made no step within {GONE_S:.0f} s of the deletion")


WORK = {
    "start": show_starts,
    "faults": show_faults,
    "operator": show_operator,
    "memory": show_memory,
    "peer": show_peer,
    "store": show_store,
    "nodes": show_nodes,
}


def main() -> None:
    """One of the measurements, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("all", *WORK), default="all", help="default all")
    parser.add_argument("--count", type=int, default=10, help="how often (default 10; what takes minutes 3 times)")
    given = parser.parse_args()
    chosen = list(WORK) if given.what == "all" else [given.what]
    try:
        with tempfile.TemporaryDirectory() as folder, prepared(current(), Path(folder)) as bench:
            for name in chosen:
                try:
                    WORK[name](bench, given.count)
                except NotBuilt as why:
                    print(f"{name}: {why}", file=sys.stderr)
    except ClusterError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
