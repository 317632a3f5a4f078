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
    """The job changed since it was read: what was decided from the old reading must not happen."""


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

        Raises Refused (quota, admission), or Conflict (the name belongs to a pod of another owner or being deleted).
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
