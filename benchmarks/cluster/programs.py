"""The same plain DDP program as a `script` TrainingJob and as a PyTorchJob: same image, same resources, same nodes.

May import the rigs. The program (benchmarks/peers/ddp_digits.py) notes CLOCK_MONOTONIC at each step, the same clock for
every container of a machine: what is measured with it needs nodes that are containers of this one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.jobs import STORE
from tests.rig.client import KubeError
from tests.rig.cluster import Cluster, KubectlError
from tests.rig.processes import until

PROGRAM = Path(__file__).parents[1] / "peers" / "ddp_digits.py"
WORLD = 2
LIMIT_S = 300.0
SETTLED_S = 12.0  # a script that dies within 10 s again and again is taken for broken
_RESOURCES = {"requests": {"cpu": "100m", "memory": "768Mi"}, "limits": {"cpu": "1", "memory": "768Mi"}}
_VOLUMES = [
    {"name": "program", "configMap": {"name": "ddp-digits"}},
    {"name": "state", "emptyDir": {}},
]
_MOUNTS = [{"name": "program", "mountPath": "/program"}, {"name": "state", "mountPath": "/state"}]
_ENVIRONMENT = [
    {"name": "CHECKPOINT", "value": "/state/checkpoint.pt"},
    {"name": "STEP_LOG", "value": "/state/steps"},
    {"name": "STEPS", "value": "1000000"},
    {"name": "OMP_NUM_THREADS", "value": "1"},
]
Object = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """`at` is CLOCK_MONOTONIC; `pod` the uid of the pod that made it."""

    number: int
    at: float
    pod: str


@dataclass(frozen=True)
class Kind:
    """How one side's jobs are made and found; `container` is what its programs run in."""

    name: str
    path: str
    label: str
    container: str
    image: str

    def manifest(self, job: str, namespace: str) -> Object:
        """The job, for two workers."""
        return (script_job if self.container == "trainer" else pytorch_job)(job, namespace, self.image)


def training_jobs(image: str) -> Kind:
    return Kind("dlcloud", "/apis/dlcloud.dev/v1/namespaces/{}/trainingjobs", "dlcloud.dev/job", "trainer", image)


def pytorch_jobs(image: str) -> Kind:
    label = "training.kubeflow.org/job-name"
    return Kind("Kubeflow", "/apis/kubeflow.org/v1/namespaces/{}/pytorchjobs", label, "pytorch", image)


def script_job(name: str, namespace: str, image: str) -> Object:
    container = {
        "name": "trainer", "resources": _RESOURCES, "volumeMounts": _MOUNTS, "env": _ENVIRONMENT,
    }  # fmt: skip
    return {
        "apiVersion": "dlcloud.dev/v1",
        "kind": "TrainingJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "script": {"command": ["python", "/program/ddp_digits.py"]},
            "workers": {"count": WORLD, "cpu": "1", "memory": "768Mi"},
            "objectStore": STORE,
            "podTemplate": {"spec": {"containers": [container], "volumes": _VOLUMES}},
        },
    }


def pytorch_job(name: str, namespace: str, image: str) -> Object:
    """A master and a worker, with the restart policy of Kubeflow's own examples; TORCHELASTIC_RESTART_COUNT is what the
    program notes and this operator does not set."""
    container = {
        "name": "pytorch",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "/program/ddp_digits.py"],
        "env": [*_ENVIRONMENT, {"name": "TORCHELASTIC_RESTART_COUNT", "value": "0"}],
        "resources": _RESOURCES,
        "volumeMounts": _MOUNTS,
    }
    spec = {"securityContext": {"fsGroup": 65532}, "containers": [container], "volumes": _VOLUMES}
    replicas = {"replicas": 1, "restartPolicy": "OnFailure", "template": {"spec": spec}}
    return {
        "apiVersion": "kubeflow.org/v1",
        "kind": "PyTorchJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"pytorchReplicaSpecs": {"Master": replicas, "Worker": replicas}},
    }


class Running:
    """A job that was created just now; `created_at` is CLOCK_MONOTONIC."""

    def __init__(self, cluster: Cluster, kind: Kind, name: str, namespace: str) -> None:
        self.cluster, self.kind, self.name, self.namespace = cluster, kind, name, namespace
        self.created_at = time.monotonic()
        cluster.api.create(kind.path.format(namespace), kind.manifest(name, namespace))

    def pods(self) -> list[Object]:
        """Its pods that are not being deleted, by name."""
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        found = self.cluster.api.items(path, labelSelector=f"{self.kind.label}={self.name}")
        there = [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]
        return sorted(there, key=lambda pod: str(pod["metadata"]["name"]))

    def steps(self, pod: Object) -> list[Step]:
        """What a pod's program noted so far; nothing where it does not run yet."""
        if pod["status"].get("phase") != "Running":
            return []
        try:
            told = self.cluster.kubectl(
                "exec", "-n", self.namespace, pod["metadata"]["name"], "-c", self.kind.container, "--",
                "sh", "-c", "cat /state/steps.*",
            )  # fmt: skip
        except KubectlError:
            return []
        fields = (line.split() for line in told.splitlines())
        uid = pod["metadata"]["uid"]
        return [Step(int(each[1]), float(each[2]), uid) for each in fields if len(each) == 5]

    def wait_steps(self, limit_s: float = LIMIT_S) -> list[Step]:
        """Each worker's first step. Raises RigError."""

        def look() -> list[Step] | None:
            pods = self.pods()
            firsts = [step for pod in pods for step in self.steps(pod)[:1]]
            return firsts if len(pods) == WORLD and len(firsts) == WORLD else None

        found: list[Step] = until(f"{self.name} makes steps", look, limit_s, poll_s=0.3)
        return found

    def wait_replaced(self, than: Sequence[Step], limit_s: float) -> Step:
        """The first step of a pod that made none of `than`: all ranks take part in it, whatever became of the other
        one's process (a container that starts again has the same pod and the same process id). Raises RigError."""
        known = {step.pod for step in than}

        def look() -> Step | None:
            fresh = [pod for pod in self.pods() if pod["metadata"]["uid"] not in known]
            return next((step for pod in fresh for step in self.steps(pod)), None)

        found: Step = until(f"{self.name}'s new pod makes a step", look, limit_s, poll_s=0.3)
        return found

    def delete_pod(self, pod: Object) -> float:
        """Delete it as `kubectl delete pod` does; when that was (CLOCK_MONOTONIC)."""
        at = time.monotonic()
        self.cluster.api.delete(f"/api/v1/namespaces/{self.namespace}/pods/{pod['metadata']['name']}")
        return at

    def remove(self) -> None:
        """Delete the job, and wait until its pods are gone."""
        body = {"propagationPolicy": "Background"}
        self.cluster.api.delete(f"{self.kind.path.format(self.namespace)}/{self.name}", body)
        path = f"/api/v1/namespaces/{self.namespace}/pods"
        label = f"{self.kind.label}={self.name}"
        try:
            self.cluster.api.delete(path, {"gracePeriodSeconds": 0}, labelSelector=label)
        except KubeError as error:
            if error.status != 404:
                raise
        until("its pods are gone", lambda: not self.cluster.api.items(path, labelSelector=label), LIMIT_S)


def put_program(cluster: Cluster, namespace: str) -> None:
    """The program as a ConfigMap."""
    body = {"metadata": {"name": "ddp-digits"}, "data": {PROGRAM.name: PROGRAM.read_text()}}
    cluster.api.create(f"/api/v1/namespaces/{namespace}/configmaps", body)
