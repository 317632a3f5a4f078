"""The operator as a process against a real API server, with the chart's rights; kubelets are the rig's.

`release` is installed for a module, `node` is one node whose pods are played, `jobs` speaks of one namespace. What
every operator said is shown when a test fails.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ...rig.cluster import Cluster
from ...rig.kubelet import Kubelet
from .installation import Installation, OperatorProcess
from .jobs import Jobs

Install = Callable[..., Installation]
_TAIL_CHARS = 20_000


@pytest.fixture(scope="session")
def node(control_plane: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubelet]:
    """A node of the shared cluster whose pods are played; tests set `node.play`."""
    with Kubelet(control_plane.kubeconfig, tmp_path_factory.mktemp("node"), name="played", mode="played") as kubelet:
        yield kubelet


@pytest.fixture(scope="module")
def home(control_plane: Cluster) -> Iterator[str]:
    """The module's namespace for jobs."""
    with control_plane.namespace("jobs") as name:
        yield name


@pytest.fixture(scope="module")
def jobs(control_plane: Cluster, home: str) -> Jobs:
    return Jobs(control_plane, home)


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


@pytest.fixture(scope="module")
def release(install: Install, home: str) -> Installation:
    """The module's release, which watches `home`; no operator runs yet."""
    return install(home)


@pytest.fixture(scope="module")
def operator(release: Installation) -> OperatorProcess:
    """The module's operator, leading."""
    started = release.start_operator()
    started.wait_leading()
    return started


_RELEASES = pytest.StashKey[list[Installation]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report: Any = yield
    if report.failed:
        module = item.getparent(pytest.Module)
        for release in module.stash.get(_RELEASES, []) if module is not None else []:
            report.sections.append(("operators", release.logs()[-_TAIL_CHARS:]))
    return report
