"""kind: clusters as containers of an engine. `configuration`, `create`, `delete`, `wait_ready`, `export_logs`.

May import the rig's client and this package. Acts on the cluster it is named and on no other.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import jinja2

from ..rig.client import KubeClient, KubeError
from ..rig.processes import RigError, until
from . import node_image, programs, versions
from .engine import ClusterError, Engine, in_cluster_nodes

NODES_S = 120.0
SYSTEM_S = 120.0
CREATE_S = 900.0  # the stock node image may have to be pulled
SYSTEM_DEPLOYMENTS = ("kube-system/coredns", "local-path-storage/local-path-provisioner")


def configuration(*, offline: bool, workers: int) -> str:
    """kind's configuration of a cluster with so many workers; `offline`: of our node image."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True)
    template = environment.from_string((versions.HERE / "kind.yaml.j2").read_text())
    return template.render(
        offline=offline,
        workers=workers,
        repository=node_image.REPOSITORY,
        etcd=versions.ETCD,
        coredns=versions.COREDNS,
    )


def environment(engine: Engine) -> Mapping[str, str]:
    """What kind runs in: it finds the engine by a variable and on the PATH."""
    path = os.pathsep.join([str(engine.program.parent), programs.path_with("kind")])
    return {**engine.environment, "PATH": path, "KIND_EXPERIMENTAL_PROVIDER": engine.name}


def run(engine: Engine, *arguments: str, log: Path, timeout_s: float, given: str = "") -> None:
    """Run kind, its output into `log`. Raises ClusterError with what it said of errors."""
    program = programs.find_programs(["kind"])["kind"]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        try:
            done = subprocess.run(
                [program, *arguments],
                env=dict(environment(engine)),
                input=given,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ClusterError(f"kind {' '.join(arguments[:2])}: no end within {timeout_s:g} s; see {log}") from error
    if done.returncode != 0:
        lines = log.read_text(errors="replace").splitlines()
        told = [line for line in lines if "ERROR" in line or "rror:" in line or "✗" in line][:5] or lines[-5:]
        raise ClusterError(f"kind {' '.join(arguments[:2])} failed; see {log}\n" + "\n".join(told))


def create(engine: Engine, name: str, config: str, image: str | None, kubeconfig: Path) -> None:
    """Create the cluster; nodes that failed are kept to be looked at. Raises ClusterError."""
    if os.geteuid() == 0:
        Path("/lib/modules").mkdir(exist_ok=True)  # kind mounts it; a kernel without modules has no such folder
    run(
        engine,
        *("create", "cluster", "--name", name, "--config", "-", "--kubeconfig", str(kubeconfig), "--retain"),
        *(() if image is None else ("--image", image)),
        log=kubeconfig.with_name("create.log"),
        timeout_s=CREATE_S,
        given=config,
    )


def delete(engine: Engine, name: str, kubeconfig: Path) -> None:
    """Delete the cluster, also one that is half made or gone."""
    run(
        engine,
        *("delete", "cluster", "--name", name, "--kubeconfig", str(kubeconfig)),
        log=kubeconfig.with_name("delete.log"),
        timeout_s=300,
    )
    kubeconfig.unlink(missing_ok=True)


def is_running(engine: Engine, node: str) -> bool:
    """Whether a node's container runs."""
    return engine.run("inspect", "--format", "{{.State.Running}}", node, timeout_s=30).strip() == "true"


def start_nodes(engine: Engine, name: str) -> list[str]:
    """Start those that are stopped (killed, or the machine was restarted); returns them."""
    stopped = [node for node in in_cluster_nodes(engine, name) if not is_running(engine, node)]
    if stopped:
        engine.run("start", *stopped, timeout_s=120)
    return stopped


def wait_ready(kubeconfig: Path, nodes: int, limit_s: float = NODES_S) -> None:
    """Until so many nodes are Ready and the system's deployments available. Raises ClusterError."""
    api = KubeClient(kubeconfig)
    try:
        until(f"{nodes} nodes are Ready", lambda: ready_nodes(api) == nodes, limit_s, poll_s=0.25)
        for deployment in SYSTEM_DEPLOYMENTS:
            until(f"{deployment} is available", lambda path=deployment: available(api, path), SYSTEM_S, poll_s=0.25)  # type: ignore[misc]
    except RigError as error:
        raise ClusterError(f"{error}; `python -m tests.cluster logs` collects what the nodes say") from error
    finally:
        api.close()


def ready_nodes(api: KubeClient) -> int:
    """How many nodes are Ready; 0 while the API server does not answer."""
    try:
        nodes = api.items("/api/v1/nodes")
    except KubeError:
        return 0
    conditions = [condition for node in nodes for condition in node["status"].get("conditions", ())]
    return sum(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def wait_heard(kubeconfig: Path, nodes: Sequence[str], since: datetime, limit_s: float) -> None:
    """Until the kubelets of these nodes have reported after `since`: before, the API server tells what was.

    Raises ClusterError.
    """
    api = KubeClient(kubeconfig)

    def heard(node: str) -> bool:
        try:
            conditions = api.get(f"/api/v1/nodes/{node}")["status"].get("conditions", ())
        except KubeError:
            return False
        told = [
            each["lastHeartbeatTime"] for each in conditions if each["type"] == "Ready" and each["status"] == "True"
        ]
        return any(datetime.fromisoformat(time) > since for time in told)

    try:
        for node in nodes:
            until(f"node {node} has reported", lambda node=node: heard(node), limit_s, poll_s=0.5)  # type: ignore[misc]
    except RigError as error:
        raise ClusterError(str(error)) from error
    finally:
        api.close()


def available(api: KubeClient, deployment: str) -> bool:
    """Whether all replicas of a deployment, "namespace/name", are available."""
    namespace, name = deployment.split("/")
    try:
        found = api.find(f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}")
    except KubeError:
        return False
    return bool(found) and found["status"].get("availableReplicas", 0) >= found["spec"]["replicas"]


def export_logs(engine: Engine, name: str, folder: Path) -> None:
    """The journals of the nodes and the logs of all pods, into `folder`. Raises ClusterError."""
    folder.mkdir(parents=True, exist_ok=True)
    run(engine, "export", "logs", "--name", name, str(folder), log=folder / "kind.log", timeout_s=300)


def memory_mib(node: str, engine: Engine) -> tuple[int, int] | None:
    """Resident memory and page cache of a node and all in it; None where the kernel does not say."""
    pid = engine.run("inspect", "--format", "{{.State.Pid}}", node, timeout_s=30).strip()
    for line in read_lines(Path(f"/proc/{pid}/cgroup")):
        _, controllers, path = line.split(":", 2)
        if controllers not in ("memory", ""):
            continue
        root = Path("/sys/fs/cgroup/memory" if controllers == "memory" else "/sys/fs/cgroup")
        lines = read_lines(root / path.removesuffix("/init.scope").lstrip("/") / "memory.stat")
        told = dict(line.split() for line in lines)
        for resident, cache in (("total_rss", "total_cache"), ("anon", "file")):
            if resident in told and int(told[resident]):
                return int(told[resident]) >> 20, int(told[cache]) >> 20
    return None


def read_lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
