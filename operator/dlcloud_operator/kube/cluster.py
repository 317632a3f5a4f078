"""KubeCluster: jobs and pods of a Kubernetes cluster, behind the engine's protocol.

May import the engine's protocol, core, api and this package. It decides nothing; every write is fenced: by the lease at
the moment it is sent, a status by the version it was decided from, a deletion by the uid.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from dlcloud_operator.api import API_VERSION, GROUP, KIND, VERSION, TrainingJobStatus
from dlcloud_operator.core.model import DeletePod, Emit, JobKey, JobView, PodView
from dlcloud_operator.engine.clock import utc_now
from dlcloud_operator.engine.cluster import Conflict, Refused
from dlcloud_operator.engine.objects import covers, patch_for

from .api import ApiError, KubeApi, path_of
from .events import EventRecorder
from .store import Store, controller_of
from .troubles import CREATES_FOR, Troubles
from .waiting import CREATING

PLURAL = "trainingjobs"
_REFUSALS = frozenset({400, 403, 404, 413, 422})  # quota, admission, an invalid field, a namespace that is not there


class NotLeading(Conflict):
    """Another operator may be acting by now: nothing is written any more, and what was planned is void."""


def jobs_path(namespace: str = "", name: str = "") -> str:
    """The path of TrainingJobs, or of one."""
    return path_of(PLURAL, namespace, name, group=GROUP, version=VERSION)


class KubeCluster:
    """Implements the engine's Cluster. `may_act` says whether this process still holds the lease, by its own clock."""

    def __init__(
        self,
        api: KubeApi,
        store: Store,
        events: EventRecorder,
        troubles: Troubles,
        may_act: Callable[[], bool],
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._api = api.guarded(self._check_lease)
        self._store = store
        self._events = events
        self._troubles = troubles
        self._may_act = may_act
        self._now = now
        self._looking_again: dict[JobKey, asyncio.TimerHandle] = {}

    async def get_job(self, key: JobKey) -> JobView | None:
        """The job as last read."""
        return self._store.job(key)

    async def list_pods(self, job: JobView) -> Sequence[PodView]:
        """The pods of this job's uid, by name; those that are slow to start with the words of their Events."""
        pods: Sequence[PodView] = self._store.pods_of(job.uid)
        if any(pod.waiting_reason == CREATING for pod in pods):
            pods = await self._troubles.explained(job, pods, self._now())
            self._look_again(job.key)
        return pods

    async def create_pod(self, job: JobView, manifest: Mapping[str, Any]) -> None:
        """Create a pod. Raises Refused, also for a name that somebody else uses; Conflict for one being deleted."""
        path = path_of("pods", job.key.namespace)
        try:
            made = await self._api.create(path, manifest, metadata_only=True)
            self._store.note_pod({**manifest, "metadata": made["metadata"], "status": {"phase": "Pending"}})
        except ApiError as error:
            if error.status == 409 and error.reason == "AlreadyExists":
                await self._take_existing(job, str(manifest["metadata"]["name"]))
            elif _is_refusal(error):
                raise Refused(error.message) from None
            else:
                raise

    async def delete_pod(self, job: JobView, action: DeletePod) -> None:
        """Delete the pod of this uid; `grace_s` 0 is for one whose node nobody hears."""
        namespace = job.key.namespace
        try:
            await self._api.delete(path_of("pods", namespace, action.name), uid=action.uid, grace_s=action.grace_s)
        except ApiError as error:
            if error.status not in (404, 409):
                raise
            self._store.drop_pod(namespace, action.name, action.uid)
        else:
            self._store.mark_deleting(namespace, action.name, action.uid)

    async def write_status(self, job: JobView, status: TrainingJobStatus) -> JobView:
        """Replace the status by a patch of what changed. Raises Conflict for an old version, and reads the job anew."""
        # The first write is whole: `restarts: 0` is no change, but a column shows it.
        before, after = job.status.to_json() if job.status.phase else {}, status.to_json()
        change = merge_patch(before, after)
        if not change:
            return job
        path = f"{jobs_path(job.key.namespace, job.key.name)}/status"
        try:
            # The version is the fence: server-side apply would not refuse an old decision.
            raw = await self._api.merge(path, {"metadata": {"resourceVersion": job.resource_version}, "status": change})
        except ApiError as error:
            if error.status not in (404, 409):
                raise
            await self._read_again(job)
            raise Conflict(error.message) from None
        if raw["metadata"]["uid"] != job.uid:
            raise Conflict(f"job {job.key} with uid {job.uid} is gone")
        return self._store.note_job(raw)

    async def delete_job(self, job: JobView) -> None:
        """Delete the job of this uid; its pods follow by their owner reference."""
        try:
            path = jobs_path(job.key.namespace, job.key.name)
            await self._api.delete(path, uid=job.uid, propagation="Background")
        except ApiError as error:
            if error.status not in (404, 409):
                raise

    async def emit(self, job: JobView, event: Emit) -> None:
        """Tell the user; never waits for the API server."""
        await self._events.emit(job, event)

    def has_object(self, job: JobView, manifest: Mapping[str, Any]) -> bool:
        """Whether this job's network policy is there and says all that `manifest` says, as last read."""
        found = self._store.policy(job.key.namespace, str(manifest["metadata"]["name"]))
        return (
            found is not None
            and not found["metadata"].get("deletionTimestamp")
            and controller_of(found).get("uid") == job.uid
            and covers(found, {"metadata": manifest["metadata"], "spec": manifest["spec"]})
        )

    async def ensure_object(self, job: JobView, manifest: Mapping[str, Any]) -> None:
        """Create or correct this job's network policy. Raises Refused, Conflict for one of an earlier job."""
        name = str(manifest["metadata"]["name"])
        path = path_of("networkpolicies", job.key.namespace, group="networking.k8s.io")
        try:
            self._store.note_policy(await self._api.create(path, manifest))
        except ApiError as error:
            if error.status == 409 and error.reason == "AlreadyExists":
                await self._correct(job, manifest, f"{path}/{name}")
            elif _is_refusal(error):
                raise Refused(error.message) from None
            else:
                raise

    async def _correct(self, job: JobView, manifest: Mapping[str, Any], path: str) -> None:
        found = await self._api.get(path)
        name, owner = manifest["metadata"]["name"], controller_of(found)
        if found["metadata"].get("deletionTimestamp"):
            raise Conflict(f"networkpolicy {name} is still being deleted")
        if owner.get("uid") != job.uid:
            if owner.get("kind") == KIND and owner.get("apiVersion") == API_VERSION:
                raise Conflict(f"networkpolicy {name} {_whose(owner)}")
            raise Refused(f'networkpolicy "{name}" exists already and {_whose(owner)}; rename one of them')
        if not covers(found, manifest):
            found = await self._api.merge(path, patch_for(found, manifest))
        self._store.note_policy(found)

    def owner_of(self, namespace: str, pod: str, uid: str) -> JobKey | None:
        """The job of the pod of this uid, while both exist."""
        found = self._store.pod(namespace, pod)
        if found is None or found.view.uid != uid:
            return None
        job = self._store.job(found.key)
        return found.key if job is not None and job.uid == found.owner_uid else None

    def subscribe(self, notify: Callable[[JobKey], None]) -> None:
        """Call `notify` for each job and at each change by others."""
        self._store.subscribe(notify)

    def _look_again(self, key: JobKey) -> None:
        """What a pod's Events say is no change of the pod: nobody tells when they say something new."""
        if key not in self._looking_again:
            loop = asyncio.get_running_loop()
            self._looking_again[key] = loop.call_later(CREATES_FOR.total_seconds(), self._due, key)

    def _due(self, key: JobKey) -> None:
        del self._looking_again[key]
        self._store.tell(key)

    def _check_lease(self) -> None:
        if not self._may_act():
            raise NotLeading("the lease has run out: another operator may be acting")

    async def _take_existing(self, job: JobView, name: str) -> None:
        """A pod of this name is there: ours from an earlier attempt is as good as new."""
        try:
            raw = await self._api.get(path_of("pods", job.key.namespace, name))
        except ApiError as error:
            if error.status == 404:
                raise Conflict(f"pod {name} was there a moment ago and is gone") from None
            raise
        metadata = raw["metadata"]
        owner = controller_of(raw)
        if metadata.get("deletionTimestamp"):
            raise Conflict(f"pod {name} is still being deleted")
        if owner.get("uid") != job.uid:
            raise Refused(f'pod "{name}" exists already and {_whose(owner)}; delete it, or give the job another name')
        self._store.note_pod(raw)

    async def _read_again(self, job: JobView) -> None:
        """After a conflict: what the watch will bring may take a while."""
        try:
            self._store.note_job(await self._api.get(jobs_path(job.key.namespace, job.key.name)))
        except ApiError as error:
            if error.status != 404:
                raise
            self._store.drop_job(job.key, job.uid)


def merge_patch(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What turns `before` into `after` by RFC 7396: lists whole, null for what is no more."""
    change: dict[str, Any] = {name: None for name in before if name not in after}
    for name, value in after.items():
        old = before.get(name)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            if inner := merge_patch(old, value):
                change[name] = inner
        elif name not in before or old != value:
            change[name] = value
    return change


def _is_refusal(error: ApiError) -> bool:
    """Whether the object is not wanted as it is; an admission webhook that does not answer says no as well."""
    return error.status in _REFUSALS or "failed calling webhook" in error.message


def _whose(owner: Mapping[str, Any]) -> str:
    if not owner:
        return "has no owner"
    if owner.get("kind") == KIND and owner.get("apiVersion") == API_VERSION:
        return f"belongs to an earlier job {owner.get('name')!r} (uid {owner.get('uid')})"
    return f"belongs to {owner.get('kind')} {owner.get('name')!r}"
