"""Pods as the API server gives them become the core's views of them.

May import core, api, the engine's reading of objects and `waiting`. Pure and cheap: it runs for every event of a pod.
Whatever an object holds, nothing raises here. The operator may not read nodes: their loss is told by what the node
controller writes into the pods.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from dlcloud_operator.api import LABEL_INCARNATION, LABEL_INDEX, LABEL_JOB
from dlcloud_operator.core.model import PodExit, PodPhase, PodView
from dlcloud_operator.engine.reading import EPOCH, last_words, mapping, number, text, time_of

from .waiting import conditions_of, maps, one_line, waiting_of

TRAINER = "trainer"
_PHASES = {phase.value: phase for phase in PodPhase}
_OVER = frozenset({PodPhase.SUCCEEDED, PodPhase.FAILED})
_TAKEN = frozenset({"Evicted", "Preempting", "Preempted", "Shutdown", "NodeShutdown", "Terminated"})
_NODE_GONE = frozenset({"NodeLost", "DeletionByPodGC"})
# What runtimes say when the image has no python3; the agent needs it.
_NO_PROGRAM = ("executable file not found", "no such file or directory")


def read_pod(raw: Mapping[str, Any], seen_at: datetime | None = None) -> PodView | None:
    """A worker's pod; None for one that is no worker's. Times of a node's clock are kept between the pod's creation and
    `seen_at`, the operator's time of reading."""
    metadata = mapping(mapping(raw).get("metadata"))
    labels = mapping(metadata.get("labels"))
    index, incarnation = _label_number(labels.get(LABEL_INDEX)), _label_number(labels.get(LABEL_INCARNATION))
    name, uid = text(metadata.get("name")), text(metadata.get("uid"))
    if index is None or incarnation is None or not text(labels.get(LABEL_JOB)) or not name or not uid:
        return None
    status = mapping(raw.get("status"))
    created_at = time_of(metadata.get("creationTimestamp")) or EPOCH
    phase = _PHASES.get(text(status.get("phase")), PodPhase.PENDING)
    trainer = _trainer_state(status)
    end = None
    lingers = False
    if phase in _OVER or "terminated" in trainer:
        end = _end_of(status, trainer, created_at, seen_at)
        if phase not in _OVER:  # a dead agent is a dead pod, whatever podTemplate has running beside it
            phase, lingers = (PodPhase.SUCCEEDED if end.exit_code == 0 else PodPhase.FAILED), True
    conditions = conditions_of(status)
    disruption = conditions.get("DisruptionTarget", {})
    disrupted = text(disruption.get("reason")) if disruption.get("status") == "True" else None
    reason = text(status.get("reason"))
    node_lost = reason in _NODE_GONE or disrupted in _NODE_GONE or (end is None and _marked_not_ready(raw, conditions))
    waits = waiting_of(raw) if phase is PodPhase.PENDING else None
    started_at = time_of(mapping(trainer.get("running") or trainer.get("terminated")).get("startedAt"))
    return PodView(
        name=name,
        uid=uid,
        index=index,
        incarnation=incarnation,
        phase=phase,
        created_at=created_at,
        deleting=bool(metadata.get("deletionTimestamp")),
        ip=text(status.get("podIP")),
        node=text(mapping(raw.get("spec")).get("nodeName")),
        node_lost=node_lost,
        preempted=not node_lost and (disrupted is not None or reason in _TAKEN),
        waiting=waits.words if waits else "",
        exit=end,
        running_since=None if started_at is None else _between(created_at, started_at, seen_at),
        waiting_reason=waits.reason if waits else "",
        lingers=lingers,
    )


def _label_number(value: Any) -> int | None:
    """A label the operator wrote: digits, as it writes them."""
    if not isinstance(value, str) or not value.isascii() or not value.isdigit() or len(value) > 9:
        return None
    return int(value)


def _trainer_state(status: Mapping[str, Any]) -> Mapping[str, Any]:
    for one in maps(status.get("containerStatuses")):
        if one.get("name") == TRAINER:
            return mapping(one.get("state"))
    return {}


def _marked_not_ready(raw: Mapping[str, Any], conditions: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the node controller marked the pod because its node is silent.

    It sets Ready to False and touches nothing else (MarkPodsNotReady); a kubelet that says so itself says
    ContainersReady False as well, or names readiness gates, and it takes the mark back once its node speaks again.
    """
    ready = conditions.get("Ready", {})
    if ready.get("status") != "False" or text(ready.get("reason")):
        return False
    if mapping(raw.get("spec")).get("readinessGates"):
        return False
    return conditions.get("ContainersReady", {}).get("status") == "True"


def _end_of(
    status: Mapping[str, Any], trainer: Mapping[str, Any], created_at: datetime, seen_at: datetime | None
) -> PodExit:
    """How the pod ended: its trainer, else the init container that failed, else what was said of the pod itself."""
    pod_reason, pod_words = text(status.get("reason")), one_line(text(status.get("message")), 1024)
    ended, prefix = mapping(trainer.get("terminated")), ""
    if not ended:
        ended, prefix = _failed_init(status)
    at = _between(created_at, time_of(ended.get("finishedAt")) or _last_change(status) or created_at, seen_at)
    words, results = last_words(text(ended.get("message")), at)
    code, reason = number(ended.get("exitCode")), text(ended.get("reason"))
    if reason in ("StartError", "ContainerCannotRun"):
        words = _start_words(words)
    # The kubelet's reason for the pod says why its containers had to end.
    reason = pod_reason or reason
    words = "; ".join(part for part in (prefix + words if ended else "", pod_words) if part)
    return PodExit(at, code, reason[:128], words, results)


def _failed_init(status: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    for one in maps(status.get("initContainerStatuses")):
        ended = mapping(mapping(one.get("state")).get("terminated"))
        code = number(ended.get("exitCode"))
        if code:
            return ended, f"init container {text(one.get('name'))} ended with exit code {code}: "
    return {}, ""


def _start_words(words: str) -> str:
    if "python3" in words and any(sign in words for sign in _NO_PROGRAM):
        return f"the image has no python3, which every worker needs (3.9 or newer): {words}"
    return f"the container could not be started: {words}"


def _last_change(status: Mapping[str, Any]) -> datetime | None:
    """When a condition of the pod last changed: a pod that its node refused tells no other time of its end."""
    times = [time_of(one.get("lastTransitionTime")) for one in maps(status.get("conditions"))]
    return max((at for at in times if at is not None), default=None)


def _between(earliest: datetime, at: datetime, latest: datetime | None) -> datetime:
    """A time of a node's clock, which may be wrong by hours, within what the other clocks allow."""
    at = max(earliest, at)
    return at if latest is None else min(at, max(earliest, latest))
