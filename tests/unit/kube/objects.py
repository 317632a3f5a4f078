"""Pods, jobs and events in the shape in which an API server gives them. Helper of the tests of this folder."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from dlcloud_operator.core.model import JobView
from dlcloud_operator.kube.jobs import JobReader

Json = dict[str, Any]

CREATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
_CONDITIONS = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")


def stamp(second: int = 0) -> str:
    """A time so many seconds after the pod's creation."""
    return f"2026-01-02T03:{4 + (5 + second) // 60:02d}:{(5 + second) % 60:02d}Z"


def condition(kind: str, status: str = "True", reason: str = "", message: str = "", second: int = 1) -> Json:
    given = {"type": kind, "status": status, "lastProbeTime": None, "lastTransitionTime": stamp(second)}
    return given | ({"reason": reason} if reason else {}) | ({"message": message} if message else {})


def container_status(state: Json, name: str = "trainer", **fields: Any) -> Json:
    return {
        "name": name,
        "image": "dlcloud-trainer:0.1.0",
        "imageID": "",
        "ready": "running" in state,
        "restartCount": 0,
        "started": "running" in state,
        "lastState": {},
        "state": state,
        **fields,
    }


def pod(phase: str = "Running", *, metadata: Json | None = None, spec: Json | None = None, **status: Any) -> Json:
    """Worker 0 of job `digits`, on node n1; its conditions are all true unless given."""
    resources = {"cpu": "1", "memory": "2Gi", "nvidia.com/gpu": "1"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "digits-0-1",
            "namespace": "default",
            "uid": "pod-uid",
            "resourceVersion": "7",
            "creationTimestamp": stamp(),
            "labels": {
                "app.kubernetes.io/name": "dlcloud-worker",
                "dlcloud.dev/job": "digits",
                "dlcloud.dev/index": "0",
                "dlcloud.dev/incarnation": "1",
            },
            **(metadata or {}),
        },
        "spec": {
            "nodeName": "n1",
            "restartPolicy": "Never",
            "containers": [
                {
                    "name": "trainer",
                    "image": "dlcloud-trainer:0.1.0",
                    "resources": {"requests": resources, "limits": resources},
                }
            ],
            **(spec or {}),
        },
        "status": {
            "phase": phase,
            "podIP": "10.0.0.7",
            "qosClass": "Guaranteed",
            "startTime": stamp(1),
            "conditions": [condition(kind) for kind in _CONDITIONS],
            "containerStatuses": [container_status({"running": {"startedAt": stamp(3)}})],
            **status,
        },
    }


def pending(scheduled: Json | None = None, **status: Any) -> Json:
    """A pod that has not started: with `scheduled` as the scheduler's condition it has no node."""
    if scheduled is not None:
        status = {"conditions": [scheduled], "containerStatuses": [], "podIP": "", **status}
        raw = pod("Pending", **status)
        del raw["spec"]["nodeName"], raw["status"]["containerStatuses"], raw["status"]["podIP"]
        return raw
    return pod("Pending", conditions=[condition("PodScheduled"), condition("Ready", "False")], **status)


def held_back(reason: str, message: str = "", **fields: Any) -> Json:
    """A placed pod whose trainer waits."""
    state = {"waiting": {"reason": reason} | ({"message": message} if message else {})}
    return pending(containerStatuses=[container_status(state, **fields)])


def ended(code: int, reason: str = "", message: str = "", second: int = 20) -> Json:
    return {
        "terminated": {
            "exitCode": code,
            "reason": reason or ("Completed" if code == 0 else "Error"),
            "startedAt": stamp(3),
            "finishedAt": stamp(second),
            "containerID": "containerd://x",
        }
        | ({"message": message} if message else {})
    }


def failed(code: int, reason: str = "", message: str = "", **status: Any) -> Json:
    phase = "Succeeded" if code == 0 else "Failed"
    return pod(phase, containerStatuses=[container_status(ended(code, reason, message))], **status)


def agents_words(outcome: str = "Error", code: int = 1, message: str = "ValueError: no such column") -> str:
    """A termination message as the agent writes it, 1 s after its rank ended."""
    result = {"round": 2, "rank": 0, "outcome": outcome, "exitCode": code, "endedAt": stamp(19), "message": message}
    return json.dumps(
        {"outcome": outcome, "exitCode": code, "message": message, "results": [result], "sentAt": stamp(20)}
    )


def job(spec: Json | None = None, *, metadata: Json | None = None, status: Json | None = None) -> Json:
    """A TrainingJob as the API server holds it, defaults filled in where they matter here."""
    return {
        "apiVersion": "dlcloud.dev/v1",
        "kind": "TrainingJob",
        "metadata": {
            "name": "digits",
            "namespace": "default",
            "uid": "job-uid",
            "resourceVersion": "12",
            "generation": 1,
            "creationTimestamp": stamp(),
            **(metadata or {}),
        },
        "spec": {
            "workload": "cnn",
            "data": {"uri": "builtin://digits"},
            "workers": {"count": 2, "gpus": 0, "cpu": "1", "memory": "2Gi"},
            **(spec or {}),
        },
        **({"status": status} if status is not None else {}),
    }


def job_view(**metadata: Any) -> JobView:
    return JobReader("dlcloud-system").read(job(metadata=metadata))
