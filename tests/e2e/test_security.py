"""What dlcloud's pods may and may not do on a real cluster, and what they are refused."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..cluster.engine import ClusterError, find_engine
from ..cluster.image_builds import pip_settings
from ..cluster.place import Place
from ..rig.client import KubeClient, KubeError
from ..rig.cluster import RESTRICTED, Cluster
from ..rig.helm import CHART
from .faults import own_namespace
from .inside import claims
from .jobs import Jobs
from .release import HOME, NAME, OPERATOR, SYSTEM, Release
from .store import Store
from .survey import LONG, SCRIPT, Seen, survey

Object = dict[str, Any]
pytestmark = pytest.mark.timeout(900)  # the first test of the module waits for all that the others look at
INSTALL = CHART.parent / "docs" / "install.md"
# docs/install.md, "In its own namespace"
OWN_RIGHTS = {
    ("", "pods"): {"get", "list", "patch"},
    ("coordination.k8s.io", "leases"): {"create"},
    ("coordination.k8s.io", "leases/dlcloud-operator"): {"get", "update"},
}
WRITABLE = {"/tmp", "/dlcloud/scratch", "/dev/shm", "/dev/mqueue"}  # the last one is every container's


@pytest.fixture(scope="module")
def seen(
    cluster: Cluster, installed: Release, store: Store, turns: Path, namespaces_of_module: list[str], place: Place
) -> Iterator[Seen]:
    """A built-in job and a script with an image of its own; they are deleted when this returns."""
    with own_namespace(cluster, installed, store, turns, namespaces_of_module, alone=False) as jobs:
        found = survey(jobs, installed, place)
    yield found


# --- where pods run, and as whom ---


def test_pods_of_jobs_run_in_a_namespace_that_admits_no_privileged_ones(
    seen: Seen, kube: KubeClient, jobs: Jobs
) -> None:
    privileged = {"name": "a", "image": "a", "securityContext": {"privileged": True}}
    with pytest.raises(KubeError, match='violates PodSecurity "restricted'):
        kube.create(jobs.pods_path, {"metadata": {"name": "a"}, "spec": {"containers": [privileged]}}, dryRun="All")
    assert {pod["status"]["phase"] for pod in seen.pods.values()} == {"Running"}
    assert [one["name"] for one in seen.pods["script worker"]["spec"]["initContainers"]] == ["agent"]


def test_all_pods_of_the_release_are_admitted_where_the_restricted_standard_rules(
    release: Release, kube: KubeClient, namespace: str
) -> None:
    """Those that run, and those of its hooks and of its test, which are gone."""
    labels = kube.get(f"/api/v1/namespaces/{SYSTEM}")["metadata"]["labels"]
    assert labels.items() >= RESTRICTED.items()
    running = kube.items(f"/api/v1/namespaces/{SYSTEM}/pods", labelSelector=f"app.kubernetes.io/instance={NAME}")
    assert {OPERATOR, "dlcloud-s3"} <= {pod["metadata"]["labels"]["app.kubernetes.io/name"] for pod in running}
    hooks = [one for one in yaml.safe_load_all(release.helm("get", "hooks", NAME, "-n", HOME)) if one]
    made = [one if one["kind"] == "Pod" else one["spec"].get("template", {}) for one in hooks]
    specs = [one["spec"] for one in made if "containers" in one.get("spec", {})]
    assert len(specs) >= 2  # the buckets', and the test's
    for spec in [*specs, *(pod["spec"] for pod in running)]:
        fresh = {key: value for key, value in spec.items() if key not in ("nodeName", "serviceAccountName")}
        fresh["containers"] = [without_token(one) for one in spec["containers"]]
        body = {"metadata": {"generateName": "again-"}, "spec": {**fresh, "serviceAccount": None}}
        kube.create(f"/api/v1/namespaces/{namespace}/pods", body, dryRun="All")


def without_token(container: Object) -> Object:
    """The API server adds a mount of its own, which it would add twice."""
    mounts = [one for one in container.get("volumeMounts") or () if not one["name"].startswith("kube-api-access")]
    return {**container, "volumeMounts": mounts}


KINDS = ("built-in worker", "script worker", "operator")


@pytest.mark.parametrize("kind", KINDS)
def test_a_process_has_neither_root_nor_capabilities(seen: Seen, kind: str) -> None:
    there = seen.containers[kind]
    assert there["uid"] == [65532] and there["gid"] == [65532]
    assert set(there["capabilities"].values()) == {0}
    assert there["no_new_privileges"] == 1 and there["seccomp"] == 2


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_scratch_can_be_written(seen: Seen, kind: str) -> None:
    writable = set(seen.containers[kind]["writable"])
    assert writable <= WRITABLE
    assert ("/tmp" if kind == "operator" else "/dlcloud/scratch") in writable


# --- who may do what ---


@pytest.mark.parametrize("kind", ["built-in worker", "script worker"])
def test_a_worker_has_no_credentials_for_the_api_server(seen: Seen, kind: str) -> None:
    assert seen.containers[kind]["api_credentials"] == []
    assert seen.pods[kind]["spec"]["automountServiceAccountToken"] is False


def test_a_workers_token_is_of_its_pod_and_for_dlcloud_alone(seen: Seen) -> None:
    told, metadata = claims(seen.token), seen.pods["built-in worker"]["metadata"]
    assert told["aud"] == ["dlcloud"]
    assert told["kubernetes.io"]["pod"] == {"name": metadata["name"], "uid": metadata["uid"]}
    assert told["exp"] - told["iat"] <= 3700


def test_the_api_server_refuses_a_workers_token(seen: Seen) -> None:
    assert len(seen.from_api_server) == 5
    assert set(seen.from_api_server.values()) == {401}, seen.from_api_server


def test_the_rendezvous_takes_a_token_for_its_own_pod_alone(seen: Seen) -> None:
    answers = dict(seen.from_rendezvous)
    status, text = answers.pop("its own pod")
    assert status == 200 and json.loads(text)["job"]["name"] == LONG
    expected = dict.fromkeys(answers, 403) | {"no token": 401, "no such token": 401}
    assert {who: status for who, (status, _) in answers.items()} == expected
    assert "speaks for another pod" in answers["another job"][1]


def test_the_token_of_a_pod_that_is_gone_is_refused(seen: Seen) -> None:
    status, text = seen.from_rendezvous["a pod that is gone"]
    assert status == 403 and "no living pod" in text
    assert seen.from_rendezvous["its successor"][0] == 403


def documented_rights() -> dict[str, set[str]]:
    """docs/install.md's table: resource -> verbs."""
    text = INSTALL.read_text(encoding="utf-8")
    table = text.partition("| on | verbs |\n| --- | --- |\n")[2].partition("\n\n")[0]
    rows = [re.fullmatch(r"\| `(\S+)` \| ([a-z, ]+?)(?: \(.*\))? \|", line) for line in table.splitlines()]
    return {row[1]: set(row[2].split(", ")) for row in rows if row}


def rights(cluster: Cluster, account: str, namespace: str) -> dict[tuple[str, str], set[str]]:
    """What `kubectl auth can-i --list` asks for, as this service account of the operator's namespace."""
    api = KubeClient(cluster.kubeconfig_for_service_account(SYSTEM, account))
    try:
        review = {"spec": {"namespace": namespace}}
        status = api.create("/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", review)["status"]
    finally:
        api.close()
    assert not status["incomplete"], status
    found: dict[tuple[str, str], set[str]] = {}
    for rule in status["resourceRules"]:
        for group in rule.get("apiGroups") or [""]:
            for resource in rule.get("resources") or ():
                for name in rule.get("resourceNames") or [""]:
                    found.setdefault((group, f"{resource}/{name}" if name else resource), set()).update(rule["verbs"])
    for rule in status["nonResourceRules"]:
        for path in rule["nonResourceURLs"]:
            found.setdefault(("", path), set()).update(rule["verbs"])
    return found


@pytest.mark.parametrize("where", [SYSTEM, "default", "kube-system"])
def test_the_operator_may_do_what_is_documented_and_no_more(release: Release, cluster: Cluster, where: str) -> None:
    """Beside what every service account may."""
    anybodys = rights(cluster, "default", where)
    expected = {
        (group_of(resource), resource): set(verbs) for resource, verbs in documented_rights().items()
    }  # a copy: the namespace's own come on top
    assert len(expected) == 6
    for key, verbs in (OWN_RIGHTS if where == SYSTEM else {}).items():
        expected.setdefault(key, set()).update(verbs)
    for key, verbs in anybodys.items():
        expected.setdefault(key, set()).update(verbs)
    assert rights(cluster, OPERATOR, where) == expected


def group_of(resource: str) -> str:
    if resource.startswith("trainingjobs"):
        return "dlcloud.dev"
    return "networking.k8s.io" if resource == "networkpolicies" else ""


def test_the_documentation_names_its_rights_in_its_own_namespace() -> None:
    text = INSTALL.read_text(encoding="utf-8")
    assert "leases (create; get and update of its own), pods (get, list, patch: the leader's label)" in text


# --- secrets ---


def test_the_operator_tells_no_secret_and_has_none_in_its_environment(
    seen: Seen, release: Release, kube: KubeClient
) -> None:
    kept = [kube.get(f"/api/v1/namespaces/{SYSTEM}/secrets/{name}")["data"] for name in ("dlcloud-ca", "dlcloud-s3")]
    values = {decoded(value) for data in kept for key, value in data.items() if not key.endswith(".crt")}
    values |= {seen.token, seen.token.rpartition(".")[2]}
    lines = {line for value in values for line in value.splitlines() if len(line) > 12 and "-----" not in line}
    assert len(lines) >= 5
    told = seen.told + json.dumps(seen.containers["operator"]["environment"])
    assert "dlcloud_jobs" in told and seen.namespace in told  # it is what it should be
    assert [line[:4] + "..." for line in lines if line in told] == []
    environment = seen.pods["operator"]["spec"]["containers"][0]["env"]
    assert all("secretKeyRef" not in (one.get("valueFrom") or {}) for one in environment)


def decoded(value: str) -> str:
    return base64.b64decode(value).decode()


def test_a_worker_gets_the_stores_keys_of_its_job_and_a_script_without_a_store_none(seen: Seen) -> None:
    names = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    assert names <= set(seen.containers["built-in worker"]["environment"])
    assert not names & set(seen.containers["script worker"]["environment"])


@pytest.mark.parametrize("kind", KINDS)
def test_images_hold_no_credentials(seen: Seen, kind: str) -> None:
    assert seen.containers[kind]["suspect"] == []


@pytest.mark.parametrize("part", ["operator", "trainer"])
def test_an_image_says_what_it_is_and_nothing_of_where_it_was_built(place: Place, part: str) -> None:
    name = getattr(place.images, part)
    try:
        engine = place.engine or find_engine()
    except ClusterError as error:
        pytest.skip(str(error))
    if not engine.has_image(name):
        pytest.skip(f"{name} was not built on this machine")
    image = json.loads(engine.run("image", "inspect", name))[0]
    labels = image["Config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == f"dlcloud-{part}"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.version"] == name.rpartition(":")[2]
    assert image["Config"]["User"] == "65532:65532"
    text = json.dumps(image)
    assert [key for key, value in pip_settings().items() if value in text] == []
    assert not re.search(r"://[^/\s\"]+@", text)


# --- the network ---


def test_each_job_has_a_policy_that_lets_its_own_workers_in_and_nobody_else(seen: Seen) -> None:
    assert set(seen.policies) == {LONG, SCRIPT}
    for name, policy in seen.policies.items():
        workers = {"podSelector": {"matchLabels": {"dlcloud.dev/job": name}}}
        assert policy["spec"] == {**workers, "policyTypes": ["Ingress"], "ingress": [{"from": [workers]}]}
        owner = policy["metadata"]["ownerReferences"]
        assert [one["uid"] for one in owner] == [seen.jobs[name]["metadata"]["uid"]]
    labels = seen.pods["built-in worker"]["metadata"]["labels"]
    assert labels["dlcloud.dev/job"] == LONG


def test_the_bundled_store_lets_its_s3_port_be_reached_alone(release: Release, kube: KubeClient) -> None:
    spec = kube.get(f"/apis/networking.k8s.io/v1/namespaces/{SYSTEM}/networkpolicies/dlcloud-s3")["spec"]
    assert spec["policyTypes"] == ["Ingress"]
    assert spec["ingress"] == [{"ports": [{"port": 8333, "protocol": "TCP"}]}]


def test_workers_are_reached_by_their_job_alone(seen: Seen) -> None:
    assert seen.reached_by_peer
    if not seen.enforced:
        pytest.skip("the cluster's network does not enforce network policies: a pod that nobody may reach was reached")
    assert not seen.reached_by_stranger
