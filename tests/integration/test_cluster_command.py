"""The commands on a real API server: as processes, with a kubeconfig, as the user of a cluster runs them.

No operator runs there: where one would write a status, the tests do.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dlcloud.jobs.cluster import ClusterJobs
from dlcloud.jobs.errors import JobsError
from dlcloud.objects import Access, _client
from dlcloud_operator.api import TrainingJob

from ..rig.client import KubeClient
from ..rig.cluster import Cluster
from ..rig.fixtures import MakeControlPlane
from ..rig.processes import until
from .conftest import S3Server

CRD = "trainingjobs.dlcloud.dev"
LIMIT_S = 60


@pytest.fixture(scope="module", autouse=True)
def kubeconfig(control_plane: Cluster) -> Iterator[Path]:
    """The administrator's, where the commands look for one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(control_plane.kubeconfig))
        yield control_plane.kubeconfig


def dlcloud(*arguments: str, kubeconfig: Path | None = None, code: int = 0, **environ: str) -> str:
    """What a command prints: its output when it succeeds, else what it says about that."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    done = subprocess.run(
        [sys.executable, "-m", "dlcloud", *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
        stdin=subprocess.DEVNULL,
        env=own | ({"KUBECONFIG": str(kubeconfig)} if kubeconfig else {}) | environ,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stdout + done.stderr


@pytest.fixture(scope="module")
def namespace(control_plane: Cluster) -> Iterator[str]:
    """One for all: the jobs in it have names of their own."""
    with control_plane.namespace("cli") as name:
        yield name


def job_path(namespace: str, name: str) -> str:
    return f"/apis/dlcloud.dev/v1/namespaces/{namespace}/trainingjobs/{name}"


def manifest(folder: Path, name: str, **spec: Any) -> str:
    document = {
        "apiVersion": "dlcloud.dev/v1",
        "kind": "TrainingJob",
        "metadata": {"name": name},
        "spec": {"workload": "cnn", "data": {"uri": "builtin://digits"}, **spec},
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(document))
    return str(file)


@pytest.fixture
def job(kube: KubeClient, namespace: str, tmp_path: Path) -> str:
    """A job that exists; its name."""
    name = f"job-{secrets.token_hex(4)}"
    document = yaml.safe_load(Path(manifest(tmp_path, name)).read_text())
    kube.create(f"/apis/dlcloud.dev/v1/namespaces/{namespace}/trainingjobs", document)
    return name


def listed(namespace: str) -> dict[str, Any]:
    items = json.loads(dlcloud("ls", "-n", namespace, "-o", "json"))["items"]
    return {item["metadata"]["name"]: item for item in items}


def set_phase(kube: KubeClient, namespace: str, name: str, phase: str, **status: Any) -> None:
    kube.merge(f"{job_path(namespace, name)}/status", {"status": {"phase": phase, **status}})


# --- the life of a job ---


def test_a_job_is_created_listed_described_and_removed(kube: KubeClient, namespace: str, tmp_path: Path) -> None:
    job = f"job-{secrets.token_hex(4)}"
    dlcloud("run", "--detach", "-n", namespace, manifest(tmp_path, job))
    assert listed(namespace)[job]["spec"]["workload"] == "cnn"
    set_phase(kube, namespace, job, "Running", message="step 7", workers={"desired": 1, "ready": 1, "text": "1/1"})
    line = next(line for line in dlcloud("ls", "-n", namespace).splitlines() if line.startswith(job))
    assert line.split()[1] == "Running"
    assert "step 7" in dlcloud("describe", "-n", namespace, job)
    assert job in dlcloud("ls", "-A")
    dlcloud("rm", "-n", namespace, job, "--yes", "--force")
    assert job not in listed(namespace)


def test_a_job_that_exists_is_not_created_again(namespace: str, job: str, tmp_path: Path) -> None:
    said = dlcloud("run", "--detach", "-n", namespace, manifest(tmp_path, job), code=1)
    assert f"{job}: exists already in namespace {namespace}" in said


def test_a_name_nobody_has_gets_the_nearest(namespace: str, job: str) -> None:
    said = dlcloud("describe", "-n", namespace, f"{job}x", code=2)
    assert f"did you mean {job}" in said  # another job of a random name may be near, too


def test_a_local_run_of_the_name_is_hinted_at(namespace: str, tmp_path: Path) -> None:
    (tmp_path / "runs" / "mine-20260102-030405").mkdir(parents=True)
    said = dlcloud("describe", "-n", namespace, "mine", code=2, DLCLOUD_HOME=str(tmp_path))
    assert "there is a local run of this name: add --local" in said


def test_suspend_waits_for_the_operator_and_resume_takes_it_back(kube: KubeClient, namespace: str, job: str) -> None:
    set_phase(kube, namespace, job, "Running")

    def operator() -> None:
        until("it is suspended", lambda: kube.get(job_path(namespace, job))["spec"]["suspend"], LIMIT_S)
        set_phase(kube, namespace, job, "Suspended")

    thread = threading.Thread(target=operator)
    thread.start()
    said = dlcloud("suspend", "-n", namespace, job, "--timeout", "50")
    thread.join()
    assert f"{job} is Suspended" in said
    assert listed(namespace)[job]["spec"]["suspend"] is True
    dlcloud("resume", "-n", namespace, job, "--detach")
    assert listed(namespace)[job]["spec"]["suspend"] is False


def test_a_suspension_that_nobody_serves_is_told_with_what_still_holds(namespace: str, job: str) -> None:
    said = dlcloud("suspend", "-n", namespace, job, "--timeout", "1", code=1)
    assert "spec.suspend is set" in said
    assert "tells whether an operator is there" in said


def test_a_namespace_that_is_not_there_is_said(tmp_path: Path) -> None:
    said = dlcloud("run", "--detach", "-n", "nowhere-at-all", manifest(tmp_path, "a"), code=1)
    assert "namespace nowhere-at-all does not exist; make it: kubectl create namespace nowhere-at-all" in said


def test_what_the_api_server_refuses_is_told_field_by_field(kubeconfig: Path, namespace: str) -> None:
    document = {"workload": "cnn", "data": {"uri": "builtin://digits"}, "workers": {"count": 2}}
    wrong = TrainingJob.model_validate({"metadata": {"name": "wrong"}, "spec": document})
    workers = wrong.spec.workers.model_copy(update={"count": 5000, "cpu": "0"})
    wrong = wrong.model_copy(update={"spec": wrong.spec.model_copy(update={"workers": workers})})
    with pytest.raises(JobsError) as caught:
        ClusterJobs(kubeconfig=kubeconfig, namespace=namespace).create(wrong)
    lines = str(caught.value).splitlines()
    assert lines[0] == "wrong: the API server refuses it:"
    assert any(line.startswith("  spec.workers.count: ") and "1024" in line for line in lines)


def test_events_are_those_of_this_job_oldest_first(
    kube: KubeClient, kubeconfig: Path, namespace: str, job: str
) -> None:
    source = ClusterJobs(kubeconfig=kubeconfig, namespace=namespace)
    record = source.find(job)
    for number, uid in ((2, record.job.uid), (1, record.job.uid), (3, "of-an-earlier-job")):
        at = f"2026-01-02T03:04:0{number}Z"
        event = {
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": f"{job}.{number}", "namespace": namespace},
            "involvedObject": {"kind": "TrainingJob", "name": job, "namespace": namespace, "uid": uid},
            "reason": f"R{number}", "message": "m", "type": "Normal", "firstTimestamp": at, "lastTimestamp": at,
        }  # fmt: skip
        kube.create(f"/api/v1/namespaces/{namespace}/events", event)
    assert [event.reason for event in source.events(record)] == ["R1", "R2"]


# --- rights ---


@pytest.fixture(scope="module")
def reader(control_plane: Cluster, namespace: str) -> Path:
    """A kubeconfig of a user who may only get and list jobs of the namespace."""
    rule = {"apiGroups": ["dlcloud.dev"], "resources": ["trainingjobs"], "verbs": ["get", "list"]}
    control_plane.make_service_account(namespace, "reader", [rule])
    return control_plane.kubeconfig_for_service_account(namespace, "reader")


def test_a_user_who_may_only_read_reads_and_is_told_what_else_he_may_not(
    namespace: str, job: str, reader: Path, tmp_path: Path
) -> None:
    assert job in dlcloud("ls", "-n", namespace, kubeconfig=reader)
    said = dlcloud("run", "--detach", "-n", namespace, manifest(tmp_path, "a"), kubeconfig=reader, code=1)
    assert f"create trainingjobs in namespace {namespace} (403)" in said
    assert "verbs ['create']" in said
    said = dlcloud("ls", "-n", "kube-system", kubeconfig=reader, code=1)
    assert "list trainingjobs in namespace kube-system (403)" in said


def test_credentials_that_are_refused_are_no_secret_told(control_plane: Cluster, namespace: str) -> None:
    expired = control_plane.kubeconfig_with({"token": "expired-t0ken"})
    said = dlcloud("ls", "-n", namespace, kubeconfig=expired, code=3)
    assert "does not accept the credentials of user" in said
    assert "expired-t0ken" not in said


# --- the store of a job ---


@pytest.fixture
def stored(kube: KubeClient, namespace: str, tmp_path: Path, s3_server: S3Server) -> tuple[str, str, Access]:
    """A job whose keys are in a Secret, with two objects below its prefix: its name, the bucket, an access."""
    name, bucket = f"job-{secrets.token_hex(4)}", s3_server.make_bucket()
    keys = {"AWS_ACCESS_KEY_ID": s3_server.access_key, "AWS_SECRET_ACCESS_KEY": s3_server.secret_key}
    secret = {"metadata": {"name": name}, "stringData": keys}
    kube.create(f"/api/v1/namespaces/{namespace}/secrets", secret)
    store = {"endpoint": s3_server.endpoint, "credentialsSecret": name}
    file = manifest(tmp_path, name, checkpoint={"uri": f"s3://{bucket}/base/"}, objectStore=store)
    document = yaml.safe_load(Path(file).read_text())
    kube.create(f"/apis/dlcloud.dev/v1/namespaces/{namespace}/trainingjobs", document)
    return name, bucket, Access(s3_server.endpoint, s3_server.access_key, s3_server.secret_key)


def put(access: Access, bucket: str, key: str) -> None:
    import io

    _client(access).put_object(bucket, key, io.BytesIO(b"data"), 4)


def test_removing_a_job_with_its_objects_leaves_those_of_others(
    namespace: str, stored: tuple[str, str, Access]
) -> None:
    name, bucket, access = stored
    uid = listed(namespace)[name]["metadata"]["uid"]
    for key in ("head.json", "attempts/000001-a/00000.bin"):
        put(access, bucket, f"base/{namespace}/{name}/{uid}/{key}")
    put(access, bucket, f"base/{namespace}/{name}/another-uid/head.json")
    said = dlcloud("rm", "-n", namespace, name, "--objects", "--yes", "--force")
    left = [found.object_name for found in _client(access).list_objects(bucket, recursive=True)]
    assert left == [f"base/{namespace}/{name}/another-uid/head.json"]
    assert "2 objects removed" in said
    assert access.secret_key not in said


def test_without_a_way_to_the_objects_the_job_stays(
    kube: KubeClient, namespace: str, stored: tuple[str, str, Access], reader: Path
) -> None:
    name, _, access = stored
    kube.merge(f"/api/v1/namespaces/{namespace}/secrets/{name}", {"data": {"AWS_SECRET_ACCESS_KEY": None}})
    said = dlcloud("rm", "-n", namespace, name, "--objects", "--yes", "--force", code=1)
    assert f"Secret {name} of namespace {namespace}: has no AWS_SECRET_ACCESS_KEY" in said
    assert "export AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in said
    assert name in listed(namespace)
    source = ClusterJobs(
        kubeconfig=reader,
        namespace=namespace,
        environ={"AWS_ACCESS_KEY_ID": "own", "AWS_SECRET_ACCESS_KEY": "mine"},
    )
    with source.access(source.find(name)) as found:
        assert found is not None
        assert (found.access_key, found.endpoint) == ("own", access.endpoint), (
            "who may not read the Secret gives his own"
        )


def test_an_endpoint_of_the_clusters_own_dns_says_how_to_reach_it(namespace: str, tmp_path: Path) -> None:
    name = f"job-{secrets.token_hex(4)}"
    store = {"endpoint": "http://minio.storage.svc.cluster.local:9000", "credentialsSecret": "s3"}
    file = manifest(tmp_path, name, checkpoint={"uri": "s3://bucket/"}, objectStore=store)
    dlcloud("run", "--detach", "-n", namespace, file)
    said = dlcloud("rm", "-n", namespace, name, "--objects", "--yes", "--force", code=1)
    assert "kubectl port-forward -n storage svc/minio 9000:9000" in said


def test_what_is_behind_a_name_of_the_jobs_namespace_is_what_can_be_forwarded(
    kube: KubeClient, namespace: str, tmp_path: Path
) -> None:
    name = f"job-{secrets.token_hex(4)}"
    spec = {"type": "ExternalName", "externalName": "minio.storage.svc.cluster.local"}
    kube.create(f"/api/v1/namespaces/{namespace}/services", {"metadata": {"name": "our-store"}, "spec": spec})
    store = {"endpoint": "http://our-store:9000", "credentialsSecret": "s3"}
    file = manifest(tmp_path, name, checkpoint={"uri": "s3://bucket/"}, objectStore=store)
    dlcloud("run", "--detach", "-n", namespace, file)
    said = dlcloud("rm", "-n", namespace, name, "--objects", "--yes", "--force", code=1)
    assert "the name our-store does not resolve" in said
    assert "kubectl port-forward -n storage svc/minio 9000:9000" in said


# --- doctor ---


def examined(*arguments: str, code: int, kubeconfig: Path | None = None) -> dict[str, dict[str, Any]]:
    """The doctor's findings by name."""
    text = dlcloud("doctor", "-o", "json", "--limit", "60", *arguments, kubeconfig=kubeconfig, code=code)
    return {check["name"]: check for check in json.loads(text)["checks"]}


def test_the_doctor_finds_a_cluster_fit_for_a_job(
    kube: KubeClient, namespace: str, stored: tuple[str, str, Access], tmp_path: Path
) -> None:
    name, bucket, access = stored
    store = {"endpoint": access.endpoint, "credentialsSecret": name}
    file = manifest(tmp_path, "fit", checkpoint={"uri": f"s3://{bucket}/fit/"}, objectStore=store)
    found = examined("-n", namespace, file, code=0 if kube.items("/api/v1/nodes") else 1)
    states = {check: finding["state"] for check, finding in found.items()}
    fine = {"kubeconfig", "api-server", "crd", "rights", "namespace", "pods", "manifest", "objects", "quota"}
    fine |= {"s3-server", "checkpoints", "data"}
    assert {check: states[check] for check in fine} == dict.fromkeys(fine, "ok"), found
    assert states["operator"] in ("warn", "ok")
    assert list(_client(access).list_objects(bucket, prefix="fit/", recursive=True)) == [], "nothing is left behind"


def test_the_doctor_says_which_rights_are_missing(namespace: str, reader: Path) -> None:
    found = examined("-n", namespace, kubeconfig=reader, code=1)
    rights = found["rights"]
    assert rights["state"] == "fail"
    assert (
        "may not create trainingjobs, watch trainingjobs, patch trainingjobs, delete trainingjobs" in rights["message"]
    )
    assert (found["nodes"]["state"], found["pods"]["state"]) == ("skip", "skip")


def test_the_doctor_sees_what_the_pods_would_wait_for(kube: KubeClient, namespace: str, tmp_path: Path) -> None:
    quotas = f"/api/v1/namespaces/{namespace}/resourcequotas"
    kube.create(quotas, {"metadata": {"name": "small"}, "spec": {"hard": {"requests.cpu": "1500m"}}})
    until("the quota is counted", lambda: kube.get(f"{quotas}/small")["status"].get("hard"), LIMIT_S)
    pod = {"spec": {"containers": [{"name": "trainer", "securityContext": {"runAsUser": 0, "runAsNonRoot": False}}]}}
    store = {"endpoint": "http://127.0.0.1:1", "credentialsSecret": "nobody-made-it"}
    file = manifest(
        tmp_path,
        "large",
        workers={"count": 2},
        objectStore=store,
        podTemplate=pod,
        checkpoint={"uri": "s3://bucket/c/"},
    )
    try:
        found = examined("-n", namespace, file, code=1)
    finally:
        kube.delete(f"{quotas}/small")
    assert "Secret nobody-made-it (spec.objectStore.credentialsSecret) does not exist" in found["objects"]["message"]
    assert "requests.cpu: 2 wanted, 1.5 left of small" in found["quota"]["message"]
    assert "runAsNonRoot" in found["pods"]["message"]
    assert {found[name]["state"] for name in ("objects", "quota", "pods")} == {"fail"}


def test_the_doctor_says_when_the_definition_is_not_installed(make_control_plane: MakeControlPlane) -> None:
    plane = make_control_plane(definition=False, controller_manager=False, scheduler=False)
    found = examined(code=1, kubeconfig=plane.kubeconfig)
    said = dlcloud("ls", kubeconfig=plane.kubeconfig, code=1)
    plane.stop()
    assert found["crd"]["state"] == "fail"
    assert "python3 -m dlcloud_operator.api.crd --out - | kubectl apply" in found["crd"]["remedy"]
    assert f"the CRD {CRD} is not installed" in said


def test_a_secrets_keys_never_show(namespace: str, stored: tuple[str, str, Access]) -> None:
    name, _, access = stored
    for command in (("describe", name), ("ls", "-o", "yaml"), ("checkpoints", "ls", name)):
        said = dlcloud(*command, "-n", namespace)
        assert access.secret_key not in said
        assert base64.b64encode(access.secret_key.encode()).decode() not in said
