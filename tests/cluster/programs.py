"""The programs of a cluster, built from source into the user's cache, once: `ensure_programs`, `find_programs`.

May import the rig, whose control plane and kubectl the cluster uses, and this package's versions.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..rig import binaries, builder
from ..rig.binaries import ProgramsMissing
from ..rig.builder import Module, Say
from ..rig.go import find_go
from ..rig.processes import RigError
from . import versions
from .engine import ClusterError, cluster_folder

CONTAINERD = "github.com/containerd/containerd/v2/cmd"
CNI = "github.com/containernetworking/plugins/plugins"
OWN = "dlcloud.dev/cluster/node"
# What a program answers to which question; those that are not named here know no question.
VERSIONS: Mapping[str, tuple[Sequence[str], str]] = {
    "kubelet": (("--version",), f"Kubernetes {versions.KUBERNETES}\n"),
    "kube-proxy": (("--version",), f"Kubernetes {versions.KUBERNETES}\n"),
    "kubeadm": (("version", "-o", "short"), f"{versions.KUBERNETES}\n"),
    "kind": (("version",), f"kind {versions.KIND} "),
    "containerd": (("--version",), f" {versions.CONTAINERD.removeprefix('v')}"),
    "ctr": (("--version",), f" {versions.CONTAINERD.removeprefix('v')}"),
    "containerd-shim-runc-v2": (("-v",), f" {versions.CONTAINERD.removeprefix('v')}"),
    "coredns": (("-version",), f"CoreDNS-{versions.COREDNS.removeprefix('v')}\n"),
    "local-path-provisioner": (("--version",), "local-path-provisioner version"),
}


def fits(path: Path) -> bool:
    """Whether a program that was just built starts and is of the version we want."""
    if path.name not in VERSIONS:
        return binaries.is_program(path)
    arguments, wanted = VERSIONS[path.name]
    try:
        done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return wanted in done.stdout


KUBERNETES = Module(
    versions.KUBE_MODULE,  # the rig's: what it has compiled for the control plane is not compiled again
    {name: f"k8s.io/kubernetes/cmd/{name}" for name in ("kubelet", "kubeadm", "kube-proxy")},
    fits,
    builder.kubernetes_flags(),
)
KIND = Module(versions.NODE_MODULE, {"kind": "sigs.k8s.io/kind"}, fits)
NODE = Module(
    versions.NODE_MODULE,
    {
        **{name: f"{CONTAINERD}/{name}" for name in ("containerd", "containerd-shim-runc-v2", "ctr")},
        "coredns": f"{OWN}/coredns",
        "netd": f"{OWN}/netd",
        "pause": f"{OWN}/pause",
        "host-local": f"{CNI}/ipam/host-local",
        "loopback": f"{CNI}/main/loopback",
        "ptp": f"{CNI}/main/ptp",
        "portmap": f"{CNI}/meta/portmap",
    },
    fits,
    {"github.com/containerd/containerd/v2/version.Version": versions.CONTAINERD.removeprefix("v")},
)
# By itself: it imports logrus by another spelling than containerd, which Go refuses in one build.
STORAGE = Module(versions.NODE_MODULE, {"local-path-provisioner": "github.com/rancher/local-path-provisioner"}, fits)
# Side by side; those of one line share most of what they compile, so one after the other.
LINES = ((KUBERNETES,), (KIND, NODE, STORAGE))
OFFLINE = tuple(name for line in LINES for module in line for name in module.packages)
STOCK = ("kind",)
CONTROL_PLANE = ("kube-apiserver", "etcd")  # the rig's; the first is all four programs of Kubernetes
ADMINISTRATOR = ("kubectl", "helm")


def bin_folder() -> Path:
    """Where the programs of these versions are."""
    return cluster_folder() / "bin" / f"{versions.KUBERNETES}-{versions.programs_digest()}"


def find(name: str) -> Path | None:
    """One of our programs, or one of the rig's; any kubectl and helm of the PATH will do."""
    if name in ADMINISTRATOR and (path := binaries.find(name) or on_path(name)):
        return path
    if name not in OFFLINE:
        return binaries.find(name)
    path = bin_folder() / name
    return path if binaries.is_program(path) else None


def on_path(name: str) -> Path | None:
    found = shutil.which(name)
    return None if found is None else Path(found).absolute()


def find_programs(names: Iterable[str]) -> dict[str, Path]:
    """The path of each. Raises ClusterError that says how to have them."""
    found = {name: find(name) for name in names}
    if missing := [name for name, path in found.items() if path is None]:
        raise ClusterError(f"not built yet: {', '.join(missing)}; `python -m tests.cluster build` builds them")
    return {name: path for name, path in found.items() if path is not None}


def path_with(*names: str) -> str:
    """A PATH on which these programs come first. Raises ClusterError where one is missing."""
    folders = {str(path.parent) for path in find_programs(names).values()}
    return os.pathsep.join([*sorted(folders), os.environ.get("PATH", os.defpath)])


def ensure_programs(say: Say, *, offline: bool) -> None:
    """Build what is missing, the rig's programs as well; up to 20 minutes. Raises ClusterError with what went wrong."""
    started = time.monotonic()
    wanted = OFFLINE if offline else STOCK
    missing = [name for name in wanted if find(name) is None]
    of_rig = [name for name in (*ADMINISTRATOR, *(CONTROL_PLANE if offline else ())) if find(name) is None]
    if not missing and not of_rig:
        return
    try:
        if of_rig:
            builder.ensure_programs(say, binaries.ALL if offline else of_rig, clean=not missing)
        if missing:
            with builder.locked(bin_folder(), say):
                build([name for name in wanted if find(name) is None], say)
    except (ProgramsMissing, RigError) as error:
        raise ClusterError(str(error)) from error
    say(f"programs: ready in {time.monotonic() - started:.0f} s, in {bin_folder()}")


def build(names: Sequence[str], say: Say) -> None:
    """Build these. Raises RigError with the end of Go's output."""
    if not names:
        return
    say(f"building {', '.join(names)} into {bin_folder()}: once, about 10 minutes on 2 cores")
    for left in bin_folder().glob(".building-*"):  # of a run that was killed
        shutil.rmtree(left)
    go = find_go(say, versions.NODE_MODULE)

    def build_line(line: Sequence[Module]) -> None:
        for module in line:
            if wanted := [name for name in names if name in module.packages]:
                builder.build_module(go, module, wanted, bin_folder(), say)

    with ThreadPoolExecutor(len(LINES)) as pool:
        done = [pool.submit(build_line, line) for line in LINES]
    for each in done:
        each.result()
    go.clean()
