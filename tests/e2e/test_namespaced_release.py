"""Two releases in one cluster, each for its own namespaces: a second one, with Roles and no right in the whole cluster.

`alone` for the length of the module: the first release, which serves everybody, watches one namespace meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ..rig.cluster import Cluster
from ..rig.helm import CHART
from . import evidence
from .jobs import STORE, Jobs
from .release import READY_S, SYSTEM, Release, is_ready
from .turns import turn
from .waiting import until

pytestmark = [pytest.mark.alone, pytest.mark.full]
Object = dict[str, Any]

TEAM = "team"
OPERATOR = f"{TEAM}-dlcloud-operator"
SMALL: Object = {"workers": {"count": 1}}
RBAC = "/apis/rbac.authorization.k8s.io/v1"


@dataclass(frozen=True)
class Two:
    """The namespaces: of the first release's jobs, of the second's, of nobody's; and where the second release is."""

    first: Jobs
    second: Jobs
    nobodys: Jobs
    home: str


@pytest.fixture(scope="module", autouse=True)
def own_turn(turns: Path) -> Iterator[None]:
    """One turn for all tests of the module, in place of one for each."""
    with turn(turns, alone=True):
        yield


@pytest.fixture(scope="module")
def two(own_turn: None, installed: Release, cluster: Cluster) -> Iterator[Two]:
    """The second release beside the first, as docs/install.md says."""
    places = [cluster.make_namespace(prefix) for prefix in ("first", "second", "nobodys", "team-system")]
    jobs = [Jobs(cluster, name) for name in places[:3]]
    for name in places[:3]:
        installed.admit(name)
    one = Two(*jobs, home=places[3])
    try:
        installed.upgrade(watchNamespaces=[one.first.namespace])
        installed.helm(
            "install", TEAM, str(CHART), "-n", one.home, "--wait", "--timeout", f"{READY_S}s",
            values=second_values(installed, one.second.namespace),
        )  # fmt: skip
        until("the second operator leads", lambda: leads(cluster, one.home), READY_S)
        yield one
    finally:
        if TEAM in installed.helm("list", "-n", one.home, "-a", "-q").split():
            installed.helm("uninstall", TEAM, "-n", one.home, "--wait")
        installed.upgrade()
        for name in places:
            cluster.delete_namespace(name)


def test_each_release_serves_its_own_namespaces_and_nobody_elses(two: Two) -> None:
    """Three jobs of one name: the operator of each namespace's release makes the pods, where there is one."""
    for jobs in (two.first, two.second, two.nobodys):
        jobs.create("mine", **SMALL, objectStore=None if jobs is two.second else STORE)
    for jobs, home in ((two.first, SYSTEM), (two.second, two.home)):
        jobs.until_phase("mine", "Succeeded")
        (pod,) = jobs.pods("mine")
        environment = {one["name"]: one.get("value", "") for one in pod["spec"]["containers"][0]["env"]}
        assert f".{home}.svc:" in environment["DLCLOUD_RENDEZVOUS_URL"]
    taken = two.second.status("mine")["objectStore"]
    assert taken["endpoint"] == f"http://dlcloud-s3.{SYSTEM}.svc:8333", "the release's own, by default"
    left = two.nobodys.get("mine")
    assert "status" not in left and two.nobodys.pods("mine") == []


def test_the_second_release_has_no_right_outside_its_namespaces(two: Two, cluster: Cluster) -> None:
    """Neither release of namespaces has a role in the whole cluster; what the second may do ends at its namespaces."""
    for kind in ("clusterroles", "clusterrolebindings"):
        for name in (TEAM, "dlcloud"):
            assert cluster.api.items(f"{RBAC}/{kind}", labelSelector=f"app.kubernetes.io/instance={name}") == []
    there = cluster.api.items(f"{RBAC}/rolebindings", labelSelector=f"app.kubernetes.io/instance={TEAM}")
    assert {one["metadata"]["namespace"] for one in there} == {two.home, two.second.namespace}

    who = f"system:serviceaccount:{two.home}:{OPERATOR}"

    def may(verb: str, what: str, *where: str) -> bool:
        answer = cluster.api.create(
            "/apis/authorization.k8s.io/v1/subjectaccessreviews", review(who, verb, what, *where)
        )
        return bool(answer["status"]["allowed"])

    assert may("create", "pods", two.second.namespace) and may("list", "trainingjobs", two.second.namespace)
    for namespace in (two.first.namespace, two.nobodys.namespace, SYSTEM, ""):
        for verb in ("list", "create", "delete"):
            assert not may(verb, "pods", namespace) and not may(verb, "trainingjobs", namespace), (verb, namespace)
    for namespace in (two.second.namespace, two.home, SYSTEM):
        assert not may("get", "secrets", namespace)
    assert not may("create", "pods", two.home)


def test_the_second_release_passes_its_own_test_and_leaves_the_first_alone_when_it_goes(
    two: Two, installed: Release, cluster: Cluster
) -> None:
    """`helm test`, then uninstall while jobs of both train: both train on, the definition and the first stay."""
    installed.helm("test", TEAM, "-n", two.home, "--timeout", f"{READY_S}s")
    for jobs in (two.first, two.second):
        jobs.create_long("stays", **SMALL, objectStore=STORE)
    before = [jobs.until_training("stays", steps=2) for jobs in (two.first, two.second)]
    leader = installed.wait_leading()["metadata"]["uid"]
    installed.helm("uninstall", TEAM, "-n", two.home, "--wait")
    # The CA stays for the workers that run, the pod of `helm test` because helm never removes hooks.
    kept = [f"{two.home}/{TEAM}-dlcloud-ca", f"{two.home}/{TEAM}-dlcloud-test"]
    until(f"nothing is left of it but {kept}", lambda: labelled(cluster, TEAM) == kept, 90)
    assert installed.wait_leading()["metadata"]["uid"] == leader

    two.first.until_training("stays", steps=before[0]["progress"]["step"] + 10)
    # Nobody tells of the second's progress now: its own log does, and its pod stays as it is.
    (pod,) = two.second.pods("stays")
    assert pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
    assert two.second.rank_pids(pod), "the rank trains on"
    two.second.delete("stays")
    two.second.until_gone("stays", limit_s=120)
    assert two.first.phase("stays") == "Running"
    two.first.until_clean("stays")
    evidence.note("release", name="second release uninstalled", left=kept)


KINDS = (
    "/api/v1/secrets",
    "/api/v1/services",
    "/api/v1/configmaps",
    "/api/v1/serviceaccounts",
    "/api/v1/pods",
    "/apis/apps/v1/deployments",
    f"{RBAC}/roles",
    f"{RBAC}/rolebindings",
)


def second_values(release: Release, namespace: str) -> Object:
    """Of a release for this namespace alone, whose jobs use the first one's store."""
    store = {"endpoint": f"http://dlcloud-s3.{SYSTEM}.svc:8333", "credentialsSecret": "dlcloud-s3"}
    values = release.values(watchNamespaces=[namespace], crds={"install": False}, objectStore=store)
    return {**values, "s3": {"enabled": False}}


def labelled(cluster: Cluster, release: str) -> list[str]:
    """namespace/name of what carries the label of a release, of the kinds that one is made of."""
    selector = f"app.kubernetes.io/instance={release}"
    found = [one["metadata"] for kind in KINDS for one in cluster.api.items(kind, labelSelector=selector)]
    return sorted(f"{one['namespace']}/{one['name']}" for one in found)


def leads(cluster: Cluster, home: str) -> bool:
    """Whether an operator of this namespace is ready and holds its lease."""
    pods = cluster.api.items(f"/api/v1/namespaces/{home}/pods", labelSelector="dlcloud.dev/leader=true")
    return any(is_ready(pod) for pod in pods)


def review(who: str, verb: str, what: str, namespace: str = "") -> Object:
    """A SubjectAccessReview."""
    group = "dlcloud.dev" if what == "trainingjobs" else ""
    attributes = {"verb": verb, "resource": what, "group": group, "namespace": namespace}
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": who, "groups": ["system:serviceaccounts"], "resourceAttributes": attributes},
    }
