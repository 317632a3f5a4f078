"""Fixtures on a real cluster: `jobs` (in a namespace of its own), `release`, `store`, `nodes`; what failures leave.

The cluster is the one of KUBECONFIG, else the kind cluster of `make cluster-up`. Tests with the marker `alone` disturb
everybody (they kill nodes, the operator, the store): each runs while no other test does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from ..cluster.engine import ClusterError
from ..cluster.nodes import Nodes, find_nodes
from ..cluster.place import Place, current
from ..rig.binaries import find_programs
from ..rig.client import KubeClient
from ..rig.cluster import Cluster
from . import evidence
from .jobs import Jobs
from .release import Release
from .store import Store
from .story import Story
from .turns import turn

TellStory = Callable[[str], Story]
LIMIT_S = 600
_NAMESPACES = pytest.StashKey[list[str]]()
_CLUSTER = pytest.StashKey[Cluster]()


@pytest.fixture(scope="session")
def place() -> Place:
    """Where the tests run."""
    try:
        return current()
    except ClusterError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="session")
def cluster(place: Place, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Cluster:
    """The cluster, as its administrator."""
    found = Cluster(place.kubeconfig, tmp_path_factory.mktemp("cluster"), find_programs(("kubectl",))["kubectl"])
    request.session.stash[_CLUSTER] = found
    return found


@pytest.fixture(scope="session")
def kube(cluster: Cluster) -> KubeClient:
    """Requests as the administrator."""
    return cluster.api


@pytest.fixture(scope="session")
def turns(place: Place) -> Path:
    """The folder of the cluster's turns."""
    return place.kubeconfig.with_name(f".{place.kubeconfig.name}-turns")


@pytest.fixture(autouse=True)
def own_turn(request: pytest.FixtureRequest, turns: Path) -> Iterator[None]:
    """No test runs beside one that disturbs all others."""
    with turn(turns, alone=request.node.get_closest_marker("alone") is not None):
        yield


@pytest.fixture(scope="session")
def installed(cluster: Cluster, place: Place, turns: Path) -> Release:
    """dlcloud, installed once for all tests; tests take `release`, which is as it should be."""
    found = Release(cluster, place)
    # A test that changes the release has its turn alone: what it is in the middle of is not to be mended.
    with turn(turns.with_name(turns.name + "-install"), alone=True), turn(turns, alone=False):
        if not found.is_current:
            found.install()
        found.wait_leading()
    return found


@pytest.fixture
def release(own_turn: None, installed: Release) -> Release:
    """dlcloud as it was installed: an operator leads. What a test changes of it, it changes back."""
    installed.wait_leading()
    return installed


@pytest.fixture
def namespace(cluster: Cluster, request: pytest.FixtureRequest, make_namespace: Callable[..., str]) -> str:
    """A namespace of the test's own, in which the restricted Pod Security Standard rules."""
    return make_namespace()


@pytest.fixture
def make_namespace(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Callable[..., str]]:
    """Makes namespaces, which are deleted after the test, with what is in them."""
    made: list[str] = request.node.stash.setdefault(_NAMESPACES, [])

    def make(prefix: str = "e2e", **options: Any) -> str:
        made.append(cluster.make_namespace(prefix, **options))
        return made[-1]

    yield make
    for name in made:
        cluster.delete_namespace(name)


@pytest.fixture(scope="module")
def namespaces_of_module(request: pytest.FixtureRequest) -> list[str]:
    """The names of namespaces that a module's fixtures make and delete: what is in them is kept of failures, too."""
    return request.node.stash.setdefault(_NAMESPACES, [])


@pytest.fixture(scope="module")
def jobs_of_module(cluster: Cluster, installed: Release, namespaces_of_module: list[str]) -> Iterator[Jobs]:
    """The jobs of one namespace for all tests of the file."""
    installed.wait_leading()
    namespaces_of_module.append(cluster.make_namespace("e2e"))
    installed.admit(namespaces_of_module[-1])
    yield Jobs(cluster, namespaces_of_module[-1])
    cluster.delete_namespace(namespaces_of_module[-1])


@pytest.fixture
def jobs(release: Release, cluster: Cluster, namespace: str) -> Jobs:
    """The jobs of the test's namespace, which may use the bundled store."""
    release.admit(namespace)
    return Jobs(cluster, namespace)


@pytest.fixture(scope="session")
def store(installed: Release, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """The bundled store, reached from here."""
    found = Store(installed, tmp_path_factory.mktemp("store"))
    yield found
    found.close()


@pytest.fixture(scope="session")
def nodes(place: Place, cluster: Cluster) -> Nodes:
    """The nodes, where they are containers of this machine; otherwise the test is skipped."""
    found = find_nodes(place.engine, cluster.api)
    if found is None:
        pytest.skip("needs a kind cluster whose nodes are containers of this machine, to kill them")
    return found


@pytest.fixture
def tell(jobs: Jobs, store: Store) -> Iterator[TellStory]:
    """`tell("name")`: the story of a job, watched from now on until the test ends."""
    begun: list[Story] = []

    def begin(name: str) -> Story:
        begun.append(Story(jobs, name, store).__enter__())
        return begun[-1]

    yield begin
    for story in begun:
        story.__exit__()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Keep what explains a failure, before its namespaces go."""
    report = yield
    cluster = item.session.stash.get(_CLUSTER, None)
    if report.failed and report.when in ("setup", "call") and cluster is not None:
        name = re.sub(r"[^\w.-]+", "-", item.nodeid.rpartition("/")[2])
        module = item.getparent(pytest.Module)
        shared = module.stash.get(_NAMESPACES, []) if module is not None else []
        folder = evidence.collect(cluster, [*item.stash.get(_NAMESPACES, []), *shared], name)
        report.sections.append(("evidence", f"events, logs, jobs and pods: {folder}"))
    return report


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        evidence.run_folder()  # before workers start: they inherit where it is


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """What the faults cost, and where the evidence is."""
    told = evidence.notes()
    if told:
        terminalreporter.section("what was measured")
    for one in told:
        facts = ", ".join(f"{key} {value}" for key, value in one.items() if key not in ("kind", "messages"))
        terminalreporter.write_line(f"{one['kind']}: {facts}")
        for message in one.get("messages") or ():
            terminalreporter.write_line(f"    {message}")
    if terminalreporter.stats.get("failed") or terminalreporter.stats.get("error"):
        terminalreporter.write_line(f"evidence of the failures: {evidence.run_folder()}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Real pods on a busy machine: ten minutes for a test that says nothing else."""
    for item in items:
        if item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(LIMIT_S))
