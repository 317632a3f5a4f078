"""What is created: TrainingJobs, the peer's PyTorchJobs of the same shape, and bare pods.

Plain values; nothing is read from a server. Two pods each.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from dlcloud_operator.api import TrainingJobStatus
from dlcloud_operator.api.validation import parse_job
from dlcloud_operator.core.model import JobKey, JobView
from dlcloud_operator.engine.render import PodRenderer, RenderSettings

WORKERS = 2
NAMESPACE = "bench"
_RESOURCES = {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"cpu": "10m", "memory": "64Mi"}}
_RENDERER = PodRenderer(RenderSettings("https://dlcloud-rendezvous.dlcloud-system.svc:8443"))


def training_job(name: str, *, saves: bool = False) -> dict[str, Any]:
    """A job of the built-in cnn; `saves`: with checkpoints."""
    spec: dict[str, Any] = {
        "workload": "cnn",
        "parameters": {"epochs": 10},
        "data": {"uri": "builtin://digits"},
        "workers": {"count": WORKERS, "cpu": "10m", "memory": "64Mi"},
        "limits": {"start": "1h"},
    }
    if saves:
        spec["checkpoint"] = {"uri": "s3://checkpoints/", "everySeconds": 60}
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "dlcloud.dev/v1", "kind": "TrainingJob", "metadata": metadata, "spec": spec}


def pytorch_job(name: str) -> dict[str, Any]:
    """Kubeflow's: a master and a worker."""
    container = {"name": "pytorch", "image": "example.com/trainer:1", "command": ["python", "train.py"]}
    template = {"spec": {"containers": [{**container, "resources": _RESOURCES}]}}
    replicas = {"replicas": 1, "restartPolicy": "OnFailure", "template": template}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"pytorchReplicaSpecs": {"Master": replicas, "Worker": replicas}},
    }


def bare_pods(name: str) -> list[dict[str, Any]]:
    """The pods that the operator makes of such a job, without an owner."""
    manifest = training_job(name)
    job = JobView(
        JobKey(NAMESPACE, name), "uid", "1", 1, datetime.now(UTC), TrainingJobStatus(), parse_job(manifest).spec
    )
    pods = [dict(_RENDERER.render(job, index, 1)) for index in range(WORKERS)]
    for pod in pods:
        pod["metadata"] = {key: value for key, value in pod["metadata"].items() if key != "ownerReferences"}
    return pods
