"""LocalCluster: one job and its pods on this machine, behind the same protocol as a Kubernetes cluster.

May import this package, the engine's protocol, core and API. All of it runs on one event loop; it decides nothing.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dlcloud_operator.api import TrainingJob, TrainingJobSpec, TrainingJobStatus
from dlcloud_operator.core.model import DeletePod, Emit, JobKey, JobView, PodView
from dlcloud_operator.engine.cluster import Conflict, Refused
from dlcloud_operator.engine.rendezvous.auth import PodIdentity

from . import state
from .facts import Objects
from .gpus import GpuPool, visible_gpus
from .pods import TRAINER, LocalPod, PodContext
from .state import LoggedEvent
from .tokens import LocalTokens

log = logging.getLogger(__name__)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class LocalCluster:
    """Implements the engine's Cluster. A run holds one job at a time; its files lie below `run_dir`."""

    def __init__(
        self,
        run_dir: Path,
        *,
        secrets: Mapping[str, Mapping[str, str]] | None = None,
        config_maps: Mapping[str, Mapping[str, str]] | None = None,
        working_dir: Path | None = None,
        python: str = sys.executable,
        gpus: Sequence[str] | None = None,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        """`working_dir`: where script jobs run; `python`: what `python3` in a pod means; `gpus` None: all."""
        run_dir.mkdir(parents=True, exist_ok=True)
        self.tokens = LocalTokens()
        self._run_dir = run_dir.resolve()
        self._objects = Objects(secrets if secrets is not None else {}, config_maps if config_maps is not None else {})
        self._working_dir = working_dir.resolve() if working_dir else None
        self._python = python
        self._gpus = GpuPool(visible_gpus() if gpus is None else gpus)
        self._now = now
        self._job: JobView | None = None
        self._events: list[LoggedEvent] = []
        self._pods: dict[str, LocalPod] = {}
        self._version = 0
        self._unwritten = False
        self._subscribers: list[Callable[[JobKey], None]] = []
        self._watchers: list[Callable[[JobView], None]] = []
        self._closed = False

    # --- the engine's protocol ---

    async def get_job(self, key: JobKey) -> JobView | None:
        """The job as it is now."""
        return self._job if self._job and self._job.key == key else None

    async def list_pods(self, job: JobView) -> Sequence[PodView]:
        """The pods of this job's uid, by name."""
        return [pod.view() for _, pod in sorted(self._pods.items()) if pod.owner_uid == job.uid]

    async def create_pod(self, job: JobView, manifest: Mapping[str, Any]) -> None:
        """Start a pod. Raises Refused when it cannot run here, Conflict when its job, or a pod of its name, goes."""
        name = str(manifest["metadata"]["name"])
        if self._closed:
            raise Refused("this run is being stopped")
        if self._job is None or self._job.uid != job.uid:
            raise Conflict(f"job {job.key} with uid {job.uid} is gone")
        if existing := self._pods.get(name):
            if existing.owner_uid == job.uid and not existing.deleting:
                return
            if existing.deleting:
                raise Conflict(f"pod {name} is still being deleted")
            raise Refused(f'pod "{name}" exists already and belongs to an earlier job of this name')
        _check(manifest)
        folder = self._run_dir / "pods" / name
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier job of this name in the same run folder
        folder.mkdir(parents=True, mode=0o700)  # tokens and secrets lie below it
        (folder / "log").touch()
        uid = str(uuid.uuid4())
        context = PodContext(
            objects=self._objects,
            gpus=self._gpus,
            python=self._python,
            cwd=self._working_dir if job.spec and job.spec.script else None,
            share_credentials=not (job.spec and job.spec.object_store.credentials_secret),
            now=self._now,
        )
        self._pods[name] = LocalPod(
            manifest,
            owner=job.key,
            owner_uid=job.uid,
            uid=uid,
            token=self.tokens.issue(PodIdentity(job.key.namespace, name, uid)),
            folder=folder,
            context=context,
            on_change=self._pod_changed,
        )
        self._notify(job.key)

    def has_object(self, job: JobView, manifest: Mapping[str, Any]) -> bool:
        """Nothing beside pods means anything on one machine."""
        return True

    async def ensure_object(self, job: JobView, manifest: Mapping[str, Any]) -> None:
        """Never asked for."""

    async def delete_pod(self, job: JobView, action: DeletePod) -> None:
        """SIGTERM, the pod's or the action's grace, SIGKILL; listed as deleting until its processes are gone."""
        pod = self._pods.get(action.name)
        if pod is not None and pod.uid == action.uid:
            self._delete(pod, action.grace_s)

    async def write_status(self, job: JobView, status: TrainingJobStatus) -> JobView:
        """Replace the status. Raises Conflict when the job changed or went since it was read."""
        current = self._job
        if current is None or current.uid != job.uid:
            raise Conflict(f"job {job.key} with uid {job.uid} is gone")
        if current.resource_version != job.resource_version:
            raise Conflict(f"job {job.key} is at version {current.resource_version}, not {job.resource_version}")
        # Through JSON, as an API server would: what does not survive that must not work here either.
        read_back = TrainingJobStatus.model_validate_json(status.model_dump_json(by_alias=True, exclude_none=True))
        if read_back == current.status:
            return current
        return self._store(replace(current, status=read_back))

    async def delete_job(self, job: JobView) -> None:
        """Forget the job and delete its pods."""
        if self._job is None or self._job.uid != job.uid:
            return
        self._job = None
        (self._run_dir / state.JOB_FILE).unlink(missing_ok=True)
        for pod in [pod for pod in self._pods.values() if pod.owner_uid == job.uid]:
            self._delete(pod, None)
        self._notify(job.key)

    async def emit(self, job: JobView, event: Emit) -> None:
        """Keep an event of the job."""
        if self._job is None or self._job.uid != job.uid:
            return
        self._events.append(LoggedEvent(self._now(), event))
        self._write(self._job)
        for watcher in self._watchers:
            watcher(self._job)

    def owner_of(self, namespace: str, pod: str, uid: str) -> JobKey | None:
        """The job of a pod that exists with this uid; one that is being deleted still tells how it drained."""
        found = self._pods.get(pod)
        if found is None or found.uid != uid or found.owner.namespace != namespace:
            return None
        return found.owner if self._job and self._job.uid == found.owner_uid else None

    def subscribe(self, notify: Callable[[JobKey], None]) -> None:
        """Call `notify` at every change of the job or its pods, except written statuses."""
        self._subscribers.append(notify)

    # --- for the command line ---

    async def apply(self, job: TrainingJob) -> JobView:
        """Create the job, or give the existing one this spec. Raises Refused when the run already holds another job."""
        key = JobKey(job.metadata.namespace, job.metadata.name)
        if self._job is None:
            self._events = []
            view = JobView(key, str(uuid.uuid4()), "0", 1, self._now(), TrainingJobStatus(), job.spec)
            state.write_job(self._run_dir, view, self._events)  # a folder that cannot be written is an error at once
            stored = self._store(view)
            self._notify(key)
            return stored
        if self._job.key != key:
            raise Refused(f"this run already holds job {self._job.key}; give {key} a run folder of its own")
        return await self.update_spec(key, lambda _: job.spec)

    async def adopt(self, job: JobView, events: Sequence[LoggedEvent]) -> JobView:
        """Take over the job of an earlier process, as it stands; no pod of it is left. Raises OSError."""
        if self._job is not None:
            raise Refused(f"this run already holds job {self._job.key}")
        state.write_job(self._run_dir, job, events)  # a folder that cannot be written is an error at once
        self._version, self._events = int(job.resource_version), list(events)
        for left in self._run_dir.glob("pods/*/volumes-*"):  # a killed process could not delete the tokens and secrets
            shutil.rmtree(left, ignore_errors=True)
        stored = self._store(job)
        self._notify(job.key)
        return stored

    async def update_spec(self, key: JobKey, change: Callable[[TrainingJobSpec], TrainingJobSpec]) -> JobView:
        """Change the job's spec (for example `suspend`). Raises LookupError when there is no such job."""
        job = await self.get_job(key)
        if job is None or job.spec is None:
            raise LookupError(f"there is no job {key} in this run")
        spec = change(job.spec)
        if spec == job.spec:
            return job
        stored = self._store(replace(job, spec=spec, generation=job.generation + 1))
        self._notify(key)
        return stored

    def events(self, key: JobKey) -> tuple[LoggedEvent, ...]:
        """The job's events, oldest first."""
        return tuple(self._events) if self._job and self._job.key == key else ()

    def watch_jobs(self, callback: Callable[[JobView], None]) -> None:
        """Call `callback` with the job at every change of it, written statuses and events included."""
        self._watchers.append(callback)

    def pod_log_path(self, pod: str) -> Path:
        """Where a pod's output goes; it stays when the pod is gone."""
        return self._run_dir / "pods" / pod / "log"

    async def close(self, grace_s: float) -> None:
        """Stop every pod: SIGTERM, `grace_s`, SIGKILL. Afterwards no process of the run is left, and none can start."""
        self._closed = True
        pods = list(self._pods.values())
        for pod in pods:
            pod.terminate(grace_s)
        for pod in pods:
            await pod.wait()
            pod.remove_volumes()
        if self._unwritten and self._job is not None:
            self._write(self._job)

    # --- inside ---

    def _store(self, job: JobView) -> JobView:
        self._version += 1
        self._job = replace(job, resource_version=str(self._version))
        self._write(self._job)
        for watcher in self._watchers:
            watcher(self._job)
        return self._job

    def _write(self, job: JobView) -> None:
        try:
            state.write_job(self._run_dir, job, self._events)
            self._unwritten = False
        except OSError as error:  # a disk that is full now must not keep the job from its end: the truth is in memory
            self._unwritten = True
            log.warning("%s is not written: %s", self._run_dir / state.JOB_FILE, error.strerror)

    def _delete(self, pod: LocalPod, grace_s: float | None) -> None:
        pod.terminate(grace_s)
        if pod.ended:
            self._remove(pod)
        self._notify(pod.owner)

    def _pod_changed(self, pod: LocalPod) -> None:
        if pod.deleting and pod.ended:
            self._remove(pod)
        self._notify(pod.owner)

    def _remove(self, pod: LocalPod) -> None:
        self.tokens.revoke(pod.uid)
        if self._pods.get(pod.name) is pod:
            del self._pods[pod.name]
        asyncio.get_running_loop().run_in_executor(None, pod.remove_volumes)  # a scratch folder may be large

    def _notify(self, key: JobKey) -> None:
        for notify in self._subscribers:
            notify(key)


def _check(manifest: Mapping[str, Any]) -> None:
    """Raise Refused for a pod that cannot run on this machine, as an API server would for one it does not accept."""
    name, spec = manifest["metadata"]["name"], manifest.get("spec") or {}
    parts = str(name).rsplit("-", 2)
    if len(parts) != 3 or not (parts[1].isdigit() and parts[2].isdigit()):
        raise Refused(f"metadata.name: {name!r} is no worker's name; it must be JOB-INDEX-INCARNATION")
    names = [container.get("name") for container in spec.get("containers", ())]
    if TRAINER not in names:
        raise Refused(f"spec.containers: {names} has no container {TRAINER!r}, which runs the job")
    more = [other for other in names if other != TRAINER]
    more += [init.get("name") for init in spec.get("initContainers", ()) if init.get("restartPolicy") == "Always"]
    if more:
        raise Refused(
            f"spec.containers: {more} cannot run beside {TRAINER!r} on this machine; leave them out of podTemplate"
        )
