"""The versions of what the cluster is made of, each said in one place.

Programs: go/node/go.mod and ../rig/*/go.mod, with the checksums beside them in go.sum; Debian and the rest: here. To
change a program: `go get MODULE@VERSION` and `go mod tidy` in its folder. May import the standard library and the rig's
versions.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path

from ..rig.versions import ETCD as ETCD
from ..rig.versions import HERE as RIG
from ..rig.versions import KUBERNETES as KUBERNETES
from ..rig.versions import required

HERE = Path(__file__).parent
NODE_MODULE = HERE / "go" / "node"
KUBE_MODULE = RIG / "kube"

KIND = required(NODE_MODULE, "sigs.k8s.io/kind")
CONTAINERD = required(NODE_MODULE, "github.com/containerd/containerd/v2")
COREDNS = required(NODE_MODULE, "github.com/coredns/coredns")

# systemd 252: later ones refuse a host with cgroup v1
DEBIAN = "bookworm"
# The node image that kind v0.33.0 was released with (its pkg/apis/config/defaults/image.go); changes with KIND.
STOCK_NODE = "kindest/node:v1.37.0@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5"


def digest(files: Iterable[Path], root: Path = HERE) -> str:
    """Twelve characters that change with the names, modes or contents of these files."""
    found = hashlib.sha256()
    for path in sorted(files):
        executable = path.stat().st_mode & 0o111 != 0
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        found.update(f"{path.relative_to(root)} {executable} {content}\n".encode())
    return found.hexdigest()[:12]


@functools.cache
def programs_digest() -> str:
    """Changes with the sources of the programs, our own and all others."""
    ours = [path for path in NODE_MODULE.rglob("*") if path.suffix in (".go", ".mod", ".sum")]
    return digest([*ours, KUBE_MODULE / "go.mod", KUBE_MODULE / "go.sum"], root=HERE.parent)
