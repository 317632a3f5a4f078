"""What an agent is told to do, as a pure function of its job: the wire form of docs/protocol.md, section 2.

May import api and core. No I/O, no clock. It repeats decisions that stand in the status and never makes one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlcloud_operator.api import ObjectStore, TrainingJobSpec, parse_duration
from dlcloud_operator.api.parameters import fill_defaults
from dlcloud_operator.core.model import JobView


def instruction_for(job: JobView, pod_uid: str) -> dict[str, Any] | None:
    """What the pod of this uid has to do now; None when there is nothing for it."""
    return Instructions(job).of(pod_uid)


class Instructions:
    """The instructions of one job for all its pods; what they share is computed once."""

    def __init__(self, job: JobView) -> None:
        self._finished: dict[str, Any] | None = None
        self._shared: dict[str, Any] = {}
        self._own: dict[str, dict[str, Any]] = {}
        status = job.status
        if status.phase is not None and status.phase.finished:
            self._finished = {"kind": "finished", "phase": status.phase.value}
        elif status.round is not None and job.spec is not None:
            decided, limits = status.round, job.spec.limits
            self._shared = {
                "kind": "round",
                "round": decided.number,
                "nonce": decided.nonce,
                "worldSize": decided.world_size,
                "workers": len(decided.members),
                "masterAddr": decided.master,
                "masterPort": decided.port,
                "threads": decided.threads,
                "restarts": status.restarts,
                "initS": _seconds(limits.init),
                "checkpointS": _seconds(limits.checkpoint),
                "job": _settings(job, job.spec),
            }
            self._own = {member.uid: {"index": member.index, "ranks": list(member.ranks)} for member in decided.members}

    def of(self, pod_uid: str) -> dict[str, Any] | None:
        """The instruction of one pod, None when it is no member of the round."""
        if self._finished is not None:
            return self._finished
        own = self._own.get(pod_uid)
        return None if own is None else {**self._shared, **own}


def is_news(instruction: Mapping[str, Any] | None, after: int) -> bool:
    """Whether an agent that has seen rounds up to `after` must be told."""
    if instruction is None:
        return False
    return instruction["kind"] == "finished" or int(instruction["round"]) > after


def checkpoint_prefix(uri: str, job: JobView) -> str:
    """The job's own place below `checkpoint.uri`, with a slash at the end."""
    return f"{uri.rstrip('/')}/{job.key.namespace}/{job.key.name}/{job.uid}/"


def _settings(job: JobView, spec: TrainingJobSpec) -> dict[str, Any]:
    script = spec.script
    saved = spec.checkpoint
    return {
        "namespace": job.key.namespace,
        "name": job.key.name,
        "uid": job.uid,
        "workload": spec.workload,
        "parameters": fill_defaults(spec.workload, spec.parameters) if spec.workload else dict(spec.parameters),
        "script": None if script is None else {"command": list(script.command), "args": list(script.args)},
        "data": None if spec.data is None else {"uri": spec.data.uri},
        "checkpoint": None
        if saved is None
        else {
            "uri": checkpoint_prefix(saved.uri, job),
            "everySeconds": saved.every_seconds,
            "keepLast": saved.keep_last,
            "keepBest": saved.keep_best,
        },
        "resumeFrom": spec.resume_from,
        "export": None if spec.export is None else spec.export.model_dump(mode="json", by_alias=True),
        "objectStore": _store(spec.object_store),
    }


def _store(store: ObjectStore) -> dict[str, Any]:
    asked = store.encryption
    return {
        "endpoint": store.endpoint,
        "region": store.region,
        "encryption": None if asked is None else {"type": asked.type.value, "kmsKeyId": asked.kms_key_id},
    }


def _seconds(duration: str) -> int | float:
    seconds = parse_duration(duration).total_seconds()
    return int(seconds) if seconds.is_integer() else seconds
