"""Fixtures on a real API server, for the tests that name them: `control_plane`, `kube`, `kubectl`, `namespace`.

A pytest plugin. The control plane is started at the first use, once for all workers of a run, and is gone with the run.
TEST_KUBECONFIG names any other cluster instead, by the kubeconfig of its administrator.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .binaries import ProgramsMissing, find_programs
from .client import KubeClient
from .cluster import Cluster
from .control_plane import ControlPlane

MakeControlPlane = Callable[..., ControlPlane]


@pytest.fixture(scope="session")
def control_plane(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    """The cluster of all tests, with the TrainingJob's definition. Nothing of it may be stopped: others use it."""
    folder = tmp_path_factory.mktemp("cluster")
    try:
        if named := os.environ.get("TEST_KUBECONFIG"):
            cluster = Cluster(Path(named), folder, find_programs(("kubectl",))["kubectl"])
            cluster.apply_definition()
            return cluster
        return shared_control_plane(shared_folder(request.config, tmp_path_factory), folder)
    except ProgramsMissing as missing:
        pytest.fail(str(missing), pytrace=False)


@pytest.fixture(scope="session")
def make_control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeControlPlane]:
    """Makes and starts control planes of one's own, with ControlPlane's options: to be killed, restarted, paused.

    They live until the session ends, unless they are stopped before. `definition=False` leaves the definition out.
    """
    made: list[ControlPlane] = []

    def make(*, definition: bool = True, **options: Any) -> ControlPlane:
        try:
            plane = ControlPlane(tmp_path_factory.mktemp("plane"), **options)
        except ProgramsMissing as missing:
            pytest.fail(str(missing), pytrace=False)
        made.append(plane)
        plane.start()
        if definition:
            plane.apply_definition()
        return plane

    yield make
    for plane in made:
        plane.stop()


@pytest.fixture(scope="session")
def kube(control_plane: Cluster) -> KubeClient:
    """Requests as the administrator."""
    return control_plane.api


@pytest.fixture(scope="session")
def kubectl(control_plane: Cluster) -> Callable[..., str]:
    """`kubectl(*arguments, given=None, kubeconfig=None, fails=False)`, as the administrator; 0.1 s each."""
    return control_plane.kubectl


@pytest.fixture
def namespace(control_plane: Cluster) -> Iterator[str]:
    """A namespace of the test's own, in which the restricted Pod Security Standard rules."""
    with control_plane.namespace() as name:
        yield name


def shared_folder(config: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all workers of this run."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if hasattr(config, "workerinput") else base


def shared_control_plane(shared: Path, folder: Path) -> Cluster:
    """The control plane of this run, started by whoever comes first; it lives as long as the run."""
    home = shared / "control-plane"
    programs = find_programs()
    with (shared / "control-plane.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ready = home / "ready"
        if not ready.exists():
            owner = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
            plane = ControlPlane(home, owner=owner)
            plane.start()
            plane.apply_definition()
            ready.touch()
    return Cluster(home / "kubeconfig", folder, programs["kubectl"], home / "pki")
