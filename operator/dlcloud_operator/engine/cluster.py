"""What the engine needs of the place where pods run, as a protocol: a Kubernetes cluster, or processes of this machine.

May import api and core. No implementation lives here: `KubeCluster` is in the kube package, `LocalCluster` in the
command line's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from dlcloud_operator.api import TrainingJobStatus
from dlcloud_operator.core.model import DeletePod, Emit, JobKey, JobView, PodView


class Conflict(Exception):
    """What was decided from must be read again: the job changed, or an object of that name is just being deleted."""


class Refused(Exception):
    """The cluster refused an object (quota, admission, an invalid field); the message is the cluster's own."""


class Cluster(Protocol):
    """Jobs and their pods. A method may raise any error of its transport: the engine tries the key again later."""

    async def get_job(self, key: JobKey) -> JobView | None:
        """The job as it is now, or None when there is none of this name."""
        ...

    async def list_pods(self, job: JobView) -> Sequence[PodView]:
        """The pods owned by exactly this job (its uid), those being deleted included."""
        ...

    async def create_pod(self, job: JobView, manifest: Mapping[str, Any]) -> None:
        """Create a pod; one of the same name that `job` owns and nobody deletes is a success.

        Raises Refused (quota, admission; the name belongs to somebody else, who is named), or Conflict (a pod of that
        name is still being deleted).
        """
        ...

    def has_object(self, job: JobView, manifest: Mapping[str, Any]) -> bool:
        """Whether the job owns such an object that says all the manifest says (`objects.covers`), by the index."""
        ...

    async def ensure_object(self, job: JobView, manifest: Mapping[str, Any]) -> None:
        """Create an object the job owns beside its pods; one that is there is patched when it says something else.

        Raises Refused (it is not allowed; somebody else's object has the name, and is left alone), or Conflict (one of
        an earlier job of this name, or one being deleted, still has it).
        """
        ...

    async def delete_pod(self, job: JobView, action: DeletePod) -> None:
        """Delete a pod if it still is the one with this uid; gone or replaced is a success."""
        ...

    async def write_status(self, job: JobView, status: TrainingJobStatus) -> JobView:
        """Replace the status and return the job as read back. Raises Conflict for an old `job.resource_version`."""
        ...

    async def delete_job(self, job: JobView) -> None:
        """Delete the job with this uid, and its pods with it; gone or replaced is a success."""
        ...

    async def emit(self, job: JobView, event: Emit) -> None:
        """Tell the user of the job about an event. Best effort: never raises for a lost event."""
        ...

    def owner_of(self, namespace: str, pod: str, uid: str) -> JobKey | None:
        """The job that owns this pod by the index, None when no pod of this uid exists.

        A pod that is being deleted still counts: it has to tell how it drained.
        """
        ...

    def subscribe(self, notify: Callable[[JobKey], None]) -> None:
        """Call `notify`, on the event loop, for each job there is and at any change of a job or of its pods.

        The engine's own status writes are no such change.
        """
        ...
