"""A release on a real API server, as a user makes it: installed, upgraded, uninstalled, installed again.

There is no kubelet: nothing is waited for, and hooks do not run.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from ...rig.control_plane import ControlPlane
from ...rig.helm import HelmError
from ...rig.processes import until
from .helm import CHART, Object, helm

SYSTEM = "/api/v1/namespaces/dlcloud-system"
DEFINITION = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/trainingjobs.dlcloud.dev"
CA, KEYS, JOB_KEYS = (
    f"{SYSTEM}/secrets/dlcloud-ca",
    f"{SYSTEM}/secrets/dlcloud-s3",
    "/api/v1/namespaces/default/secrets/dlcloud-s3",
)
STORE = "/apis/apps/v1/namespaces/dlcloud-system/statefulsets/dlcloud-s3"
OPERATOR = "/apis/apps/v1/namespaces/dlcloud-system/deployments/dlcloud-operator"
JOB = "/apis/dlcloud.dev/v1/namespaces/default/trainingjobs"


@dataclass
class Stage:
    """The cluster at one moment of the release's life; `before` holds what was there one stage earlier."""

    plane: ControlPlane
    said: str
    before: dict[str, Object]

    def get(self, path: str) -> Any:
        return self.plane.api.find(path)

    def helm(self, *arguments: str, **values: Any) -> str:
        return helm(*arguments, values=values or None, kubeconfig=self.plane.kubeconfig)

    def seen(self, *paths: str) -> dict[str, Object]:
        return {path: self.get(path) for path in paths}


@pytest.fixture(scope="module")
def installed(make_control_plane: Callable[..., ControlPlane]) -> Stage:
    """`helm install dlcloud charts/`, the values as they are."""
    plane = make_control_plane(definition=False, scheduler=False)
    stage = Stage(plane, "", {})
    until("the default service account", lambda: stage.get("/api/v1/namespaces/default/serviceaccounts/default"), 60)
    stage.said = stage.helm("install", "dlcloud", str(CHART), "--no-hooks")
    until("the release has pods", lambda: pods_of(stage, "dlcloud-operator") and pods_of(stage, "dlcloud-s3"), 60)
    plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd/trainingjobs.dlcloud.dev")
    return stage


@pytest.fixture(scope="module")
def upgraded(installed: Stage) -> Stage:
    """With other values; the definition is an older one before."""
    before = installed.seen(CA, KEYS, JOB_KEYS, STORE, OPERATOR)
    sample = (CHART.parent / "manifests" / "cnn-digits.yaml").read_text()
    installed.plane.kubectl("apply", "-f", "-", given=sample)
    [version] = installed.get(DEFINITION)["spec"]["versions"]
    version["additionalPrinterColumns"] = version["additionalPrinterColumns"][:1]
    installed.plane.api.merge(DEFINITION, {"spec": {"versions": [version]}})
    said = installed.helm("upgrade", "dlcloud", str(CHART), "--no-hooks", **OTHER)
    return Stage(installed.plane, said, before)


OTHER = {
    "replicas": 2,
    "log": {"level": "debug"},
    "s3": {"jobNamespaces": ["default", "kube-public"]},
    "resources": {"limits": {"memory": "1Gi"}},
}


@pytest.fixture(scope="module")
def uninstalled(upgraded: Stage) -> Stage:
    before = upgraded.seen(CA, KEYS, f"{JOB}/cnn-digits")
    stage = Stage(upgraded.plane, upgraded.helm("uninstall", "dlcloud", "--no-hooks"), before)
    until("the operator's end", lambda: stage.get(OPERATOR) is None, 60)
    return stage


@pytest.fixture(scope="module")
def installed_again(uninstalled: Stage) -> Stage:
    said = uninstalled.helm("install", "dlcloud", str(CHART), "--no-hooks")
    return Stage(uninstalled.plane, said, uninstalled.before)


def pods_of(stage: Stage, name: str) -> list[Object]:
    return list(stage.plane.api.items(f"{SYSTEM}/pods", labelSelector=f"app.kubernetes.io/name={name}"))


# --- installed ---


def test_the_notes_name_the_next_three_commands(installed: Stage) -> None:
    lines = [line.strip() for line in installed.said.splitlines() if line.startswith("  ")]
    assert lines[:3] == [
        "kubectl rollout status -n dlcloud-system deployment/dlcloud-operator",
        "kubectl apply -n default -f manifests/cnn-digits.yaml",
        "kubectl get tj -n default -w",
    ]


def test_the_release_gets_a_namespace_where_the_restricted_standard_rules(installed: Stage) -> None:
    labels = installed.get(SYSTEM)["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


def test_its_pods_are_made_there(installed: Stage) -> None:
    assert [pod["spec"]["serviceAccountName"] for pod in pods_of(installed, "dlcloud-operator")] == ["dlcloud-operator"]
    assert len(pods_of(installed, "dlcloud-s3")) == 1


def test_jobs_get_the_stores_keys_and_not_the_administrators(installed: Stage) -> None:
    keys, jobs = installed.get(KEYS)["data"], installed.get(JOB_KEYS)["data"]
    assert jobs == {name: keys[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    assert set(jobs.values()).isdisjoint({keys["ADMIN_ACCESS_KEY_ID"], keys["ADMIN_SECRET_ACCESS_KEY"]})


@pytest.mark.parametrize(
    ("verb", "group", "resource", "where", "allowed"),
    [
        ("create", "", "pods", "anywhere", True),
        ("list", "dlcloud.dev", "trainingjobs", "", True),
        ("get", "", "secrets", "anywhere", False),
        ("get", "", "secrets", "dlcloud-system", False),
        ("create", "rbac.authorization.k8s.io", "rolebindings", "anywhere", False),
        ("create", "", "pods/exec", "anywhere", False),
        ("delete", "", "events", "anywhere", False),
        ("patch", "", "pods", "anywhere", False),
        ("patch", "", "pods", "dlcloud-system", True),
        ("create", "coordination.k8s.io", "leases", "dlcloud-system", True),
        ("create", "coordination.k8s.io", "leases", "kube-system", False),
        ("create", "authentication.k8s.io", "tokenreviews", "", False),
        ("update", "dlcloud.dev", "trainingjobs", "anywhere", False),
    ],
)
def test_the_api_server_grants_the_operator(
    installed: Stage, verb: str, group: str, resource: str, where: str, allowed: bool
) -> None:
    name, _, below = resource.partition("/")
    asked = {"verb": verb, "group": group, "resource": name, "subresource": below, "namespace": where}
    spec = {"user": "system:serviceaccount:dlcloud-system:dlcloud-operator", "resourceAttributes": asked}
    groups = ["system:serviceaccounts", "system:serviceaccounts:dlcloud-system", "system:authenticated"]
    review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec | {"groups": groups}}
    answer = installed.plane.api.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    assert answer["status"]["allowed"] is allowed


def test_who_may_edit_a_namespace_may_create_jobs_in_it(installed: Stage) -> None:
    def aggregated() -> bool:
        role = installed.get("/apis/rbac.authorization.k8s.io/v1/clusterroles/edit")
        return any(rule.get("resources") == ["trainingjobs"] and "create" in rule["verbs"] for rule in role["rules"])

    until("the role edit has TrainingJobs", aggregated, 30)


def test_the_doctor_finds_the_operator(installed: Stage) -> None:
    command = [
        sys.executable,
        "-m",
        "dlcloud.main",
        "doctor",
        "--kubeconfig",
        str(installed.plane.kubeconfig),
        "-o",
        "json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, check=False)
    [found] = [check for check in json.loads(done.stdout)["checks"] if check["name"] == "operator"]
    assert "dlcloud-operator" in found["message"]


def test_a_second_release_lives_beside_the_first(installed: Stage) -> None:
    values = {"crds": {"install": False}, "s3": {"enabled": False}}
    installed.helm("install", "dlcloud", str(CHART), "--no-hooks", "-n", "second", "--create-namespace", **values)
    assert installed.get("/apis/apps/v1/namespaces/second/deployments/dlcloud-operator") is not None
    assert installed.get(OPERATOR) is not None
    installed.helm("uninstall", "dlcloud", "--no-hooks", "-n", "second")
    assert installed.get(DEFINITION) is not None


def test_a_namespace_of_jobs_that_does_not_exist_is_named(installed: Stage) -> None:
    values = {"crds": {"install": False}, "s3": {"jobNamespaces": ["nowhere"]}}
    with pytest.raises(HelmError, match='namespaces "nowhere" not found'):
        installed.helm("install", "dlcloud", str(CHART), "--no-hooks", "-n", "third", "--create-namespace", **values)
    installed.helm("uninstall", "dlcloud", "--no-hooks", "-n", "third")


# --- upgraded ---


@pytest.mark.parametrize("path", [CA, KEYS, JOB_KEYS], ids=["CA", "keys", "the jobs' keys"])
def test_an_upgrade_leaves_secrets_as_they_were(upgraded: Stage, path: str) -> None:
    assert upgraded.get(path)["data"] == upgraded.before[path]["data"]


def test_an_upgrade_does_not_restart_the_store(upgraded: Stage) -> None:
    assert upgraded.get(STORE)["metadata"]["generation"] == upgraded.before[STORE]["metadata"]["generation"]


def test_an_upgrade_brings_the_operators_new_values(upgraded: Stage) -> None:
    found = upgraded.get(OPERATOR)["spec"]
    assert found["replicas"] == 2
    assert "--log-level=debug" in found["template"]["spec"]["containers"][0]["args"]


def test_an_upgrade_brings_the_definition_up_to_date(upgraded: Stage) -> None:
    [version] = upgraded.get(DEFINITION)["spec"]["versions"]
    assert len(version["additionalPrinterColumns"]) > 1


def test_a_namespace_of_jobs_may_be_added_later(upgraded: Stage) -> None:
    added = upgraded.get("/api/v1/namespaces/kube-public/secrets/dlcloud-s3")
    assert added["data"] == upgraded.get(JOB_KEYS)["data"]


# --- uninstalled, and installed again ---


def test_the_definition_and_the_jobs_stay_when_the_release_goes(uninstalled: Stage) -> None:
    assert uninstalled.get(DEFINITION) is not None
    job = uninstalled.get(f"{JOB}/cnn-digits")
    assert job["metadata"]["uid"] == uninstalled.before[f"{JOB}/cnn-digits"]["metadata"]["uid"]


def test_what_running_workers_hold_stays_when_the_release_goes(uninstalled: Stage) -> None:
    for path in (CA, KEYS):
        assert uninstalled.get(path)["data"] == uninstalled.before[path]["data"]


def test_nothing_else_stays(uninstalled: Stage) -> None:
    plane = uninstalled.plane
    kinds = "deploy,sts,svc,cm,sa,role,rolebinding,netpol,pdb,secret,clusterrole,clusterrolebinding"
    listed = json.loads(plane.kubectl("get", kinds, "-A", "-l", "app.kubernetes.io/part-of=dlcloud", "-o", "json"))
    assert {(o["kind"], o["metadata"]["name"]) for o in listed["items"]} == {
        ("Secret", "dlcloud-ca"),
        ("Secret", "dlcloud-s3"),
    }


@pytest.mark.parametrize("path", [CA, KEYS], ids=["CA", "keys"])
def test_a_new_release_takes_up_what_the_old_one_left(installed_again: Stage, path: str) -> None:
    assert installed_again.get(path)["data"] == installed_again.before[path]["data"]
    assert installed_again.get(OPERATOR) is not None
