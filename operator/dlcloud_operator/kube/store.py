"""The jobs and pods of the watched namespaces as last read: by watch, by list, in the answers to own writes.

May import core and this package's readers. Synchronous and cheap; an older reading never replaces a newer one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dlcloud_operator.api import API_VERSION, KIND
from dlcloud_operator.core.model import JobKey, JobView, PodView
from dlcloud_operator.engine.clock import utc_now

from .jobs import JobReader
from .pods import read_pod

Object = Mapping[str, Any]
Notify = Callable[[JobKey], None]

_REMEMBERED_DELETIONS = 20_000


@dataclass(frozen=True, slots=True)
class StoredPod:
    """A pod with what its view leaves out."""

    view: PodView
    owner_uid: str
    key: JobKey
    version: int


class Store:
    """What the operator knows of the cluster. All calls come from the event loop's thread."""

    def __init__(self, reader: JobReader) -> None:
        self._reader = reader
        self._jobs: dict[JobKey, JobView] = {}
        self._pods: dict[tuple[str, str], StoredPod] = {}
        self._pods_of: dict[str, dict[str, StoredPod]] = {}
        self._policies: dict[tuple[str, str], Object] = {}
        self._gone: OrderedDict[str, None] = OrderedDict()  # uids: a late answer must not bring an object back
        self._notify: list[Notify] = []

    def subscribe(self, notify: Notify) -> None:
        """Call `notify` for each job there is, and at each change that somebody else made to a job or its pods."""
        self._notify.append(notify)
        for key in self._jobs:
            notify(key)

    def tell(self, key: JobKey) -> None:
        """Have a job looked at."""
        for notify in tuple(self._notify):
            notify(key)

    def job(self, key: JobKey) -> JobView | None:
        """The job as last read."""
        return self._jobs.get(key)

    def jobs(self) -> Iterable[JobView]:
        """All jobs as last read."""
        return self._jobs.values()

    def pods_of(self, owner_uid: str) -> list[PodView]:
        """The pods owned by this uid, by name."""
        found = self._pods_of.get(owner_uid, {})
        return [found[name].view for name in sorted(found)]

    def pod(self, namespace: str, name: str) -> StoredPod | None:
        """The pod of this name as last read."""
        return self._pods.get((namespace, name))

    def policy(self, namespace: str, name: str) -> Object | None:
        """The network policy of this name as last read, when a job controls it: metadata and spec."""
        return self._policies.get((namespace, name))

    # --- readings ---

    def note_job(self, raw: Object) -> JobView:
        """A job as the API server gave it; the answer is what is known now, which may be newer."""
        metadata = raw["metadata"]
        known = self._jobs.get(JobKey(str(metadata["namespace"]), str(metadata["name"])))
        gone = metadata["uid"] in self._gone
        # Before it is read: most of what a watch tells are the echoes of own writes.
        if not gone and known is not None and not _newer(str(metadata["resourceVersion"]), known.resource_version):
            return known
        view = self._reader.read(raw)
        if gone:
            return view
        if known is not None and known.uid != view.uid:
            self._remember_deletion(known.uid)
        self._jobs[view.key] = view
        # The status is the operator's own writing: only what others change is news.
        if known is None or (known.uid, known.generation, known.deleting) != (view.uid, view.generation, view.deleting):
            self.tell(view.key)
        return view

    def drop_job(self, key: JobKey, uid: str) -> None:
        """The job of this uid is gone."""
        self._remember_deletion(uid)
        known = self._jobs.get(key)
        if known is not None and known.uid == uid:
            del self._jobs[key]
            self._reader.forget(uid)
            self.tell(key)

    def note_pod(self, raw: Object) -> None:
        """A pod as the API server gave it; one that is no worker of a job is left out."""
        metadata = raw["metadata"]
        place = (str(metadata["namespace"]), str(metadata["name"]))
        known = self._pods.get(place)
        version = str(metadata.get("resourceVersion") or "")
        if known is not None and known.view.uid == metadata["uid"] and not _newer(version, str(known.version)):
            return
        view, owner = read_pod(raw, utc_now()), _owner(raw)
        if view is None or owner is None or view.uid in self._gone:
            return
        if known is not None and known.view.uid != view.uid:
            self._forget_pod(place, known)
        if known is not None and known.view == view:
            view = known.view  # one copy is enough
        name, uid = owner
        pod = StoredPod(view, uid, JobKey(place[0], name), _number(version))
        self._pods[place] = pod
        self._pods_of.setdefault(uid, {})[view.name] = pod
        if known is None or known.view is not view:
            self.tell(pod.key)

    def drop_pod(self, namespace: str, name: str, uid: str) -> None:
        """The pod of this uid is gone."""
        self._remember_deletion(uid)
        known = self._pods.get((namespace, name))
        if known is not None and known.view.uid == uid:
            self._forget_pod((namespace, name), known)
            self.tell(known.key)

    def drop_raw_pod(self, raw: Object) -> None:
        """The same, of an object."""
        metadata = raw["metadata"]
        self.drop_pod(str(metadata["namespace"]), str(metadata["name"]), str(metadata["uid"]))

    def mark_deleting(self, namespace: str, name: str, uid: str) -> None:
        """A deletion of this pod was accepted: the event that says so is still on its way."""
        known = self._pods.get((namespace, name))
        if known is not None and known.view.uid == uid and not known.view.deleting:
            pod = replace(known, view=replace(known.view, deleting=True))
            self._pods[namespace, name] = self._pods_of[known.owner_uid][name] = pod

    def note_policy(self, raw: Object) -> None:
        """A network policy as the API server gave it; one that no job controls is left out."""
        metadata, owner = raw["metadata"], _owner(raw)
        if owner is None or metadata["uid"] in self._gone:
            return
        place = (str(metadata["namespace"]), str(metadata["name"]))
        known = self._policies.get(place)
        if known is not None and not _newer(metadata["resourceVersion"], known["metadata"]["resourceVersion"]):
            return
        self._policies[place] = {"metadata": _without_bookkeeping(metadata), "spec": raw.get("spec")}
        if known is not None:
            self.tell(JobKey(place[0], owner[0]))

    def drop_policy(self, raw: Object) -> None:
        """This network policy is gone."""
        metadata, owner = raw["metadata"], _owner(raw)
        self._remember_deletion(metadata["uid"])
        place = (str(metadata["namespace"]), str(metadata["name"]))
        known = self._policies.get(place)
        if known is not None and known["metadata"]["uid"] == metadata["uid"]:
            del self._policies[place]
            if owner is not None:
                self.tell(JobKey(place[0], owner[0]))

    async def note_all_jobs(self, items: AsyncIterator[Object], namespace: str = "") -> None:
        """A whole list of jobs, of one namespace or all: what is known and not in it is gone."""
        before = {job.key: job.uid for job in self._jobs.values() if namespace in ("", job.key.namespace)}
        async for raw in items:
            before.pop(self.note_job(raw).key, None)
        for key, uid in before.items():
            self.drop_job(key, uid)

    async def note_all_pods(self, items: AsyncIterator[Object], namespace: str = "") -> None:
        """A whole list of workers' pods, of one namespace or all: what is known and not in it is gone."""
        before = {place: pod.view.uid for place, pod in self._pods.items() if namespace in ("", place[0])}
        async for raw in items:
            metadata = raw["metadata"]
            if before.get((metadata["namespace"], metadata["name"])) == metadata["uid"]:
                del before[metadata["namespace"], metadata["name"]]
            self.note_pod(raw)
        for (space, name), uid in before.items():
            self.drop_pod(space, name, uid)

    async def note_all_policies(self, items: AsyncIterator[Object], namespace: str = "") -> None:
        """A whole list of network policies, of one namespace or all: what is known and not in it is gone."""
        before = {place: raw for place, raw in self._policies.items() if namespace in ("", place[0])}
        async for raw in items:
            before.pop((raw["metadata"]["namespace"], raw["metadata"]["name"]), None)
            self.note_policy(raw)
        for raw in before.values():
            self.drop_policy(raw)

    # --- inside ---

    def _forget_pod(self, place: tuple[str, str], pod: StoredPod) -> None:
        del self._pods[place]
        siblings = self._pods_of[pod.owner_uid]
        siblings.pop(place[1], None)
        if not siblings:
            del self._pods_of[pod.owner_uid]

    def _remember_deletion(self, uid: str) -> None:
        self._gone[uid] = None
        if len(self._gone) > _REMEMBERED_DELETIONS:
            self._gone.popitem(last=False)


def controller_of(raw: Object) -> Mapping[str, Any]:
    """The owner reference of an object's controller; empty when it has none."""
    references = raw["metadata"].get("ownerReferences") or ()
    return next((reference for reference in references if reference.get("controller")), {})


def _owner(raw: Object) -> tuple[str, str] | None:
    """Name and uid of the TrainingJob that controls an object."""
    found = controller_of(raw)
    if found.get("kind") != KIND or found.get("apiVersion") != API_VERSION:
        return None
    return str(found["name"]), str(found["uid"])


def _without_bookkeeping(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metadata.items() if name not in ("managedFields", "annotations")}


def _newer(version: str, known: str) -> bool:
    """Whether a resource version is the later one (they are decimal numbers that grow; Kubernetes 1.35 says so)."""
    return _number(version) > _number(known) or (not version.isdigit() and version != known)


def _number(version: str) -> int:
    return int(version) if version.isdigit() else 0
