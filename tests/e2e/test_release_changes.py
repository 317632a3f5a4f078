"""Changes of a release under one job that trains through all of them, and its complete removal.

One story in one turn. Afterwards the release is as it was.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..cluster.nodes import Nodes
from ..rig.helm import CHART, HelmError
from . import evidence
from .jobs import Jobs, Object
from .lifecycle import (
    Training,
    install,
    objects_of_dlcloud,
    operator_uids,
    own_jobs,
    remove_all,
    secrets,
    someone_elses_store,
    store_pod,
    uninstall,
)
from .release import HOME, NAME, OPERATOR, STORE, SYSTEM, Release, is_ready
from .turns import turn
from .waiting import until

pytestmark = [pytest.mark.alone, pytest.mark.full, pytest.mark.timeout(1500)]
LONG = {"parameters": {"epochs": 1000}}
ONE = {"workers": {"count": 1}}
POLICIES = "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies"
BUDGET = f"/apis/policy/v1/namespaces/{SYSTEM}/poddisruptionbudgets/{OPERATOR}"


@pytest.fixture(scope="module", autouse=True)
def own_turn(installed: Release, turns: Path) -> Iterator[None]:
    """One turn for all tests of the module, in place of one for each."""
    with turn(turns, alone=True):
        yield


@pytest.fixture(scope="module")
def changed(own_turn: None, installed: Release) -> Iterator[Release]:
    """The release, which these tests change: one leaves it as the next one wants to find it, or better."""
    yield installed
    if "dlcloud" in installed.helm("list", "-n", SYSTEM, "-a", "-q").split():
        installed.helm("uninstall", NAME, "-n", SYSTEM, "--wait")
        remove_all(installed)
    installed.upgrade()


@pytest.fixture(scope="module")
def jobs(changed: Release, namespaces_of_module: list[str]) -> Iterator[Jobs]:
    """One job trains through all the changes."""
    with own_jobs(changed, "changes", namespaces_of_module) as made:
        made.create_long("stays", **LONG)
        yield made


@pytest.fixture
def training(jobs: Jobs, changed: Release) -> Training:
    """The job as it is before the test."""
    return Training.now(jobs, "stays")


def policies_of(jobs: Jobs) -> list[str]:
    """The jobs that have a network policy."""
    found = jobs.api.items(POLICIES.format(jobs.namespace))
    return sorted(owner["name"] for one in found for owner in one["metadata"]["ownerReferences"])


def test_of_two_operators_the_other_takes_over_when_the_leader_is_killed(changed: Release, training: Training) -> None:
    """`replicas: 2` and no network policies, in one upgrade; the leader is deleted by force. The job hears nothing."""
    changed.upgrade(replicas=2, networkPolicy={"enabled": False})
    until("both operators are ready", lambda: [is_ready(one) for one in changed.operator_pods()] == [True] * 2, 180)
    assert len({one["spec"]["nodeName"] for one in changed.operator_pods()}) == 2, "not both on one node"
    assert changed.api.find(BUDGET)["spec"]["maxUnavailable"] == 1
    before = Training.now(training.jobs, "stays")

    leader = changed.wait_leading()["metadata"]
    began = time.monotonic()
    changed.cluster.kubectl("delete", "pod", "-n", SYSTEM, leader["name"], "--grace-period=0", "--force")

    def other() -> Object | None:
        found = changed.leader()
        return found if found and found["metadata"]["uid"] != leader["uid"] else None

    until("the other operator leads", other, 120)
    seconds = round(time.monotonic() - began, 1)
    status = before.goes_on()
    evidence.note(
        "fault", name="operator that leads deleted by force, two replicas", seconds=seconds, stepsLost=0,
        state=status["phase"], messages=[status.get("message") or ""],
    )  # fmt: skip


def test_network_policies_are_switched_off_and_on_under_running_jobs(changed: Release, training: Training) -> None:
    """Switched off, a new job gets none, and the operator has no right to make one; switched on, it gets its own."""
    jobs = training.jobs
    if may_make_policies(changed):  # otherwise the test before left it so
        changed.upgrade(networkPolicy={"enabled": False})
    jobs.create_long("bare", **LONG, **ONE)
    jobs.until_training("bare", steps=1)
    assert "bare" not in policies_of(jobs)
    assert not may_make_policies(changed)

    bare = Training.now(jobs, "bare")
    changed.upgrade()
    assert may_make_policies(changed)
    until("both jobs have their policy", lambda: policies_of(jobs) == ["bare", "stays"], 120)
    training.goes_on()
    bare.goes_on()
    jobs.delete("bare")
    jobs.until_gone("bare", 120)
    until("its policy went with it", lambda: policies_of(jobs) == ["stays"], 120)
    assert changed.api.find(BUDGET) is None


def test_an_upgrade_to_another_image_restarts_operator_and_store_and_no_worker(
    changed: Release, training: Training, nodes: Nodes
) -> None:
    """The same image under another tag, as a new version would be."""
    name = changed.place.images.operator
    other = f"{name}-again"
    for node in nodes.workers:
        nodes.run(node, "ctr", "-n", "k8s.io", "images", "tag", "--force", name, other)
    operators, store, kept = operator_uids(changed), (store_pod(changed) or {})["metadata"]["uid"], secrets(changed)
    began = time.monotonic()
    tag = {"image": {**changed.values()["image"], "tag": other.rpartition(":")[2]}}
    changed.upgrade(**tag)
    seconds = round(time.monotonic() - began, 1)
    assert not operator_uids(changed) & operators
    assert (store_pod(changed) or {})["metadata"]["uid"] != store, "the operator's image writes its configuration"
    assert secrets(changed) == kept
    status = training.goes_on(limit_s=300)
    messages = [status.get("message") or ""]
    evidence.note("release", name="helm upgrade, another image", seconds=seconds, messages=messages)


def test_an_upgrade_that_fails_leaves_the_job_alone_and_is_rolled_back(changed: Release, training: Training) -> None:
    """An image that is nowhere: the old operator goes on; the store is away until the rollback brings it back."""
    kept, operators = secrets(changed), operator_uids(changed)
    nowhere = {**changed.values()["image"], "tag": "nowhere"}
    began = time.monotonic()
    with pytest.raises(HelmError, match="UPGRADE FAILED"):
        changed.helm(
            "upgrade", NAME, str(CHART), "-n", HOME, "--wait", "--timeout", "10s",
            values=changed.values(image=nowhere),
        )  # fmt: skip
    assert changed.state == "failed"

    def store_waits() -> bool:
        statuses = ((store_pod(changed) or {}).get("status") or {}).get("initContainerStatuses") or ()
        return any("Pull" in (one["state"].get("waiting") or {}).get("reason", "") for one in statuses)

    until("the store's new pod cannot pull its image", store_waits, 120)
    assert changed.wait_leading()["metadata"]["uid"] in operators, "the operator of before leads"
    training.trains_without_being_asked()
    training.untouched(training.jobs.status("stays"))
    told = training.jobs.status("stays").get("message") or ""

    changed.helm("rollback", NAME, "-n", HOME, "--wait", "--timeout", "180s")
    assert changed.state == "deployed" and secrets(changed) == kept
    seconds = round(time.monotonic() - began, 1)
    assert changed.wait_leading()["metadata"]["uid"] in operators, "nothing had to restart it"
    status = training.goes_on(limit_s=300)
    evidence.note(
        "fault", name="upgrade to an image that is nowhere, rolled back", seconds=seconds, stepsLost=0,
        state=status["phase"], messages=[told, status.get("message") or ""],
    )  # fmt: skip


@pytest.mark.parametrize("broken", ["rendezvous", "object store"])
def test_the_releases_own_test_fails_where_it_is_broken(changed: Release, broken: str) -> None:
    """Without the Service through which workers reach the leader, and without a store."""
    service = f"/api/v1/namespaces/{SYSTEM}/services/dlcloud-rendezvous"
    if broken == "rendezvous":
        selector = changed.api.get(service)["spec"]["selector"]
        changed.api.merge(service, {"spec": {"selector": {"dlcloud.dev/leader": "nobody"}}})
    else:
        changed.scale_store(0)
    try:
        with pytest.raises(HelmError) as refused:
            changed.helm("test", NAME, "-n", HOME, "--timeout", "170s")
    finally:
        if broken == "rendezvous":
            changed.api.merge(service, {"spec": {"selector": selector}})
        else:
            changed.scale_store(1)
    said = changed.api.text(f"/api/v1/namespaces/{SYSTEM}/pods/dlcloud-test/log")
    healthy = {"operator", "rendezvous", "object store"} - {broken}
    assert set(re.findall(r"^(.+): ok$", said, re.MULTILINE)) == healthy, said
    assert re.search(rf"^{broken}: ", said, re.MULTILINE), said
    assert "failed" in str(refused.value).lower()


# --- removed ---


def may_make_policies(release: Release) -> bool:
    """Whether the operator's account may."""
    asked = {"verb": "create", "group": "networking.k8s.io", "resource": "networkpolicies", "namespace": HOME}
    spec = {"user": f"system:serviceaccount:{SYSTEM}:{OPERATOR}", "resourceAttributes": asked}
    path, kind = "/apis/authorization.k8s.io/v1/subjectaccessreviews", "SubjectAccessReview"
    answer = release.api.create(path, {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec})
    return bool(answer["status"]["allowed"])


def test_after_a_complete_removal_nothing_is_left_and_it_installs_with_a_store_of_ones_own(
    changed: Release, jobs: Jobs
) -> None:
    """As docs/install.md says: removed, installed into `dlcloud-system` with an external S3, removed again."""
    there = [one["metadata"] for one in changed.api.items("/apis/dlcloud.dev/v1/trainingjobs")]
    if others := [f"{one['namespace']}/{one['name']}" for one in there if one["namespace"] != jobs.namespace]:
        pytest.skip(f"there are jobs of somebody else in this cluster, which it would delete: {', '.join(others)}")
    uninstall(changed)
    remove_all(changed)
    jobs.until_gone("stays", 180)
    assert objects_of_dlcloud(changed.cluster) == set()

    with changed.cluster.namespace("external") as namespace:
        endpoint, keys = someone_elses_store(changed, namespace)
        values = {
            **{name: value for name, value in changed.values().items() if name != "s3"},
            "objectStore": {"endpoint": endpoint, "credentialsSecret": "keys"},
        }
        said, seconds = install(changed, SYSTEM, "--create-namespace", values=values)
        assert f"Jobs use {endpoint} unless they name another store." in said
        assert store_pod(changed) is None and changed.api.find(f"/api/v1/namespaces/{SYSTEM}/secrets/{STORE}") is None
        core = f"/api/v1/namespaces/{jobs.namespace}/secrets"
        changed.api.create(core, {"metadata": {"name": "keys"}, "data": keys})
        jobs.create("external", objectStore=None, **ONE)
        status = jobs.until_phase("external", "Succeeded", "Failed", limit_s=300)
        assert status["phase"] == "Succeeded", jobs.told("external")
        assert status["objectStore"]["endpoint"] == endpoint
        assert status["checkpoint"]["step"] == status["progress"]["totalSteps"]
        changed.helm("test", NAME, "-n", SYSTEM, "--timeout", "180s")
        jobs.until_clean("external")
        evidence.note("release", name="helm install with an external S3", seconds=seconds)
        uninstall(changed, SYSTEM)
    remove_all(changed)
    assert objects_of_dlcloud(changed.cluster) == set()
