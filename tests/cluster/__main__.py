"""`python -m tests.cluster build|up|down|status|logs|load|images|env|stop-node|start-node`: the cluster by hand."""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

from ..rig.client import KubeClient, KubeError
from ..rig.processes import RigError
from . import images, kind, loading, making, place, programs, values, way
from .engine import ClusterError, Engine, find_engine, in_cluster_nodes

VALUES = "DLCLOUD_CLUSTER_VALUES"  # for helm: the images of this cluster


def say(line: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] cluster: {line}", flush=True)  # noqa: T201


def build() -> None:
    """The programs; the images too where an engine is there."""
    engine = making.ready_engine(say)
    programs.ensure_programs(say, offline=way.choose(engine, say) == way.OFFLINE)


def build_images() -> None:
    engine = making.ready_engine(say)
    built = images.build(engine, say, offline=way.choose(engine, say) == way.OFFLINE)
    for name in (built.operator, built.trainer, built.s3, built.prometheus):
        print(name)  # noqa: T201


def env() -> None:
    here = place.current()
    lines = {"KUBECONFIG": str(here.kubeconfig), "PATH": programs.path_with("kubectl", "helm")}
    if here.kind == "given":
        folder = place.home("given")
        folder.mkdir(parents=True, exist_ok=True)
        lines[VALUES] = str(values.write_values(folder, here.images))
    else:
        lines[VALUES] = str(place.home(here.name) / values.FILE)
    if here.engine is not None and "CONTAINERS_CONF" in here.engine.environment:
        lines["CONTAINERS_CONF"] = here.engine.environment["CONTAINERS_CONF"]
    print("export " + " ".join(f'{name}="{value}"' for name, value in lines.items()))  # noqa: T201


def status() -> None:
    name = place.cluster_name()
    engine = find_engine()
    nodes = in_cluster_nodes(engine, name)
    if not nodes:
        return say(f"cluster {name} is down")
    made = place.read(name)
    for node in nodes:
        memory = kind.memory_mib(node, engine) if kind.is_running(engine, node) else None
        say(
            f"{node:28} "
            + ("stopped" if memory is None else f"{memory[0]:5} MiB resident, {memory[1]:5} MiB page cache")
        )
    if made is None:
        return say("it is half made: `make cluster-up` makes it again")
    for image in (made.images.operator, made.images.trainer, made.images.s3, made.images.prometheus):
        say(f"image {image}")
    api = KubeClient(place.kubeconfig_of(name), timeout_s=10)
    try:
        say(f"{kind.ready_nodes(api)} of {len(nodes)} nodes are Ready; kubeconfig {place.kubeconfig_of(name)}")
    finally:
        api.close()
    return None


def logs(folder: Path) -> None:
    """The nodes' journals, all pods' logs, and what the API server says of events, pods and jobs."""
    name, engine = place.cluster_name(), find_engine()
    with contextlib.suppress(KubeError, RigError, ClusterError):
        write_objects(place.kubeconfig_of(name), folder)
    kind.export_logs(engine, name, folder)
    say(f"logs of cluster {name}: {folder}")


def write_objects(kubeconfig: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    kubectl = programs.find_programs(["kubectl"])["kubectl"]
    for file, arguments in {
        "nodes.txt": ("describe", "nodes"),
        "pods.txt": ("get", "pods", "--all-namespaces", "-o", "wide"),
        "events.txt": ("get", "events", "--all-namespaces", "--sort-by=.lastTimestamp"),
        "trainingjobs.yaml": ("get", "trainingjobs", "--all-namespaces", "-o", "yaml"),
    }.items():
        with (folder / file).open("w") as output:
            command = [str(kubectl), f"--kubeconfig={kubeconfig}", "--request-timeout=10s", *arguments]
            subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False)


def node_of(engine: Engine, name: str) -> str:
    """Raises ClusterError where the cluster has no such node."""
    nodes = in_cluster_nodes(engine, place.cluster_name())
    if name not in nodes:
        raise ClusterError(
            f"'{name}' is no node of cluster {place.cluster_name()}; there are: {', '.join(nodes) or 'none'}"
        )
    return name


def load(names: list[str]) -> None:
    engine = find_engine()
    nodes = in_cluster_nodes(engine, place.cluster_name())
    loading.load(engine, [node for node in nodes if "control-plane" not in node], names, say)


def main() -> None:
    given = arguments()
    if given.name:
        os.environ[place.NAME] = given.name
    try:
        match given.command:
            case "build":
                build()
            case "images":
                build_images()
            case "up":
                place.up(say, workers=given.workers)
            case "down":
                making.unmake(place.cluster_name(), say)
            case "status":
                status()
            case "env":
                env()
            case "logs":
                logs(given.folder or place.home(place.cluster_name()) / time.strftime("logs-%Y%m%d-%H%M%S"))
            case "load":
                load(given.image)
            case "stop-node":
                engine = find_engine()
                engine.run("kill", node_of(engine, given.node), timeout_s=60)
            case "start-node":
                engine = find_engine()
                engine.run("start", node_of(engine, given.node), timeout_s=60)
    except (ClusterError, RigError) as error:
        sys.exit(f"cluster: {error}")
    except KeyboardInterrupt:
        sys.exit("cluster: interrupted; the next `up` repairs what is half made")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.cluster", description="A Kubernetes cluster of several nodes."
    )
    parser.add_argument("--name", help=f"the cluster's name (default: {place.NAME}, else {place.DEFAULT_NAME})")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="build the programs that are missing")
    commands.add_parser("images", help="build the pods' images that are missing, and print their names")
    starting = commands.add_parser("up", help="make it, or bring it up to date")
    starting.add_argument("--workers", type=int, metavar="N", help=f"default: as it is, {making.WORKERS} for a new one")
    commands.add_parser("down", help="delete it")
    commands.add_parser("status", help="nodes, memory, images")
    commands.add_parser("env", help='for the shell: eval "$(python -m tests.cluster env)"')
    commands.add_parser("logs", help="collect journals, logs and events").add_argument("folder", nargs="?", type=Path)
    commands.add_parser("load", help="bring images of the engine into the workers").add_argument("image", nargs="+")
    commands.add_parser("stop-node", help="kill a node").add_argument("node")
    commands.add_parser("start-node", help="start it again").add_argument("node")
    return parser.parse_args()


if __name__ == "__main__":
    main()
