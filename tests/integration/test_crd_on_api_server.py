"""A real API server takes the definition, and judges manifests as dlcloud's own validation does.

Needs kubectl and TEST_KUBECONFIG, the path of a kubeconfig whose user may create definitions and namespaces.
"""

from __future__ import annotations

import copy
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from dlcloud.manifest import load_manifest
from dlcloud_operator.api import TrainingJobSpec, TrainingJobStatus
from dlcloud_operator.api.validation import parse_spec
from dlcloud_operator.core.model import JobKey, JobView
from dlcloud_operator.engine.render import PodRenderer, RenderSettings

ROOT = Path(__file__).parents[2]
CASES: dict[str, Any] = yaml.safe_load((ROOT / "tests" / "data" / "trainingjob_cases.yaml").read_text(encoding="utf-8"))
RUNNING: dict[str, Any] = CASES["running"]
KUBECONFIG = os.environ.get("TEST_KUBECONFIG", "")

pytestmark = [
    pytest.mark.skipif(not KUBECONFIG, reason="TEST_KUBECONFIG names no cluster"),
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not on the PATH"),
]


def kubectl(*arguments: str, given: Any = None, fails: bool = False) -> str:
    """The output of kubectl; of a refused request what it says about that."""
    done = subprocess.run(
        ["kubectl", "--kubeconfig", KUBECONFIG, "--request-timeout=30s", *arguments],
        input=None if given is None else json.dumps(given),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stderr if fails else done.stdout


def over(base: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    result = copy.deepcopy(base)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = over(result[key], value)
        else:
            result[key] = value
    return result


@pytest.fixture(scope="module")
def namespace() -> Iterator[str]:
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "charts/templates/crd-trainingjobs.yaml"))
    kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd/trainingjobs.dlcloud.dev")
    name = f"dlcloud-crd-{secrets.token_hex(4)}"
    kubectl("create", "namespace", name)
    kubectl("label", "namespace", name, "pod-security.kubernetes.io/enforce=restricted")
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


def job(namespace: str, spec: dict[str, Any], name: str = "a") -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "dlcloud.dev/v1", "kind": "TrainingJob", "metadata": metadata, "spec": spec}


def create(given: dict[str, Any], fails: bool = False) -> str:
    return kubectl("create", "--dry-run=server", "--validate=strict", "-o", "json", "-f", "-", given=given, fails=fails)


@pytest.mark.parametrize("case", CASES["cases"], ids=lambda case: case["name"])
def test_a_case_is_judged_as_by_our_own_validation(namespace: str, case: dict[str, Any]) -> None:
    answer = create(job(namespace, over(CASES["base"], case["spec"])), fails="refused" in case)
    if "refused" in case:
        assert case["refused"] in answer
    else:
        spec, problems = parse_spec(json.loads(answer)["spec"])
        assert problems == ()
        own, _ = parse_spec(over(CASES["base"], case["spec"]))
        assert spec == own, "the server's defaults are ours"


@pytest.mark.parametrize("case", CASES["names"], ids=lambda case: case["name"])
def test_a_name_is_judged_as_by_our_own_validation(namespace: str, case: dict[str, Any]) -> None:
    answer = create(job(namespace, CASES["base"], case["name"]), fails=not case["accepted"])
    assert "metadata" in answer


@pytest.fixture
def running(namespace: str) -> Iterator[dict[str, Any]]:
    name = f"job-{secrets.token_hex(4)}"
    yield json.loads(kubectl("create", "-o", "json", "-f", "-", given=job(namespace, RUNNING, name)))
    kubectl("delete", "trainingjob", "-n", namespace, name, "--wait=false")


def set_phase(running: dict[str, Any], phase: str) -> None:
    where = ("-n", running["metadata"]["namespace"], running["metadata"]["name"])
    status = {"status": {"phase": phase, "workers": {"ready": 1, "text": "1/2"}, "selector": "dlcloud.dev/job=a"}}
    kubectl("patch", "trainingjob", *where, "--subresource=status", "--type=merge", "-p", json.dumps(status))


@pytest.mark.parametrize("case", CASES["changes"], ids=lambda case: case["name"])
def test_a_change_is_judged_as_by_our_own_validation(running: dict[str, Any], case: dict[str, Any]) -> None:
    if phase := case.get("phase", "Running"):
        set_phase(running, phase)
    where = ("-n", running["metadata"]["namespace"], running["metadata"]["name"])
    patch = json.dumps({"spec": case["spec"]})
    answer = kubectl("patch", "trainingjob", *where, "--type=merge", "-p", patch, fails="refused" in case)
    assert case.get("refused", "trainingjob") in answer


def test_a_column_shows_what_the_status_says(running: dict[str, Any]) -> None:
    set_phase(running, "Running")
    where = ("-n", running["metadata"]["namespace"], running["metadata"]["name"])
    head, row = kubectl("get", "tj", *where).splitlines()
    assert head.split() == ["NAME", "PHASE", "WORKERS", "EPOCH", "STEP", "LOSS", "RATE", "RESTARTS", "AGE"]
    assert row.split()[1:3] == ["Running", "1/2"]
    assert kubectl("get", "tj", *where, "-o", "wide").splitlines()[0].split()[-3:] == ["ETA", "CHECKPOINT", "MESSAGE"]


def test_scaling_obeys_the_rule_of_the_count(running: dict[str, Any]) -> None:
    where = ("-n", running["metadata"]["namespace"], running["metadata"]["name"])
    set_phase(running, "Running")
    assert "suspend: true" in kubectl("scale", "tj", *where, "--replicas=3", fails=True)
    set_phase(running, "Suspended")
    kubectl("scale", "tj", *where, "--replicas=3")
    assert json.loads(kubectl("get", "tj", *where, "-o", "json"))["spec"]["workers"]["count"] == 3


def test_a_number_that_is_none_is_refused_in_a_status(running: dict[str, Any]) -> None:
    where = ("-n", running["metadata"]["namespace"], running["metadata"]["name"])
    patch = '{"status": {"progress": {"loss": "NaN"}}}'
    answer = kubectl("patch", "tj", *where, "--subresource=status", "--type=merge", "-p", patch, fails=True)
    assert "status.progress.loss" in answer


@pytest.mark.parametrize("path", sorted((ROOT / "manifests").glob("*.yaml")), ids=lambda path: path.name)
def test_a_sample_and_its_pods_are_accepted_where_the_restricted_standard_rules(namespace: str, path: Path) -> None:
    kubectl("create", "--dry-run=server", "--validate=strict", "-n", namespace, "-f", str(path))
    accept_pod(namespace, load_manifest(path).spec)


def test_a_pod_with_everything_is_accepted_where_the_restricted_standard_rules(namespace: str) -> None:
    everything = next(case for case in CASES["cases"] if case["name"] == "everything set")
    spec = over(CASES["base"], everything["spec"])
    spec["scheduling"].pop("priorityClassName")  # must exist
    spec = over(spec, {"workload": None, "parameters": None, "script": {"image": "mine:1", "command": ["python"]}})
    accept_pod(namespace, TrainingJobSpec.model_validate(spec))


def accept_pod(namespace: str, spec: TrainingJobSpec) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    view = JobView(JobKey(namespace, "sample"), "uid-1", "1", 1, now, TrainingJobStatus(), spec)
    # Without a service account the namespace's default one must exist, which its controller makes a moment later.
    kubectl("wait", "--for=create", "serviceaccount/default", "-n", namespace, "--timeout=30s")
    answer = create(PodRenderer(RenderSettings("http://operator:8080")).render(view, 0, 1))
    assert json.loads(answer)["metadata"]["name"] == "sample-0-1"
