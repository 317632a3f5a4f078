"""What keeps a job from training: what a user reads of it, and that the job goes on by itself once it is mended."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator

import pytest

from ..cluster.nodes import Nodes
from ..cluster.place import Place
from ..rig.client import KubeClient
from ..rig.jobs import Object
from . import evidence
from .jobs import Jobs
from .release import Release
from .waiting import until

ONE: Object = {"count": 1}
TRAINS = ("Running", "Succeeded")


def waits(jobs: Jobs, name: str, words: str, limit_s: float | None = None) -> str:
    """The message of a pending job once it has these words (a pattern)."""

    def look(status: Object) -> str | None:
        message = str(status.get("message") or "")
        return message if status.get("phase") == "Pending" and re.search(words, message) else None

    found: str = jobs.until(name, f"{name} says {words!r}", look, limit_s)
    return found


def goes_on(jobs: Jobs, name: str, message: str, mend: Callable[[], object]) -> Object:
    """Mend what a job waits for; the status once it trains. What was seen is noted, and nothing of the job stays."""
    reason = jobs.condition(name, "PodsReady").get("reason")
    mended_at = time.time()
    mend()
    status = jobs.until_phase(name, *TRAINS)
    assert status["restarts"] == 0 and not status.get("failures"), "waiting costs nothing"
    evidence.note("fault", name=name, state=f"Pending ({reason}), then {status['phase']}", stepsLost=0,
                  seconds=round(time.time() - mended_at, 1), messages=[message])  # fmt: skip
    jobs.until_clean(name)
    return status


def fails(jobs: Jobs, name: str) -> str:
    """The message of a job that must fail, and why, as `reason: message`; nothing of the job stays."""
    began = time.time()
    status = jobs.until_phase(name, "Failed", "Succeeded")
    assert status["phase"] == "Failed" and status["restarts"] == 0, "what no restart mends is not tried again"
    told = f"{jobs.condition(name, 'Failed')['reason']}: {status['message']}"
    evidence.note("fault", name=name, state="Failed", stepsLost=0, seconds=round(time.time() - began, 1),
                  messages=[told])  # fmt: skip
    jobs.until_clean(name)
    return told


# --- it waits ---


def test_an_image_that_cannot_be_pulled_is_named_and_the_job_starts_once_it_is_there(
    jobs: Jobs, nodes: Nodes, place: Place, absent_image: str
) -> None:
    container = {"name": "trainer", "image": absent_image, "resources": {"requests": {"cpu": "100m"}}}
    jobs.create("image-missing", workers=ONE, podTemplate={"spec": {"containers": [container]}})
    message = waits(jobs, "image-missing", "cannot be pulled: ")
    assert f"waiting for 1 of 1 worker: image '{absent_image}' cannot be pulled: " in message
    assert message.count(absent_image) == 1, "what went wrong is not hidden behind the image's name"
    assert jobs.condition("image-missing", "PodsReady")["reason"] == "ImagePull"

    def push() -> None:
        for node in nodes.workers:
            nodes.run(node, "ctr", "-n", "k8s.io", "images", "tag", place.images.trainer, absent_image)

    goes_on(jobs, "image-missing", message, push)


@pytest.fixture
def absent_image(nodes: Nodes, namespace: str) -> Iterator[str]:
    """The name of an image that no node has; removed afterwards."""
    name = f"localhost/{namespace}/trainer:1"
    yield name
    for node in nodes.workers:
        nodes.run(node, "ctr", "-n", "k8s.io", "images", "rm", name)


def test_a_missing_secret_is_named_and_the_job_starts_once_it_is_made(jobs: Jobs, release: Release) -> None:
    jobs.create("secret-missing", workers=ONE, objectStore={"credentialsSecret": "my-keys"})
    message = waits(jobs, "secret-missing", "secret")
    assert 'secret "my-keys" not found' in message
    goes_on(jobs, "secret-missing", message, lambda: make_keys(jobs, "my-keys", *release.store_keys()))


@pytest.fixture
def no_gpus(nodes: Nodes) -> Iterator[None]:
    """Nodes without GPUs, which get back what they had."""
    had = {name: nodes.gpus(name) for name in nodes.workers}
    for name in had:
        nodes.set_gpus(name, 0)
    yield
    for name, count in had.items():
        nodes.set_gpus(name, count)


def test_a_job_for_more_gpus_than_there_are_says_how_many_it_asks_for_and_starts_when_a_node_has_them(
    jobs: Jobs, nodes: Nodes, no_gpus: None
) -> None:
    jobs.create_long("gpus-missing", workers={"count": 1, "gpus": 2})
    message = waits(jobs, "gpus-missing", "nvidia.com/gpu")
    assert re.search(r"0/\d+ nodes (have 2 free nvidia.com/gpu|are available: .*\(the pod asks for 2\))", message)
    assert jobs.condition("gpus-missing", "PodsReady")["reason"] == "Unschedulable"
    try:
        nodes.set_gpus(nodes.workers[0], 2)
        pod = until("the pod has a node", lambda: placed(jobs, "gpus-missing"), 120)
        assert pod["spec"]["nodeName"] == nodes.workers[0]
        assert jobs.until_round("gpus-missing")["worldSize"] == 2, "a rank for each GPU"
    finally:
        jobs.until_clean("gpus-missing")


@pytest.mark.full
def test_a_job_whose_node_selector_fits_no_node_starts_once_a_node_has_the_label(
    jobs: Jobs, kube: KubeClient, namespace: str
) -> None:
    node = schedulable(kube)
    jobs.create("label-missing", workers=ONE, scheduling={"nodeSelector": {"test.dlcloud.dev/own": namespace}})
    message = waits(jobs, "label-missing", "0/")
    assert re.search(r"0/\d+ nodes are available: .*didn't match Pod's node affinity/selector", message)
    try:
        goes_on(jobs, "label-missing", message, lambda: label(kube, node, namespace))
    finally:
        label(kube, node, None)


def test_a_quota_that_is_too_small_is_told_and_the_job_starts_once_it_is_raised(jobs: Jobs, kube: KubeClient) -> None:
    quotas = f"/api/v1/namespaces/{jobs.namespace}/resourcequotas"
    kube.create(quotas, {"metadata": {"name": "team"}, "spec": {"hard": {"pods": "1"}}})
    until("the quota holds", lambda: (kube.get(f"{quotas}/team").get("status") or {}).get("hard"), 60)
    jobs.create("quota-full")
    message = waits(jobs, "quota-full", "exceeded quota")
    assert "exceeded quota: team" in message and "limited: pods=1" in message
    assert jobs.condition("quota-full", "PodsReady")["reason"] == "QuotaExceeded"
    goes_on(jobs, "quota-full", message, lambda: kube.merge(f"{quotas}/team", {"spec": {"hard": {"pods": "4"}}}))


@pytest.mark.full
def test_a_limit_range_that_refuses_the_pods_is_told_and_the_job_starts_once_it_allows_them(
    jobs: Jobs, kube: KubeClient
) -> None:
    ranges = f"/api/v1/namespaces/{jobs.namespace}/limitranges"

    def body(cpu: str) -> Object:
        return {"metadata": {"name": "small"}, "spec": {"limits": [{"type": "Container", "max": {"cpu": cpu}}]}}

    kube.create(ranges, body("500m"))
    jobs.create("range-narrow", workers=ONE)
    message = waits(jobs, "range-narrow", "maximum cpu")
    assert "maximum cpu usage per Container is 500m, but limit is 1" in message
    assert jobs.condition("range-narrow", "PodsReady")["reason"] == "AdmissionRefused"
    goes_on(jobs, "range-narrow", message, lambda: kube.merge(f"{ranges}/small", body("2")))


# --- it fails: nothing that is mended in the cluster would help this job ---


def test_wrong_store_keys_end_the_job_before_its_first_step_and_right_ones_let_it_be_made_again(
    jobs: Jobs, release: Release
) -> None:
    access, secret = release.store_keys()
    make_keys(jobs, "my-keys", access, "not" + secret)
    jobs.create("keys-wrong", workers=ONE, objectStore={"credentialsSecret": "my-keys"})
    told = fails(jobs, "keys-wrong")
    assert told.startswith("StoreUnusable: worker 0, rank 0: ") and "SignatureDoesNotMatch" in told
    assert "correct AWS_SECRET_ACCESS_KEY in objectStore.credentialsSecret" in told
    assert secret not in told
    make_keys(jobs, "my-keys", access, secret)
    jobs.create_long("keys-wrong", workers=ONE, objectStore={"credentialsSecret": "my-keys"})
    jobs.until_training("keys-wrong", steps=1)
    jobs.until_clean("keys-wrong")


@pytest.mark.full
def test_a_bucket_that_does_not_exist_ends_the_job_before_its_first_step(jobs: Jobs) -> None:
    jobs.create("bucket-missing", workers=ONE, checkpoint={"uri": "s3://nowhere/"})
    told = fails(jobs, "bucket-missing")
    assert told.startswith("StoreUnusable: ") and "bucket 'nowhere'" in told
    assert "does not exist" in told or "there may be no such bucket" in told, "servers hide buckets of others"


def test_data_that_is_not_there_ends_the_job_and_says_where_it_was_looked_for(jobs: Jobs) -> None:
    jobs.create("data-missing", workers=ONE, data={"uri": "s3://datasets/nothing-here"})
    told = fails(jobs, "data-missing")
    assert told.startswith("InvalidInput: ") and "nothing-here" in told


# --- inside ---


def make_keys(jobs: Jobs, name: str, access: str, secret: str) -> None:
    """Make the Secret, or change it."""
    path = f"/api/v1/namespaces/{jobs.namespace}/secrets"
    body = {"metadata": {"name": name}, "stringData": {"AWS_ACCESS_KEY_ID": access, "AWS_SECRET_ACCESS_KEY": secret}}
    if jobs.api.find(f"{path}/{name}") is None:
        jobs.api.create(path, body)
    else:
        jobs.api.merge(f"{path}/{name}", body)


def placed(jobs: Jobs, name: str) -> Object | None:
    """The first pod of the job that has a node."""
    return next((pod for pod in jobs.pods(name) if pod["spec"].get("nodeName")), None)


def schedulable(kube: KubeClient) -> str:
    """A node that takes pods."""
    for node in kube.items("/api/v1/nodes"):
        spec = node["spec"]
        if not spec.get("unschedulable") and not any(
            one["effect"] != "PreferNoSchedule" for one in spec.get("taints", ())
        ):
            return str(node["metadata"]["name"])
    raise AssertionError("no node takes pods")


def label(kube: KubeClient, node: str, value: str | None) -> None:
    kube.merge(f"/api/v1/nodes/{node}", {"metadata": {"labels": {"test.dlcloud.dev/own": value}}})
