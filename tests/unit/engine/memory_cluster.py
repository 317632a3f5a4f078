"""A Cluster that keeps its objects in memory: optimistic concurrency, refusals, deletion, and no logic of dlcloud.

Pods do not run: tests say what becomes of them (`set_pod`, `lose_pod`).
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from dlcloud_operator.api import TrainingJobSpec, TrainingJobStatus
from dlcloud_operator.core.model import DeletePod, Emit, JobKey, JobView, PodPhase, PodView
from dlcloud_operator.engine.cluster import Conflict, Refused
from dlcloud_operator.engine.objects import covers

T0 = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
KEY = JobKey("default", "mnist")
SPEC = TrainingJobSpec.model_validate({"script": {"command": ["python", "train.py"]}, "workers": {"count": 2}})


def job_view(key: JobKey = KEY, uid: str = "job-uid", spec: TrainingJobSpec | None = SPEC, **fields: Any) -> JobView:
    defaults: dict[str, Any] = {
        "key": key, "uid": uid, "resource_version": "1", "generation": 1, "created_at": T0,
        "status": TrainingJobStatus(), "spec": spec,
    }  # fmt: skip
    return JobView(**{**defaults, **fields})


async def until(condition: Callable[[], bool], limit_s: float = 5.0) -> None:
    """Wait for something that no event announces. Raises TimeoutError."""
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


class NameRenderer:
    """Manifests with a name and nothing else: all that MemoryCluster looks at."""

    def render(self, job: JobView, index: int, incarnation: int) -> Mapping[str, Any]:
        return {"metadata": {"name": f"{job.key.name}-{index}-{incarnation}"}}


@dataclass(frozen=True)
class _Owned:
    namespace: str
    owner: JobKey
    owner_uid: str
    view: PodView


class MemoryCluster:
    def __init__(self, now: Callable[[], datetime] = lambda: T0) -> None:
        self.now = now
        self.jobs: dict[JobKey, JobView] = {}
        self.events: list[Emit] = []
        self.writes: list[TrainingJobStatus] = []
        self.create_calls: list[str] = []
        self.refuse = ""  # a reason to refuse every pod
        self.refuse_object = ""  # the same for every other object
        self.objects: dict[tuple[str, str], Mapping[str, Any]] = {}  # by namespace and name
        self.ensured: list[Mapping[str, Any]] = []
        self.before_write: Callable[[], None] = lambda: None  # what somebody else does at the worst moment
        self._pods: dict[tuple[str, str], _Owned] = {}
        self._notify: list[Callable[[JobKey], None]] = []
        self._numbers = itertools.count(100)

    # --- the Cluster protocol ---

    async def get_job(self, key: JobKey) -> JobView | None:
        return self.jobs.get(key)

    async def list_pods(self, job: JobView) -> Sequence[PodView]:
        return [owned.view for owned in self._pods.values() if owned.owner_uid == job.uid]

    async def create_pod(self, job: JobView, manifest: Mapping[str, Any]) -> None:
        name = manifest["metadata"]["name"]
        self.create_calls.append(name)
        there = self._pods.get((job.key.namespace, name))
        if there is not None:
            if there.owner_uid != job.uid:
                raise Refused(f'pod "{name}" exists already and belongs to {there.owner}')
            if not there.view.deleting:
                return
            raise Conflict(f"pod {name} is being deleted")
        if self.refuse:
            raise Refused(self.refuse)
        _, index, incarnation = name.rsplit("-", 2)
        uid = f"pod-{next(self._numbers)}"
        view = PodView(name, uid, int(index), int(incarnation), PodPhase.PENDING, self.now())
        self._pods[(job.key.namespace, name)] = _Owned(job.key.namespace, job.key, job.uid, view)
        self.changed(job.key)

    def has_object(self, job: JobView, manifest: Mapping[str, Any]) -> bool:
        there = self.objects.get((job.key.namespace, manifest["metadata"]["name"]))
        return there is not None and covers(there, manifest)

    async def ensure_object(self, job: JobView, manifest: Mapping[str, Any]) -> None:
        self.ensured.append(manifest)
        if self.refuse_object:
            raise Refused(self.refuse_object)
        self.objects[(job.key.namespace, manifest["metadata"]["name"])] = manifest

    async def delete_pod(self, job: JobView, action: DeletePod) -> None:
        owned = self._pods.get((job.key.namespace, action.name))
        if owned is not None and owned.view.uid == action.uid:
            self.lose_pod(action.name, job.key.namespace)

    async def write_status(self, job: JobView, status: TrainingJobStatus) -> JobView:
        self.before_write()
        current = self.jobs.get(job.key)
        if current is None or (current.uid, current.resource_version) != (job.uid, job.resource_version):
            raise Conflict(f"{job.key} changed")
        # Through JSON, as a real API server would: what cannot be written cannot be read back.
        stored = TrainingJobStatus.model_validate_json(status.model_dump_json(by_alias=True, exclude_none=True))
        self.jobs[job.key] = replace(current, status=stored, resource_version=str(next(self._numbers)))
        self.writes.append(stored)
        return self.jobs[job.key]

    async def delete_job(self, job: JobView) -> None:
        current = self.jobs.get(job.key)
        if current is not None and current.uid == job.uid:
            self.remove_job(job.key)

    async def emit(self, job: JobView, event: Emit) -> None:
        self.events.append(event)

    def owner_of(self, namespace: str, pod: str, uid: str) -> JobKey | None:
        owned = self._pods.get((namespace, pod))
        return owned.owner if owned is not None and owned.view.uid == uid else None

    def subscribe(self, notify: Callable[[JobKey], None]) -> None:
        self._notify.append(notify)
        for key in self.jobs:
            notify(key)

    # --- what others do to a cluster ---

    def put_job(self, job: JobView) -> JobView:
        self.jobs[job.key] = replace(job, resource_version=str(next(self._numbers)))
        self.changed(job.key)
        return self.jobs[job.key]

    def touch(self, key: JobKey = KEY) -> None:
        """Somebody else changed the object."""
        self.jobs[key] = replace(self.jobs[key], resource_version=str(next(self._numbers)))

    def remove_job(self, key: JobKey) -> None:
        job = self.jobs.pop(key)
        self._pods = {name: owned for name, owned in self._pods.items() if owned.owner_uid != job.uid}
        self.changed(key)

    def add_pod(self, name: str, uid: str, job: JobView) -> None:
        """A pod that a controller of an earlier life created."""
        _, index, incarnation = name.rsplit("-", 2)
        view = PodView(name, uid, int(index), int(incarnation), PodPhase.RUNNING, self.now(), ip="127.0.0.1")
        self._pods[(job.key.namespace, name)] = _Owned(job.key.namespace, job.key, job.uid, view)

    def pods(self) -> list[PodView]:
        return [owned.view for owned in self._pods.values()]

    def set_pod(self, name: str, namespace: str = "default", **changes: Any) -> None:
        owned = self._pods[(namespace, name)]
        self._pods[(namespace, name)] = replace(owned, view=replace(owned.view, **changes))
        self.changed(owned.owner)

    def lose_pod(self, name: str, namespace: str = "default") -> None:
        owned = self._pods.pop((namespace, name))
        self.changed(owned.owner)

    def changed(self, key: JobKey) -> None:
        for notify in self._notify:
            notify(key)
