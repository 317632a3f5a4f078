"""A real API server takes the definition, and judges manifests as dlcloud's own validation does."""

from __future__ import annotations

import copy
import secrets
from collections.abc import Callable, Iterator
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

from ..rig.client import KubeClient, KubeError
from ..rig.cluster import Cluster

ROOT = Path(__file__).parents[2]
CASES: dict[str, Any] = yaml.safe_load((ROOT / "tests" / "data" / "trainingjob_cases.yaml").read_text(encoding="utf-8"))
RUNNING: dict[str, Any] = CASES["running"]
JUDGED = {"dryRun": "All", "fieldValidation": "Strict"}  # as kubectl does it with --dry-run=server --validate=strict


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
def namespace(control_plane: Cluster) -> Iterator[str]:
    """One for all: nothing here minds what else is in it."""
    with control_plane.namespace("crd") as name:
        yield name


def jobs_path(namespace: str) -> str:
    return f"/apis/dlcloud.dev/v1/namespaces/{namespace}/trainingjobs"


def path_of(job: dict[str, Any]) -> str:
    return f"{jobs_path(job['metadata']['namespace'])}/{job['metadata']['name']}"


def refusal(request: Callable[[], Any]) -> str:
    """What the API server says about a request that it refuses."""
    with pytest.raises(KubeError) as refused:
        request()
    return refused.value.message


def job(namespace: str, spec: dict[str, Any], name: str = "a") -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "dlcloud.dev/v1", "kind": "TrainingJob", "metadata": metadata, "spec": spec}


@pytest.mark.parametrize("case", CASES["cases"], ids=lambda case: case["name"])
def test_a_case_is_judged_as_by_our_own_validation(kube: KubeClient, namespace: str, case: dict[str, Any]) -> None:
    def create() -> Any:
        return kube.create(jobs_path(namespace), job(namespace, over(CASES["base"], case["spec"])), **JUDGED)

    if "refused" in case:
        assert case["refused"] in refusal(create)
    else:
        spec, problems = parse_spec(create()["spec"])
        assert problems == ()
        own, _ = parse_spec(over(CASES["base"], case["spec"]))
        assert spec == own, "the server's defaults are ours"


@pytest.mark.parametrize("case", CASES["names"], ids=lambda case: case["name"])
def test_a_name_is_judged_as_by_our_own_validation(kube: KubeClient, namespace: str, case: dict[str, Any]) -> None:
    def create() -> Any:
        return kube.create(jobs_path(namespace), job(namespace, CASES["base"], case["name"]), **JUDGED)

    if case["accepted"]:
        assert create()["metadata"]["name"] == case["name"]
    else:
        assert "metadata" in refusal(create)


@pytest.fixture
def running(kube: KubeClient, namespace: str) -> dict[str, Any]:
    """A job that exists."""
    made: dict[str, Any] = kube.create(jobs_path(namespace), job(namespace, RUNNING, f"job-{secrets.token_hex(4)}"))
    return made


def set_phase(kube: KubeClient, running: dict[str, Any], phase: str) -> None:
    status = {"phase": phase, "workers": {"ready": 1, "text": "1/2"}, "selector": "dlcloud.dev/job=a"}
    kube.merge(f"{path_of(running)}/status", {"status": status})


@pytest.mark.parametrize("case", CASES["changes"], ids=lambda case: case["name"])
def test_a_change_is_judged_as_by_our_own_validation(
    kube: KubeClient, running: dict[str, Any], case: dict[str, Any]
) -> None:
    if phase := case.get("phase", "Running"):
        set_phase(kube, running, phase)

    def change() -> Any:
        return kube.merge(path_of(running), {"spec": case["spec"]})

    if "refused" in case:
        assert case["refused"] in refusal(change)
    else:
        assert change()["metadata"]["uid"] == running["metadata"]["uid"]


def test_a_column_shows_what_the_status_says(
    kube: KubeClient, kubectl: Callable[..., str], running: dict[str, Any]
) -> None:
    set_phase(kube, running, "Running")
    where = ("-n", running["metadata"]["namespace"], running["metadata"]["name"])
    head, row = kubectl("get", "tj", *where).splitlines()
    assert head.split() == ["NAME", "PHASE", "WORKERS", "EPOCH", "STEP", "LOSS", "RATE", "RESTARTS", "AGE"]
    assert row.split()[1:3] == ["Running", "1/2"]
    assert kubectl("get", "tj", *where, "-o", "wide").splitlines()[0].split()[-3:] == ["ETA", "CHECKPOINT", "MESSAGE"]


def test_scaling_obeys_the_rule_of_the_count(
    kube: KubeClient, kubectl: Callable[..., str], running: dict[str, Any]
) -> None:
    where = ("-n", running["metadata"]["namespace"], running["metadata"]["name"])
    set_phase(kube, running, "Running")
    assert "suspend: true" in kubectl("scale", "tj", *where, "--replicas=3", fails=True)
    set_phase(kube, running, "Suspended")
    kubectl("scale", "tj", *where, "--replicas=3")
    assert kube.get(path_of(running))["spec"]["workers"]["count"] == 3


def test_a_number_that_is_none_is_refused_in_a_status(kube: KubeClient, running: dict[str, Any]) -> None:
    patch = {"status": {"progress": {"loss": "NaN"}}}
    assert "status.progress.loss" in refusal(lambda: kube.merge(f"{path_of(running)}/status", patch))


@pytest.mark.parametrize("path", sorted((ROOT / "manifests").glob("*.yaml")), ids=lambda path: path.name)
def test_a_sample_and_its_pods_are_accepted_where_the_restricted_standard_rules(
    kube: KubeClient, kubectl: Callable[..., str], namespace: str, path: Path
) -> None:
    kubectl("create", "--dry-run=server", "--validate=strict", "-n", namespace, "-f", str(path))
    accept_pod(kube, namespace, load_manifest(path).spec)


def test_a_pod_with_everything_is_accepted_where_the_restricted_standard_rules(
    kube: KubeClient, namespace: str
) -> None:
    everything = next(case for case in CASES["cases"] if case["name"] == "everything set")
    spec = over(CASES["base"], everything["spec"])
    spec["scheduling"].pop("priorityClassName")  # must exist
    spec = over(spec, {"workload": None, "parameters": None, "script": {"image": "mine:1", "command": ["python"]}})
    accept_pod(kube, namespace, TrainingJobSpec.model_validate(spec))


def accept_pod(kube: KubeClient, namespace: str, spec: TrainingJobSpec) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    view = JobView(JobKey(namespace, "sample"), "uid-1", "1", 1, now, TrainingJobStatus(), spec)
    pod = PodRenderer(RenderSettings("http://operator:8080")).render(view, 0, 1)
    assert kube.create(f"/api/v1/namespaces/{namespace}/pods", pod, **JUDGED)["metadata"]["name"] == "sample-0-1"
