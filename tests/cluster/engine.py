"""The container engine that the nodes run in: `Engine`, `find_engine`.

May import the standard library, the rig's cache folder and this package's podman.py. Runs the engine, installs nothing,
never chooses a container by itself that does not carry a cluster's label.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..rig.binaries import cache_folder
from . import podman

CHOICE = "CONTAINER"  # the same variable as for images/build.sh
NAMES = ("docker", "podman")
ANSWER_S = 60.0  # a machine that is compiling beside needs more than 15
LABEL = "io.x-k8s.kind.cluster"


class ClusterError(Exception):
    """The cluster could not do what was asked; the message says why and what to do."""


def cluster_folder() -> Path:
    """What is kept about clusters, and for them, in the user's home."""
    return cache_folder().parent / "cluster"


@dataclass(frozen=True)
class Engine:
    """docker or podman, and the whole environment it is to run in."""

    program: Path
    environment: Mapping[str, str] = field(repr=False)

    @property
    def name(self) -> str:
        return "docker" if "docker" in self.program.name else "podman"

    def run(self, *arguments: str, given: bytes | None = None, timeout_s: float = 600) -> str:
        """Its standard output; `given` is its input. Raises ClusterError with the end of what it wrote."""
        what = f"{self.name} {' '.join(arguments)[:200]}"
        try:
            done = subprocess.run(
                [self.program, *arguments],
                env=dict(self.environment),
                input=given or b"",
                capture_output=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ClusterError(f"{what}: no end within {timeout_s:g} s") from error
        except OSError as error:
            raise ClusterError(f"{what}: {error}") from error
        if done.returncode != 0:
            end = (done.stdout + done.stderr).decode(errors="replace").strip()[-2000:]
            raise ClusterError(f"{what}: exit code {done.returncode}\n{end}")
        return done.stdout.decode(errors="replace")

    def has_image(self, name: str) -> bool:
        """Whether an image of this name is here; asks no registry."""
        done = subprocess.run(
            [self.program, "image", "inspect", "--format", "{{.Id}}", name],
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        return done.returncode == 0


def find_engine() -> Engine:
    """docker where its daemon answers, else podman as root. Raises ClusterError that says what to install."""
    chosen = os.environ.get(CHOICE, "")
    if chosen and Path(chosen).name not in NAMES:
        raise ClusterError(f"{CHOICE}: '{chosen}' is no container engine; give docker or podman")
    refusals: list[str] = []
    for name in [chosen] if chosen else NAMES:
        program = shutil.which(name)
        if program is None:
            refusals.append(f"{name} is not on the PATH")
            continue
        try:
            return ready_docker(Path(program)) if Path(name).name == "docker" else ready_podman(Path(program))
        except ClusterError as error:
            refusals.append(str(error))
    raise ClusterError(
        f"no container engine for the nodes: {'; '.join(refusals)}.\n"
        "Start docker (https://docs.docker.com/engine/install), or, as root on Debian: "
        f"apt-get install --no-install-recommends {' '.join(podman.PACKAGES)}"
    )


def ready_docker(program: Path) -> Engine:
    """Raises ClusterError when its daemon does not answer."""
    engine = Engine(program.absolute(), dict(os.environ))
    try:
        engine.run("version", "--format", "{{.Server.Version}}", timeout_s=ANSWER_S)
    except ClusterError as error:
        raise ClusterError(f"docker's daemon does not answer ({str(error).splitlines()[-1]})") from error
    return engine


def ready_podman(program: Path) -> Engine:
    """podman with the configuration that nodes need. Raises ClusterError without root, or when it does not start."""
    if os.geteuid() != 0:
        raise ClusterError(
            "podman is used as root only (without root, nodes need delegated cgroups: "
            "https://kind.sigs.k8s.io/docs/user/rootless); start docker, or run this as root"
        )
    path = podman.write_configuration(cluster_folder() / "containers.conf")
    engine = Engine(program.absolute(), {**os.environ, "CONTAINERS_CONF": str(path)})
    engine.run("version", "--format", "{{.Client.Version}}", timeout_s=ANSWER_S)
    return engine


def in_cluster_nodes(engine: Engine, cluster_name: str) -> list[str]:
    """The containers that are nodes of this cluster, stopped ones too, sorted."""
    told = engine.run("ps", "--all", "--filter", f"label={LABEL}={cluster_name}", "--format", "{{.Names}}")
    return sorted(told.split())
