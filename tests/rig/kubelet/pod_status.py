"""The status of a pod in a kubelet's words, as a patch. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

ADDRESS = "127.0.0.1"

Object = Mapping[str, Any]


@dataclass(frozen=True)
class End:
    """How the main container ended; `reason` and `message` are what the container runtime tells."""

    code: int
    at: datetime
    reason: str = ""
    message: str = ""

    @property
    def word(self) -> str:
        return self.reason or ("Completed" if self.code == 0 else "Error")


@dataclass(frozen=True)
class Look:
    """A pod as its node sees it: waiting, running since, or ended."""

    waiting: tuple[str, str] = ("ContainerCreating", "")
    running_since: datetime | None = None
    end: End | None = None

    @property
    def phase(self) -> str:
        if self.end is not None:
            return "Succeeded" if self.end.code == 0 else "Failed"
        return "Running" if self.running_since is not None else "Pending"


def status_patch(pod: Object, look: Look, started_at: datetime) -> dict[str, Any]:
    """A strategic merge patch of the status subresource; the uid makes it fail for a later pod of this name."""
    names = [container["name"] for container in pod["spec"]["containers"]]
    return {
        "metadata": {"uid": pod["metadata"]["uid"]},
        "status": {
            "phase": look.phase,
            "conditions": _conditions(look, started_at, names),
            "hostIP": ADDRESS,
            "hostIPs": [{"ip": ADDRESS}],
            "podIP": ADDRESS,
            "podIPs": [{"ip": ADDRESS}],
            "startTime": stamp(started_at),
            "qosClass": (pod.get("status") or {}).get("qosClass", "BestEffort"),
            "initContainerStatuses": [
                _container(one, _init_state(look, started_at), look.running_since is not None)
                for one in pod["spec"].get("initContainers", ())
            ],
            "containerStatuses": [
                _container(one, _state(look, started_at), look.phase == "Running") for one in pod["spec"]["containers"]
            ],
        },
    }


def stamp(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_stamp(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _conditions(look: Look, started_at: datetime, names: list[str]) -> list[dict[str, Any]]:
    ready, since = look.phase == "Running", look.running_since or started_at
    initialized = look.running_since is not None or look.end is not None
    found = [
        _condition("PodReadyToStartContainers", look.end is None, started_at),
        _condition("Initialized", initialized, since if initialized else started_at, "ContainersNotInitialized"),
    ]
    reason, message = "ContainersNotReady", f"containers with unready status: [{' '.join(names)}]"
    if look.end is not None:
        since, message = look.end.at, message if look.end.code else ""
        reason = "PodFailed" if look.end.code else "PodCompleted"
    return [*found, *(_condition(kind, ready, since, reason, message) for kind in ("Ready", "ContainersReady"))]


def _condition(kind: str, holds: bool, since: datetime, reason: str = "", message: str = "") -> dict[str, Any]:
    told: dict[str, Any] = {"type": kind, "status": str(holds), "lastTransitionTime": stamp(since)}
    # None removes what an earlier patch left behind.
    return told | {"reason": None if holds else reason or None, "message": None if holds else message or None}


def _container(container: Object, state: dict[str, Any], ready: bool) -> dict[str, Any]:
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": "",
        "ready": ready,
        "started": ready,
        "restartCount": 0,
        "state": {**dict.fromkeys(("waiting", "running", "terminated")), **state},
    }


def _state(look: Look, started_at: datetime) -> dict[str, Any]:
    if look.end is not None:
        return {"terminated": _terminated(look.end, look.running_since or started_at)}
    if look.running_since is not None:
        return {"running": {"startedAt": stamp(look.running_since)}}
    reason, message = look.waiting
    told = bool(message) and reason != "ContainerCreating"  # why a volume is missing, a kubelet tells by Events alone
    return {"waiting": {"reason": reason} | ({"message": message} if told else {})}


def _init_state(look: Look, started_at: datetime) -> dict[str, Any]:
    if look.running_since is not None:
        return {"terminated": _terminated(End(0, look.running_since), started_at)}
    return _state(look, started_at)


def _terminated(end: End, since: datetime) -> dict[str, Any]:
    told = {"exitCode": end.code, "reason": end.word, "startedAt": stamp(since), "finishedAt": stamp(end.at)}
    return told | ({"message": end.message[:4096]} if end.message else {})
