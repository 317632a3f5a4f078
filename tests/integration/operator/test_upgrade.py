"""An upgrade of the release with other values leaves running jobs alone; a release of two namespaces sees no third."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ...rig.cluster import Cluster
from ...rig.jobs import Jobs
from ...rig.kubelet import Kubelet
from .conftest import Install
from .installation import Installation, OperatorProcess

OTHER_VALUES: dict[str, Any] = {
    "log": {"level": "debug", "format": "text"},
    "trainerImage": {"repository": "other/trainer", "tag": "2", "pullPolicy": "Never"},
    "networkPolicy": {"enabled": True, "egress": [{"ports": [{"port": 443, "protocol": "TCP"}]}]},
    "replicas": 2,
    "resources": {"limits": {"memory": "1Gi"}},
}


@pytest.fixture(scope="module")
def both(control_plane: Cluster) -> Iterator[tuple[Jobs, Jobs, Jobs]]:
    """The jobs of two watched namespaces, and of one that is not."""
    names = [control_plane.make_namespace("upgrade") for _ in range(3)]
    one, other, outside = (Jobs(control_plane, name) for name in names)
    yield one, other, outside
    for name in names:
        control_plane.delete_namespace(name)


@pytest.fixture(scope="module")
def release(both: tuple[Jobs, Jobs, Jobs], install: Install) -> Installation:
    return install(both[0].namespace, both[1].namespace)


@pytest.fixture(scope="module")
def upgraded(
    release: Installation, both: tuple[Jobs, Jobs, Jobs], node: Kubelet
) -> tuple[list[str], list[str], OperatorProcess]:
    """Pod uids of two running jobs before and after the release was upgraded as a rolling update does it."""
    node.play.work_s = None
    old = release.start_operator()
    old.wait_leading()
    both[2].create("unseen")
    for jobs in both[:2]:
        jobs.create("steady")
        jobs.until("steady", "it trains", lambda status: "AllRanksTrain" in str(status.get("conditions")))
    before = _uids(both)
    release.apply_rights(**OTHER_VALUES)
    new = release.start_operator()
    old.stop(grace_s=20)
    new.wait_leading()
    for jobs in both[:2]:
        jobs.create("fresh")
        jobs.until_round("fresh")
    return before, _uids(both), new


def test_running_jobs_keep_their_pods_and_their_round(
    upgraded: tuple[list[str], list[str], OperatorProcess], both: tuple[Jobs, Jobs, Jobs]
) -> None:
    before, after, _ = upgraded
    assert len(before) == 4 and after == before
    for jobs in both[:2]:
        assert jobs.status("steady")["round"]["number"] == 1 and jobs.status("steady")["restarts"] == 0


def test_new_jobs_have_the_new_values(
    upgraded: tuple[list[str], list[str], OperatorProcess], both: tuple[Jobs, Jobs, Jobs]
) -> None:
    for jobs in both[:2]:
        trainer = jobs.pods("fresh")[0]["spec"]["containers"][0]
        assert (trainer["image"], trainer["imagePullPolicy"]) == ("other/trainer:2", "Never")


def test_a_namespace_that_is_not_watched_is_left_alone(
    upgraded: tuple[list[str], list[str], OperatorProcess], both: tuple[Jobs, Jobs, Jobs]
) -> None:
    assert "status" not in both[2].get("unseen") and both[2].pods("unseen") == []


def test_jobs_from_before_the_upgrade_end_well(
    upgraded: tuple[list[str], list[str], OperatorProcess], both: tuple[Jobs, Jobs, Jobs], node: Kubelet
) -> None:
    node.play.succeed |= {"steady", "fresh"}
    try:
        for jobs in both[:2]:
            assert jobs.until_phase("steady", "Succeeded")["restarts"] == 0
    finally:
        node.play.succeed.clear()


def test_no_operator_logged_an_error(
    upgraded: tuple[list[str], list[str], OperatorProcess], release: Installation
) -> None:
    assert [line for one in release.operators for line in one.troubles()] == []


def _uids(both: tuple[Jobs, Jobs, Jobs]) -> list[str]:
    return [pod["metadata"]["uid"] for jobs in both[:2] for pod in jobs.pods("steady")]
