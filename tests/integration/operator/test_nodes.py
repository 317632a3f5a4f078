"""What nodes do to pods: they die, run out of memory, miss an image. Agents are played, nodes are the rig's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ...rig.cluster import Cluster
from ...rig.jobs import Jobs
from ...rig.kubelet import Kubelet
from ...rig.processes import until
from .installation import OperatorProcess

pytestmark = pytest.mark.usefixtures("operator")
SITE = {"scheduling": {"nodeSelector": {"rig/site": "nodes"}}}


@pytest.fixture
def pair(control_plane: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Kubelet, Kubelet]]:
    """Two nodes with room for one worker each, whose agents train until they are told to succeed."""
    folder = tmp_path_factory.mktemp("pair")
    size = {"mode": "played", "labels": {"rig/site": "nodes"}, "pods": 1}
    with (
        Kubelet(control_plane.kubeconfig, folder / "a", name="site-a", **size) as one,  # type: ignore[arg-type]
        Kubelet(control_plane.kubeconfig, folder / "b", name="site-b", **size) as other,  # type: ignore[arg-type]
    ):
        yield one, other


def test_a_pod_stuck_on_a_dead_node_is_replaced_and_training_goes_on(
    pair: tuple[Kubelet, Kubelet], control_plane: Cluster, tmp_path_factory: pytest.TempPathFactory, jobs: Jobs
) -> None:
    jobs.create("stuck", **SITE)
    jobs.until_round("stuck")
    dead = next(pod for pod in jobs.pods("stuck") if pod["spec"]["nodeName"] == "site-a")["metadata"]
    index = int(dead["name"].split("-")[1])
    pair[0].freeze(kill=True)
    folder = tmp_path_factory.mktemp("spare")
    labels = {"rig/site": "nodes"}
    with Kubelet(control_plane.kubeconfig, folder, name="site-c", mode="played", labels=labels, pods=1):
        # What the control plane does to the pods of a node that it has not heard of for a while.
        jobs.api.delete(f"{jobs.pods_path}/{dead['name']}")
        current = jobs.until_round("stuck", 2)
        assert current["members"][index]["pod"] == f"stuck-{index}-2"
        left = jobs.api.get(f"{jobs.pods_path}/{dead['name']}")["metadata"]
        assert left["uid"] == dead["uid"] and "deletionTimestamp" in left, "the old object is still there"
        assert jobs.status("stuck")["restarts"] == 1
        assert not [one for one in jobs.status("stuck").get("failures") or () if one["counted"]], "a lost pod is free"
        pair[0].thaw()
        until("the old pod is gone", lambda: jobs.api.find(f"{jobs.pods_path}/{dead['name']}") is None, 15)
        jobs.remove("stuck")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_node_that_goes_dark_is_given_up_without_anybodys_help(
    pair: tuple[Kubelet, Kubelet],
    control_plane: Cluster,
    tmp_path_factory: pytest.TempPathFactory,
    node: Kubelet,
    jobs: Jobs,
) -> None:
    """No heartbeat, no last word: the agent's silence and the control plane's word on the node are all there is."""
    node.play.work_s = None
    jobs.create("witness")  # its agents speak on: silence of all would be the operator's own trouble
    jobs.until_round("witness")
    jobs.create("dark", **SITE)
    jobs.until_round("dark")
    index = next(n for n, pod in enumerate(jobs.pods("dark")) if pod["spec"]["nodeName"] == "site-a")
    pair[0].freeze(kill=True)
    folder = tmp_path_factory.mktemp("spare")
    labels = {"rig/site": "nodes"}
    with Kubelet(control_plane.kubeconfig, folder, name="site-d", mode="played", labels=labels, pods=1):
        current = jobs.until_round("dark", 2, limit_s=150)
        assert current["members"][index]["pod"] == f"dark-{index}-2"
        failure = jobs.until("dark", "the cause is told", lambda status: status.get("failures"))[0]
        assert failure["reason"] == "PodLost" and not failure["counted"]
        pair[0].thaw()
        jobs.remove("dark")


def test_a_pod_that_ran_out_of_memory_counts_and_is_made_again(pair: tuple[Kubelet, Kubelet], jobs: Jobs) -> None:
    jobs.create("hungry", **SITE)
    jobs.until_round("hungry")
    node = _node_of(pair, jobs, "hungry-0-1")
    node.end(jobs.namespace, "hungry-0-1", 137, "OOMKilled")
    jobs.until_round("hungry", 2)
    told = jobs.until("hungry", "the cause is told", lambda status: status.get("failures"))
    assert told[0]["reason"] == "OutOfMemory" and told[0]["counted"] and told[0]["worker"] == 0
    jobs.remove("hungry")


def test_a_missing_image_is_told_in_the_kubelets_words(pair: tuple[Kubelet, Kubelet], jobs: Jobs) -> None:
    for node in pair:
        node.withhold_image("example.com/none:1", "pull access denied for example.com/none")
    script = {"image": "example.com/none:1", "command": ["python", "train.py"]}
    jobs.create("imageless", workload=None, data=None, script=script, workers={"count": 1}, **SITE)
    told = jobs.until(
        "imageless", "the image is named", lambda s: s["message"] if "example.com/none" in s.get("message", "") else ""
    )
    assert "pull access denied" in told
    assert jobs.condition("imageless", "PodsReady")["reason"] == "ImagePull"
    for node in pair:
        node.release_image("example.com/none:1")
    jobs.until_round("imageless")
    jobs.remove("imageless")


@pytest.mark.slow
def test_a_missing_volume_is_told_in_the_kubelets_words(
    control_plane: Cluster, tmp_path_factory: pytest.TempPathFactory, jobs: Jobs
) -> None:
    """The pod's own status says ContainerCreating; why is only in its Events."""
    folder = tmp_path_factory.mktemp("strict")
    template = {"spec": {"volumes": [{"name": "extra", "configMap": {"name": "settings"}}]}}
    site = {"scheduling": {"nodeSelector": {"rig/site": "strict"}}}
    with Kubelet(control_plane.kubeconfig, folder, name="strict", labels={"rig/site": "strict"}):
        jobs.create("mountless", podTemplate=template, workers={"count": 1}, **site)
        told = jobs.until(
            "mountless", "the volume is named", lambda s: s["message"] if "settings" in s.get("message", "") else ""
        )
        assert 'configmap "settings" not found' in told and "FailedMount" in told + str(
            jobs.condition("mountless", "PodsReady")
        )
        jobs.remove("mountless")


def _node_of(pair: tuple[Kubelet, Kubelet], jobs: Jobs, pod: str) -> Kubelet:
    name = jobs.api.get(f"{jobs.pods_path}/{pod}")["spec"]["nodeName"]
    return next(node for node in pair if node.name == name)


def test_the_log_holds_no_error(operator: OperatorProcess) -> None:
    assert operator.troubles() == []
