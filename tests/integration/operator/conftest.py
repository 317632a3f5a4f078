"""The operator as a process against a real API server, with the chart's rights; kubelets are the rig's.

One release with one operator, behind a proxy, serves most modules, each with a namespace of its own (`home`, `jobs`).
What kills or replaces operators installs its own release with `install`. What operators said is shown on a failure.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from ...rig.cluster import Cluster
from ...rig.jobs import Jobs
from ...rig.kubelet import Kubelet
from .installation import Installation, OperatorProcess
from .proxy import Proxy

Install = Callable[..., Installation]
_HOMES = 8  # modules that share the operator
_TAIL_CHARS = 20_000
_RELEASES = pytest.StashKey[list[Installation]]()


@dataclass(frozen=True)
class Shared:
    """What most modules share; `homes` are watched namespaces that no module has taken yet."""

    release: Installation
    operator: OperatorProcess
    proxy: Proxy
    homes: list[str]


@pytest.fixture(scope="session")
def node(control_plane: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubelet]:
    """A node of the shared cluster whose pods are played; tests set `node.play`."""
    with Kubelet(control_plane.kubeconfig, tmp_path_factory.mktemp("node"), name="played", mode="played") as kubelet:
        yield kubelet


@pytest.fixture(scope="session")
def shared(
    control_plane: Cluster, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Shared]:
    homes = [control_plane.make_namespace("jobs") for _ in range(_HOMES)]
    with (
        Proxy(control_plane.kubeconfig) as proxy,
        Installation(control_plane, tmp_path_factory.mktemp("shared"), homes) as release,
    ):
        request.session.stash[_RELEASES] = [release]
        operator = release.start_operator(proxy=proxy)
        operator.wait_leading()
        yield Shared(release, operator, proxy, list(homes))
        for home in homes:
            control_plane.delete_namespace(home)


@pytest.fixture(scope="module")
def home(shared: Shared) -> str:
    """The module's namespace for jobs."""
    return shared.homes.pop()


@pytest.fixture(scope="module")
def jobs(control_plane: Cluster, home: str) -> Jobs:
    return Jobs(control_plane, home)


@pytest.fixture(scope="module")
def release(shared: Shared) -> Installation:
    return shared.release


@pytest.fixture(scope="module")
def proxy(shared: Shared) -> Proxy:
    """Between the operator and the API server."""
    return shared.proxy


@pytest.fixture(scope="module")
def operator(shared: Shared) -> OperatorProcess:
    """The shared operator, leading; what it has said until now is of no concern to this module."""
    shared.operator.turn_the_page()
    return shared.operator


@pytest.fixture(scope="module")
def own_home(control_plane: Cluster) -> Iterator[str]:
    """A namespace that the shared operator does not watch."""
    with control_plane.namespace("own") as name:
        yield name


@pytest.fixture(scope="module")
def install(
    control_plane: Cluster, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Install]:
    """`install(*namespaces, cluster=..., values=...)`: releases of the chart, taken down with the module."""
    with contextlib.ExitStack() as stack:

        def make(*namespaces: str, cluster: Cluster | None = None, **options: Any) -> Installation:
            folder = tmp_path_factory.mktemp("release")
            release = Installation(cluster or control_plane, folder, namespaces, **options)
            entered = stack.enter_context(release)
            request.node.stash.setdefault(_RELEASES, []).append(entered)
            return entered

        yield make


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    if report.failed:
        module = item.getparent(pytest.Module)
        own = module.stash.get(_RELEASES, []) if module is not None else []
        for release in own or item.session.stash.get(_RELEASES, []):
            report.sections.append(("operators", release.logs()[-_TAIL_CHARS:]))
    return report
