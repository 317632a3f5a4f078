"""A manifest beside a cluster: is it accepted, are its pods, does what it names exist, do quota and nodes suffice.

May import this package and the engine's renderer. Everything is asked with dry runs: nothing is created.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from dlcloud_operator.api import API_VERSION, TrainingJob, TrainingJobSpec, TrainingJobStatus
from dlcloud_operator.core.model import JobKey, JobView

from ..jobs.kube import KubeApi
from ..jobs.kube_errors import PLURAL, KubeError, field_errors
from .findings import Finding, fail, ok, size_text, skip, warn
from .quantities import quantity
from .references import Reference

_KINDS = {
    "Secret": "secrets",
    "ConfigMap": "configmaps",
    "ServiceAccount": "serviceaccounts",
    "PersistentVolumeClaim": "persistentvolumeclaims",
}


def sample_spec() -> TrainingJobSpec:
    """A small job, to see whether pods of ours are accepted at all."""
    return TrainingJobSpec.model_validate({"workload": "cnn", "data": {"uri": "builtin://digits"}})


def accepted(api: KubeApi, namespace: str, job: TrainingJob) -> Finding:
    """What the API server says to the manifest."""
    manifest = job.to_json()
    manifest["metadata"] |= {"namespace": namespace}
    try:
        api.send("POST", f"/apis/{API_VERSION}/namespaces/{namespace}/{PLURAL}", manifest, dryRun="All")
    except KubeError as error:
        if error.status == 409:
            text = f"{job.metadata.name} exists already in namespace {namespace}"
            return warn(text, f"remove it (dlcloud rm {job.metadata.name}), or take another metadata.name")
        if error.status in (400, 422):
            lines = [f"{field}: {message}" for field, message in field_errors(error)] or [str(error)]
            return fail("; ".join(lines), "correct the manifest: dlcloud validate shows the places")
        if error.status == 403:
            return _denied(error)
        if error.status == 404:
            return skip("needs the definition and the namespace")
        raise
    return ok(f"{job.metadata.name} would be accepted")


def pods(api: KubeApi, namespace: str, spec: TrainingJobSpec) -> Finding:
    """What the API server says to a pod of the job: pod security, service account, priority class, quota, webhooks."""
    from dlcloud_operator.engine.render import PodRenderer, RenderSettings

    # A name of its own: one of the job's real pods may exist.
    key = JobKey(namespace, f"doctor-{secrets.token_hex(4)}")
    view = JobView(key, "00000000-0000-0000-0000-000000000000", "1", 1, datetime.now(UTC), TrainingJobStatus(), spec)
    pod = PodRenderer(RenderSettings("http://operator:8080")).render(view, 0, 1)
    pod["metadata"].pop("ownerReferences", None)  # the job does not exist, and need not for this
    try:
        api.send("POST", f"/api/v1/namespaces/{namespace}/pods", pod, dryRun="All")
    except KubeError as error:
        if error.status == 403 and 'cannot create resource "pods"' in error.said:
            return skip("you may not create pods, so the API server cannot be asked (the operator may)")
        if error.status == 403:
            return _denied(error)
        if error.status == 404:
            return skip("needs the namespace")
        if error.status in (400, 422):
            return fail(f"the API server refuses the pods: {error.said}", "correct spec.podTemplate or spec.scheduling")
        raise
    return ok("a worker's pod would be accepted (pod security, quota, service account)")


def objects(api: KubeApi, namespace: str, wanted: list[Reference]) -> Finding:
    """Whether they exist, with the keys they need."""
    if not wanted:
        return skip("the job names no Secret, ConfigMap or other object")
    problems, unseen, seen = [], [], []
    for one in wanted:
        label = f"{one.kind} {one.name} ({one.field})"
        try:
            found = api.get(f"/api/v1/namespaces/{namespace}/{_KINDS[one.kind]}/{one.name}")
        except KubeError as error:
            if error.status == 404:
                problems.append(f"{label} does not exist in namespace {namespace}")
            elif error.status == 403:
                unseen.append(label)
            else:
                raise
            continue
        missing = one.keys - (found.get("data") or {}).keys() - (found.get("binaryData") or {}).keys()
        if missing:
            problems.append(f"{label} has no {' and no '.join(sorted(missing))}")
        seen.append(label)
    if problems:
        return fail("; ".join(problems), "create what is missing before the job: its pods would wait for it")
    if unseen:
        return skip(f"you may not read {', '.join(unseen)}")
    return ok(f"{', '.join(seen)} there")


def needs(spec: TrainingJobSpec) -> dict[str, float]:
    """What one worker asks for, by resource."""
    workers = spec.workers
    need = {"cpu": quantity(workers.cpu), "memory": quantity(workers.memory)}
    return need | ({"nvidia.com/gpu": float(workers.gpus)} if workers.gpus else {})


def judge_quota(spec: TrainingJobSpec, quotas: list[Mapping[str, Any]]) -> Finding:
    """Whether the namespace's quotas leave room for all workers."""
    if not quotas:
        return ok("the namespace has none")
    count, one = spec.workers.count, needs(spec)
    short = []
    for item in quotas:
        status = item.get("status") or {}
        for name, hard in (status.get("hard") or {}).items():
            resource = name.removeprefix("requests.").removeprefix("limits.")
            wanted = count if name in ("pods", "count/pods") else count * one.get(resource, 0.0)
            left = quantity(hard) - quantity((status.get("used") or {}).get(name, "0"))
            if wanted > left + 1e-9:
                quota = item["metadata"]["name"]
                short.append(f"{name}: {_amount(resource, wanted)} wanted, {_amount(resource, left)} left of {quota}")
    if short:
        return fail("; ".join(short), "ask for fewer or smaller workers, or for a larger quota")
    return ok("enough is left for all workers")


def judge_fit(spec: TrainingJobSpec, nodes: list[Mapping[str, Any]]) -> Finding:
    """How many workers fit on the usable nodes were these empty."""
    one, count = needs(spec), spec.workers.count
    selector = spec.scheduling.node_selector
    fitting = 0
    for node in nodes:
        labels = node["metadata"].get("labels") or {}
        if any(labels.get(key) != value for key, value in selector.items()):
            continue
        has = (node.get("status") or {}).get("allocatable") or {}
        rooms = [quantity(has.get(name, "0")) / amount for name, amount in one.items() if amount]
        fitting += int(min([*rooms, quantity(has.get("pods", "110"))]) + 1e-9)
    asked = ", ".join(f"{_amount(name, amount)} {name}" for name, amount in one.items())
    if fitting < count:
        where = f" with {selector}" if selector else ""
        text = f"{fitting} of {count} workers ({asked} each) fit on the nodes{where}, even were these empty"
        return fail(text, "ask for fewer or smaller workers, or add nodes")
    return ok(f"{count} worker{'s' * (count != 1)} ({asked} each) fit on the nodes, were these empty")


def _denied(error: KubeError) -> Finding:
    if "violates PodSecurity" in error.said:
        text = error.said[error.said.index("violates PodSecurity") :]
        return fail(f"the namespace's pod security refuses the pods: {text}", "take it out of spec.podTemplate")
    if "exceeded quota" in error.said:
        return fail(error.said, "ask for less, or for a larger quota")
    return fail(error.said or str(error), "ask an administrator")


def _amount(resource: str, value: float) -> str:
    return size_text(value) if resource == "memory" else f"{value:g}"
