"""Makes a cluster of ours, or brings the one that is there up to date: `make`, `unmake`.

May import this package. A cluster counts as made when all of it is: what an interrupted run has left is made again.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from ..rig.builder import locked
from ..rig.client import KubeClient, KubeError
from . import host, images, kind, loading, node_image, packages, place, podman, programs, values, way
from .engine import ClusterError, Engine, find_engine, in_cluster_nodes
from .nodes import GPU, set_gpus

Say = Callable[[str], None]
WORKERS = 2
GPUS = 2  # in each worker
RESTART_S = 120.0
EARLY_POLL_S = 0.5


def make(name: str, workers: int | None, say: Say) -> None:
    """Up to 40 minutes the first time, a minute when everything is built, 2 s when it is up. Raises ClusterError."""
    started = time.monotonic()
    with locked(place.home(name), say, f"command on cluster {name}"):
        engine = ready_engine(say)
        place.refuse_others(name, in_cluster_nodes(engine, name))
        offline = way.choose(engine, say) == way.OFFLINE
        if offline:
            packages.ensure_packages(("mmdebstrap",), say)
        programs.ensure_programs(say, offline=offline)
        wanted_node = node_image.name() if offline else ""
        made = place.read(name)
        count = workers or (made.workers if made is not None else WORKERS)
        fits = made is not None and (made.node_image, made.workers) == (wanted_node, count)
        is_new = not (fits and revive(engine, name, count, say))
        begun, ended = threading.Event(), threading.Event()
        with ThreadPoolExecutor(1) as pool:  # its pods' images meanwhile
            building = pool.submit(build_and_load, engine, name, count, offline, begun, ended, say)
            try:
                if is_new:
                    create(engine, name, count, offline, begun, say)
            finally:
                ended.set()
            built = building.result()
        targets = workers_of(engine, name)
        loading.load(engine, targets, wanted(built), say)  # what was not loaded early
        give_gpus(name, targets)
        told = place.Made(way.OFFLINE if offline else way.STOCK, wanted_node, count, built)
        values.write_values(place.home(name), built)
        if told != made:
            place.write(name, told)
    say(f"cluster {name} is up, with {count} workers, after {time.monotonic() - started:.1f} s")


def build_and_load(
    engine: Engine,
    name: str,
    workers: int,
    offline: bool,
    begun: threading.Event,
    ended: threading.Event,
    say: Say,
) -> images.Images:
    """The images; in a cluster whose creation has `begun` and not `ended` they go into a worker as soon as its
    containerd answers: half a minute is won. Raises ClusterError when they cannot be built."""
    built = images.build(engine, say, offline=offline)
    while not ended.wait(EARLY_POLL_S):
        if not begun.is_set():
            continue
        # Nodes may go again: kind is asked once more when it has failed.
        with contextlib.suppress(ClusterError):
            targets = workers_of(engine, name)
            if len(targets) == workers and all(loading.is_ready(engine, node) for node in targets):
                loading.load(engine, targets, wanted(built), say)
                break
    return built


def wanted(built: images.Images) -> list[str]:
    """What the workers are to have."""
    return [built.operator, built.trainer, built.s3, built.prometheus]


def workers_of(engine: Engine, name: str) -> list[str]:
    """The nodes that take pods."""
    return [node for node in in_cluster_nodes(engine, name) if "control-plane" not in node]


def ready_engine(say: Say) -> Engine:
    """The engine; podman is installed where there is none and we may. Raises ClusterError."""
    try:
        engine = find_engine()
    except ClusterError:
        if not podman.may_install():
            raise
        packages.ensure_packages(podman.PACKAGES, say)
        return find_engine()
    if engine.name == "podman":
        packages.ensure_packages(podman.PACKAGES, say)
    return engine


def revive(engine: Engine, name: str, workers: int, say: Say) -> bool:
    """Whether a cluster that was made is up; stopped nodes are started first."""
    nodes = in_cluster_nodes(engine, name)
    if len(nodes) != workers + 1 or not place.kubeconfig_of(name).exists():
        return False
    since = datetime.now(UTC)
    started = kind.start_nodes(engine, name)
    try:
        if started:
            say(f"started {', '.join(started)}")
            kind.wait_heard(place.kubeconfig_of(name), started, since, RESTART_S)
        kind.wait_ready(place.kubeconfig_of(name), len(nodes), RESTART_S)
    except ClusterError as error:
        say(f"cluster {name} is made again: {str(error).splitlines()[0]}")
        return False
    return True


def create(engine: Engine, name: str, workers: int, offline: bool, begun: threading.Event, say: Say) -> None:
    """Delete what is there of the cluster, and create it: its nodes are new ones once it has `begun`. Raises
    ClusterError."""
    place.forget(name)
    if in_cluster_nodes(engine, name):
        say(f"deleting what is there of cluster {name}")
        kind.delete(engine, name, place.kubeconfig_of(name))
    image = node_image.ensure(engine, say) if offline else None
    host.prepare_settings(engine, say)
    place.claim(name)
    started = time.monotonic()
    say(f"creating cluster {name}: one control plane, {workers} workers")
    begun.set()
    config, kubeconfig = kind.configuration(offline=offline, workers=workers), place.kubeconfig_of(name)
    try:
        kind.create(engine, name, config, image, kubeconfig)
    except ClusterError as error:
        # kind gives a node 30 s to boot and has no setting for it; a machine busy with the first build may need more
        say(f"once more: {str(error).splitlines()[-1]}")
        kind.delete(engine, name, kubeconfig)
        kind.create(engine, name, config, image, kubeconfig)
    kind.wait_ready(place.kubeconfig_of(name), workers + 1)
    say(f"cluster {name}: nodes and system pods are ready after {time.monotonic() - started:.0f} s")


def give_gpus(name: str, workers: list[str]) -> None:
    """GPUS for each worker that has none; a kubelet that starts anew forgets them."""
    api = KubeClient(place.kubeconfig_of(name))
    try:
        for node in workers:
            status = api.get(f"/api/v1/nodes/{node}")["status"]
            if GPU not in status.get("capacity", {}):
                set_gpus(api, node, GPUS)
    except KubeError as error:
        raise ClusterError(f"GPUs could not be given to the nodes of {name}: {error}") from error
    finally:
        api.close()


def unmake(name: str, say: Say) -> None:
    """Delete the cluster and what is kept about it; the host's settings as they were. Raises ClusterError."""
    started = time.monotonic()
    with locked(place.home(name), say, f"command on cluster {name}"):
        engine = find_engine()
        place.refuse_others(name, in_cluster_nodes(engine, name))
        place.forget(name)
        kind.delete(engine, name, place.kubeconfig_of(name))
        place.release(name)
        host.restore_settings(engine, say)
    say(f"cluster {name} is down, after {time.monotonic() - started:.0f} s")
