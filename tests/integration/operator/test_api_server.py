"""The API server goes away, forgets, and comes back; an installation that watches all namespaces sees it through.

A control plane of their own: it is killed here. 300 jobs at once are the load (`slow`), 25 in the default run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from ...rig.control_plane import ControlPlane
from ...rig.jobs import JOBS, Jobs, Object, manifest
from ...rig.kubelet import Kubelet
from ...rig.processes import until
from .conftest import Install
from .installation import Installation, OperatorProcess


@pytest.fixture(scope="module")
def plane(make_control_plane: Callable[[], ControlPlane]) -> Iterator[ControlPlane]:
    made = make_control_plane()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def node(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubelet]:
    with Kubelet(plane.kubeconfig, tmp_path_factory.mktemp("node"), name="played", mode="played") as kubelet:
        yield kubelet


@pytest.fixture(scope="module")
def release(plane: ControlPlane, install: Install) -> Installation:
    """It watches every namespace, by the chart's ClusterRole."""
    return install(cluster=plane)


@pytest.fixture(scope="module")
def operators(release: Installation) -> list[OperatorProcess]:
    """Started again whenever they end, as a kubelet does."""
    started = [release.start_operator()]
    started[0].wait_leading()
    return started


@pytest.fixture(scope="module")
def jobs(plane: ControlPlane) -> Jobs:
    return Jobs(plane, plane.make_namespace("jobs"))


def test_a_job_in_the_operators_own_namespace_is_refused(
    operators: list[OperatorProcess], release: Installation, plane: ControlPlane
) -> None:
    own = Jobs(plane, release.namespace)
    own.create("inside")
    status = own.until_phase("inside", "Failed")
    assert "metadata.namespace" in status["message"] and release.namespace in status["message"]
    assert own.condition("inside", "Failed")["reason"] == "InvalidSpec" and own.pods("inside") == []


def test_jobs_of_all_namespaces_are_served(
    operators: list[OperatorProcess], plane: ControlPlane, node: Kubelet, jobs: Jobs
) -> None:
    other = Jobs(plane, plane.make_namespace("more"))
    for one in (jobs, other):
        one.create("twin")
    assert jobs.until_round("twin")["members"][0]["uid"] != other.until_round("twin")["members"][0]["uid"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_300_jobs_at_once(
    operators: list[OperatorProcess], release: Installation, plane: ControlPlane, node: Kubelet, jobs: Jobs
) -> None:
    crowd(300, operators, release, plane, node)


def test_25_jobs_at_once(
    operators: list[OperatorProcess], release: Installation, plane: ControlPlane, node: Kubelet, jobs: Jobs
) -> None:
    crowd(25, operators, release, plane, node)


def test_training_goes_on_while_the_api_server_is_away(
    operators: list[OperatorProcess], release: Installation, plane: ControlPlane, node: Kubelet, jobs: Jobs
) -> None:
    """Killed while many jobs begin; the operator may end (its lease has run out) and is started again."""
    names = [f"under-{number}" for number in range(12)]
    node.play.work_s = None
    for name in names:
        jobs.create(name)
    plane.kill_api_server()
    away_at = time.monotonic()
    until("it was away for a while", lambda: time.monotonic() - away_at > 3, 10)
    plane.start_api_server()
    keep_alive(operators, release, lambda: all(jobs.status(name).get("round") for name in names), "all train")
    uids = {pod["metadata"]["uid"] for name in names for pod in jobs.pods(name)}
    assert len(uids) == 2 * len(names)
    plane.restart_api_server(kill=True)
    node.play.succeed |= set(names)
    keep_alive(operators, release, lambda: all(jobs.phase(name) == "Succeeded" for name in names), "all have succeeded")
    for name in names:
        assert jobs.status(name)["restarts"] == 0 and jobs.pod_names(name) == [f"{name}-0-1", f"{name}-1-1"]
    assert {pod["metadata"]["uid"] for name in names for pod in jobs.pods(name)} == uids


@pytest.mark.slow
def test_an_api_server_that_has_forgotten_the_past_is_read_anew(
    operators: list[OperatorProcess], release: Installation, plane: ControlPlane, node: Kubelet, jobs: Jobs
) -> None:
    """etcd is compacted and the watch cache empty: every watch that goes on from before gets 410 Gone."""
    jobs.create("ancient")
    keep_alive(operators, release, lambda: jobs.status("ancient").get("round"), "it trains")
    plane.forget_history()
    jobs.api.delete(f"{jobs.pods_path}/ancient-1-1")

    def second() -> bool:
        return bool((jobs.status("ancient").get("round") or {}).get("number", 0) > 1)

    keep_alive(operators, release, second, "its second round")
    assert jobs.pod_names("ancient") == ["ancient-0-1", "ancient-1-2"]


def test_no_operator_logged_a_traceback(operators: list[OperatorProcess]) -> None:
    assert [line for one in operators for line in one.tracebacks()] == []


def crowd(
    count: int, operators: list[OperatorProcess], release: Installation, plane: ControlPlane, node: Kubelet
) -> None:
    """So many jobs: all pods are made, all succeed when their agents say so, and the log holds no error."""
    many = Jobs(plane, plane.make_namespace("many"))
    said = len(operators[-1].text())
    node.play.work_s = None
    example = many.create("many-0")
    for number in range(1, count):
        many.api.create(JOBS.format(many.namespace), manifest(f"many-{number}", example["spec"]))
    until("all pods are made", lambda: len(_all(many, "pods")) == 2 * count, 180, poll_s=0.5)
    node.play.work_s = 0.0
    until("all have succeeded", lambda: set(_phases(many)) == {"Succeeded"}, 240, poll_s=0.5)
    node.play.work_s = None
    assert len(_all(many, "pods")) == 2 * count, "no pod was made twice"
    assert {job["status"]["restarts"] for job in _all(many, "jobs")} == {0}
    lines = operators[-1].text()[said:].splitlines()
    assert [line for line in lines if " ERROR " in line or "Traceback" in line] == []


def _all(jobs: Jobs, what: str) -> list[Object]:
    return jobs.api.items(jobs.pods_path if what == "pods" else jobs.path)


def _phases(jobs: Jobs) -> list[str]:
    return [str((job.get("status") or {}).get("phase")) for job in _all(jobs, "jobs")]


def keep_alive(operators: list[OperatorProcess], release: Installation, look: object, what: str) -> None:
    """Wait for something; an operator that has ended meanwhile is started again."""
    assert callable(look)

    def turn() -> bool:
        if not operators[-1].running:
            operators.append(release.start_operator(name=operators[-1].name, wait=False))
        return bool(look())

    until(what, turn, 90, poll_s=0.1)
