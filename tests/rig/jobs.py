"""Jobs of one namespace in the words of a test: make one, wait for its phase, look at its pods and events."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from .client import KubeError
from .cluster import Cluster
from .processes import RigError, until

JOBS = "/apis/dlcloud.dev/v1/namespaces/{}/trainingjobs"
FINISHED = ("Succeeded", "Failed")
SMALL: dict[str, Any] = {
    "workload": "cnn",
    "data": {"uri": "builtin://digits"},
    "workers": {"count": 2, "cpu": "10m", "memory": "64Mi"},
    "scheduling": {"nodeSelector": {"kubernetes.io/hostname": "played"}},
}

Object = dict[str, Any]


class Jobs:
    """The TrainingJobs of a namespace. `LIMIT_S` has slack for a machine with other work."""

    LIMIT_S = 30.0
    POLL_S = 0.05

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster, self.namespace, self.api = cluster, namespace, cluster.api
        self.path = JOBS.format(namespace)
        self.pods_path = f"/api/v1/namespaces/{namespace}/pods"

    def create(self, name: str, **spec: Any) -> Object:
        """A job of two small workers, with these keys of its spec changed (None: left out)."""
        merged = copy.deepcopy(SMALL)
        for key, value in spec.items():
            inner = merged.get(key)
            merged[key] = {**inner, **value} if isinstance(inner, dict) and isinstance(value, dict) else value
        merged = {key: value for key, value in merged.items() if value is not None}
        found: Object = self.api.create(self.path, manifest(name, merged))
        return found

    def get(self, name: str) -> Object:
        found: Object = self.api.get(f"{self.path}/{name}")
        return found

    def find(self, name: str) -> Object | None:
        found: Object | None = self.api.find(f"{self.path}/{name}")
        return found

    def status(self, name: str) -> Object:
        found: Object = self.get(name).get("status") or {}
        return found

    def phase(self, name: str) -> str:
        return str(self.status(name).get("phase") or "")

    def patch(self, name: str, **spec: Any) -> None:
        self.api.merge(f"{self.path}/{name}", {"spec": spec})

    def delete(self, name: str) -> None:
        self.api.delete(f"{self.path}/{name}", {"propagationPolicy": "Background"})

    def remove(self, job: str) -> None:
        """Delete the job, and its pods by force: the garbage collector may take half a minute to know of a new kind."""
        self.delete(job)
        self.api.delete(self.pods_path, {"gracePeriodSeconds": 0}, labelSelector=f"dlcloud.dev/job={job}")

    def pods(self, job: str) -> list[Object]:
        """The pods with the job's label, by name."""
        found = self.api.items(self.pods_path, labelSelector=f"dlcloud.dev/job={job}")
        return sorted(found, key=lambda pod: str(pod["metadata"]["name"]))

    def pod_names(self, job: str) -> list[str]:
        return [pod["metadata"]["name"] for pod in self.pods(job)]

    def condition(self, name: str, kind: str) -> Object:
        """A condition of the job; empty where it has none of this type."""
        return next((one for one in self.status(name).get("conditions") or () if one["type"] == kind), {})

    def events(self, name: str) -> list[Object]:
        """The Kubernetes Events on the job, oldest first."""
        selector = f"involvedObject.kind=TrainingJob,involvedObject.name={name}"
        found = self.api.items(f"/api/v1/namespaces/{self.namespace}/events", fieldSelector=selector)
        return sorted(found, key=lambda event: str(event["metadata"]["creationTimestamp"]))

    # --- waits ---

    def until(self, name: str, what: str, look: Callable[[Object], Any], limit_s: float | None = None) -> Any:
        """The first true answer of `look(status)`. Raises AssertionError with the job as it is."""

        def ask() -> Any:
            job = self.find(name)
            return None if job is None else look(job.get("status") or {})

        try:
            return until(what, ask, limit_s or self.LIMIT_S, poll_s=self.POLL_S)
        except (RigError, KubeError) as error:
            raise AssertionError(f"{name}: {error}\n{self.told(name)}") from None

    def until_pods_ended(self, name: str) -> None:
        """Until no pod of the job runs or waits any more."""
        over = ("Succeeded", "Failed")
        self.until(name, "its pods end", lambda _: all(pod["status"].get("phase") in over for pod in self.pods(name)))

    def until_phase(self, name: str, *phases: str, limit_s: float | None = None) -> Object:
        """The job's status once its phase is one of these."""

        def look(status: Object) -> Object | None:
            return status if status.get("phase") in phases else None

        found: Object = self.until(name, f"{name} is {' or '.join(phases)}", look, limit_s)
        return found

    def until_round(self, name: str, number: int = 1, limit_s: float | None = None) -> Object:
        """The job's round once it has reached `number`."""

        def look(status: Object) -> Object | None:
            found: Object | None = status.get("round")
            return found if found is not None and found["number"] >= number else None

        current: Object = self.until(name, f"{name} is in round {number}", look, limit_s)
        return current

    def until_gone(self, job: str, limit_s: float = 75.0) -> None:
        """The job and its pods are no more. The garbage collector looks for new kinds of objects only every 30 s."""
        try:
            until(f"{job} is gone", lambda: self.find(job) is None and not self.pods(job), limit_s, poll_s=self.POLL_S)
        except RigError as error:
            raise AssertionError(f"{error}\n{self.told(job)}") from None

    def told(self, name: str) -> str:
        """The job, its pods and events, for a failure's message."""
        job = self.find(name)
        status = {} if job is None else {k: v for k, v in (job.get("status") or {}).items() if k != "recovery"}
        pods = [
            (pod["metadata"]["name"], pod["status"].get("phase"), "deletionTimestamp" in pod["metadata"])
            for pod in self.pods(name)
        ]
        events = [f"{event['reason']}: {event['message']}" for event in self.events(name)]
        return (
            f"status: {json.dumps(status, indent=1)}\npods (name, phase, deleted): {pods}\nevents:\n  "
            + "\n  ".join(events)
        )


def manifest(name: str, spec: Object) -> Object:
    return {"apiVersion": "dlcloud.dev/v1", "kind": "TrainingJob", "metadata": {"name": name}, "spec": spec}


def settled(job: Object, pods: list[Object]) -> Object:
    """What is left of a job and its pods when times, uids, versions and its own name are taken out: to be compared."""
    name = job["metadata"]["name"]
    status = _without_times(job.get("status") or {})
    status.pop("progress", None)
    for failure in status.get("failures") or ():
        failure.pop("message", None)  # "was deleted" and "is gone" are both what can be seen of a lost pod
    if current := status.get("round"):
        status["round"] = {"number": current["number"], "worldSize": current["worldSize"]}
    kept = {"status": status, "pods": [(pod["metadata"]["name"], pod["status"]["phase"]) for pod in pods]}
    found: Object = json.loads(json.dumps(kept).replace(name, "JOB"))
    return found


_TIMES = {"lastTransitionTime", "startTime", "completionTime", "time", "startedAt", "endedAt", "lastEndedAt"}
_OWN = _TIMES | {"uid", "nonce", "port", "reportedAt", "countedAt", "observedGeneration", "suspects"}


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_times(inner) for key, inner in value.items() if key not in _OWN}
    return [_without_times(inner) for inner in value] if isinstance(value, list) else value
