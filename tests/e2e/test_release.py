"""The life of a release, as a user leads it: installed, tested, upgraded and uninstalled under a job, installed again.

One story in one turn: each stage is a fixture, which the tests look at. Afterwards the release is as it was.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..rig.helm import CHART
from . import evidence
from .jobs import Jobs
from .lifecycle import (
    CRD,
    KEPT,
    Training,
    install,
    objects_of_dlcloud,
    operator_uids,
    own_jobs,
    secrets,
    store_pod,
    uninstall,
)
from .release import DEFINITION, HOME, NAME, OPERATOR, READY_S, SYSTEM, Release, is_ready
from .store import BUCKET, Store
from .turns import turn
from .waiting import until

pytestmark = [pytest.mark.alone, pytest.mark.timeout(1500)]
LONG = {"parameters": {"epochs": 1000}}
# Deleted while there is no store, it would try for a minute to save.
ONE = {"workers": {"count": 1}, "limits": {"drain": "10s"}}


@dataclass(frozen=True)
class Stage:
    """One moment of the story: what helm said, how long it took, and the job that trained all the while."""

    release: Release
    said: str = ""
    seconds: float = 0.0
    training: Training | None = None
    at: float = 0.0

    @property
    def job(self) -> Training:
        assert self.training is not None
        return self.training


@pytest.fixture(scope="module", autouse=True)
def own_turn(installed: Release, turns: Path) -> Iterator[None]:
    """One turn for all tests of the module, in place of one for each."""
    with turn(turns, alone=True):
        yield


@pytest.fixture(scope="module")
def fresh(own_turn: None, installed: Release) -> Iterator[Stage]:
    """`helm install dlcloud charts/` in a cluster without, with no value but the images."""
    try:
        uninstall(installed)
        said, seconds = install(installed)
        yield Stage(installed, said, seconds)
    finally:
        wanted = json.loads(json.dumps(installed.values()))
        if installed.state != "deployed" or user_values(installed) != wanted or installed.leader() is None:
            installed.upgrade()


@pytest.fixture(scope="module")
def jobs(fresh: Stage, namespaces_of_module: list[str]) -> Iterator[Jobs]:
    with own_jobs(fresh.release, "release", namespaces_of_module) as made:
        yield made


@pytest.fixture(scope="module")
def upgraded(fresh: Stage, jobs: Jobs) -> Stage:
    """`helm upgrade` with another value of the operator, while a job of two workers and one of one train."""
    jobs.create_long("stays", **LONG)
    jobs.create_long("goes", **LONG, **ONE)
    training = Training.now(jobs, "stays")
    Training.now(jobs, "goes")
    release = fresh.release
    before = Before(secrets(release), operator_uids(release), str((store_pod(release) or {})["metadata"]["uid"]))
    began = time.monotonic()
    release.helm(
        "upgrade", NAME, str(CHART), "-n", HOME, "--reset-then-reuse-values", "--set", "log.level=debug",
        "--wait", "--timeout", f"{READY_S}s",
    )  # fmt: skip
    release.wait_leading()
    seconds = round(time.monotonic() - began, 1)
    training.goes_on()
    after = Before(secrets(release), operator_uids(release), str((store_pod(release) or {})["metadata"]["uid"]))
    assert after.secrets == before.secrets, "the CA and the keys stay"
    assert not after.operators & before.operators, "another value is another operator"
    assert after.store == before.store, "the store is not restarted by what is the operator's"
    return Stage(release, "", seconds, training)


@dataclass(frozen=True)
class Before:
    secrets: dict[str, dict[str, str]]
    operators: set[str]
    store: str


@pytest.fixture(scope="module")
def uninstalled(upgraded: Stage) -> Stage:
    """`helm uninstall` while both jobs train."""
    training = Training.now(upgraded.job.jobs, "stays")
    began = time.monotonic()
    uninstall(upgraded.release)
    return Stage(upgraded.release, "", round(time.monotonic() - began, 1), training, time.time())


def user_values(release: Release) -> object:
    """What the release was installed with."""
    return json.loads(release.helm("get", "values", NAME, "-n", HOME, "-o", "json"))


# --- installed ---


def test_an_installation_is_ready_and_its_notes_name_the_next_commands(fresh: Stage, store: Store) -> None:
    """Pods ready, buckets made, the namespace made and restricted."""
    told = [line.strip() for line in fresh.said.splitlines() if line.startswith("  ")]
    assert told[:3] == [
        f"kubectl rollout status -n {SYSTEM} deployment/{OPERATOR}",
        f"kubectl apply -n {HOME} -f manifests/cnn-digits.yaml",
        f"kubectl get tj -n {HOME} -w",
    ]
    assert f"`helm test {NAME} -n {HOME}`" in fresh.said
    assert "image.repository is still" not in fresh.said, "the images were given"
    assert all(is_ready(pod) for pod in fresh.release.operator_pods()) and is_ready(store_pod(fresh.release))
    assert {bucket for bucket in (BUCKET, "datasets") if store.client().bucket_exists(bucket)} == {BUCKET, "datasets"}
    labels = fresh.release.api.get(f"/api/v1/namespaces/{SYSTEM}")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    hooks = fresh.release.api.items(f"/apis/batch/v1/namespaces/{SYSTEM}/jobs")
    assert hooks == [], "a hook that succeeded leaves nothing"
    evidence.note("release", name="helm install until an operator leads", seconds=fresh.seconds)


def test_the_release_passes_its_own_test(fresh: Stage) -> None:
    began = time.monotonic()
    fresh.release.helm("test", NAME, "-n", HOME, "--timeout", "180s")
    seconds = round(time.monotonic() - began, 1)
    said = fresh.release.api.text(f"/api/v1/namespaces/{SYSTEM}/pods/dlcloud-test/log")
    assert re.findall(r"^(.+): ok$", said, re.MULTILINE) == ["operator", "rendezvous", "object store"], said
    evidence.note("release", name="helm test", seconds=seconds)


def test_the_doctor_finds_nothing_in_the_way(fresh: Stage, jobs: Jobs, tmp_path: Path) -> None:
    """From outside, as a user of a namespace whose jobs use the bundled store."""
    command = [sys.executable, "-m", "dlcloud.main", "doctor", "-o", "json", "--limit", "60"]
    command += ["--kubeconfig", str(fresh.release.cluster.kubeconfig), "-n", jobs.namespace]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert done.returncode == 0 and {check["state"] for check in checks.values()} == {"ok"}, done.stdout
    assert checks["operator"]["message"] == f"{SYSTEM}/{OPERATOR} is available"
    assert {"crd", "rights", "nodes", "namespace", "pods"} <= set(checks)


# --- upgraded ---


def test_an_upgrade_leaves_a_running_job_alone(upgraded: Stage) -> None:
    """Same pods, same round, later steps and checkpoints; the new operator knows its values. The rest: its fixture."""
    status = upgraded.job.goes_on()
    deployment = upgraded.release.api.get(f"/apis/apps/v1/namespaces/{SYSTEM}/deployments/{OPERATOR}")
    assert "--log-level=debug" in deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    messages = [status.get("message") or ""]
    evidence.note("release", name="helm upgrade, another value", seconds=upgraded.seconds, messages=messages)


# --- uninstalled ---


def test_nothing_but_what_is_documented_stays_of_an_uninstalled_release(uninstalled: Stage) -> None:
    assert objects_of_dlcloud(uninstalled.release.cluster) == {
        ("CustomResourceDefinition", "", CRD),
        ("Namespace", "", SYSTEM),
        *(("Secret", SYSTEM, name) for name in KEPT),
        ("PersistentVolumeClaim", SYSTEM, "data-dlcloud-s3-0"),
        ("Lease", SYSTEM, OPERATOR),
        ("Pod", SYSTEM, "dlcloud-test"),
    }
    evidence.note("release", name="helm uninstall", seconds=uninstalled.seconds)


def test_a_job_can_be_deleted_without_an_operator(uninstalled: Stage) -> None:
    """`kubectl delete tj` returns, and its pods are collected."""
    jobs = uninstalled.job.jobs
    jobs.cluster.kubectl("delete", "tj", "-n", jobs.namespace, "goes", "--timeout=25s")
    jobs.until_gone("goes", limit_s=180)


def test_a_running_job_trains_on_without_the_release_and_is_taken_up_by_the_next(
    uninstalled: Stage, store: Store
) -> None:
    """No operator, no store: it computes all the same. Its records of that time are written when there is a store."""
    release, training = uninstalled.release, uninstalled.job
    training.trains_without_being_asked()
    assert release.api.find(DEFINITION) is not None
    kept, back_at = secrets(release), time.time()
    said, seconds = install(release)
    assert "deployed" in said and secrets(release) == kept

    status = training.goes_on(limit_s=300)
    made = [one for one in store.steps("stays", training.jobs) if uninstalled.at < one["at"] < back_at]
    assert made, "steps of the time without a release are in the records"
    until("no failure is told", lambda: not training.jobs.status("stays").get("failures"), 5)
    evidence.note(
        "release", name="installed again under a job", seconds=seconds, stepsMeanwhile=len(made),
        state=training.jobs.phase("stays"), messages=[status.get("message") or ""],
    )  # fmt: skip
    training.jobs.until_clean("stays")
