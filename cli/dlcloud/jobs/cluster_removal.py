"""Removes a job of a cluster, and what it stored.

May import this package. The way to the store is tried before anything is deleted: a job whose objects cannot be reached
is still there to say where they are.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from dlcloud_operator.api import API_VERSION

from ..objects import Access
from .cluster_logs import pods_of
from .errors import JobNotFound, JobsError
from .kube_errors import PLURAL, KubeError
from .objects_removal import listed, remove_below
from .source import JobRecord

if TYPE_CHECKING:
    from .cluster import ClusterJobs

_PODS_S = 180.0  # pods save what they have before they end
_POLL_S = 0.5


def remove_job(source: ClusterJobs, record: JobRecord, *, objects: bool) -> list[str]:
    """Delete the job if it still is the one with this uid; what was freed, in lines. Raises JobsError."""
    prefix = record.checkpoint_prefix if objects else ""
    if prefix.startswith("file://"):
        raise JobsError(
            f"{record.id}: its objects in {prefix} lie on the cluster's nodes, out of reach from here; remove the job "
            "alone, and that folder where it is"
        )
    with contextlib.ExitStack() as held:
        access: Access | None = held.enter_context(source.access(record)) if prefix else None
        if access is not None:
            listed(prefix, access)
        key = record.job.key
        pods = len(pods_of(source.api, key.namespace, key.name, record.job.uid))
        _delete(source, record)
        freed = [f"{record.id}: deleted" + (f", and {pods} pod{'s' * (pods != 1)}" if pods else "")]
        if access is None:
            return freed
        _wait_for_pods(source, record, prefix)
        num, size_bytes = remove_below(prefix, access)
    return [*freed, f"{prefix}: {num} object{'s' * (num != 1)} removed, {size_bytes / 1e6:.1f} MB"]


def _delete(source: ClusterJobs, record: JobRecord) -> None:
    key = record.job.key
    options = {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "preconditions": {"uid": record.job.uid},
        "propagationPolicy": "Background",
    }
    try:
        source.api.send("DELETE", f"/apis/{API_VERSION}/namespaces/{key.namespace}/{PLURAL}/{key.name}", options)
    except KubeError as error:
        if error.status == 404 and error.reason:
            raise JobNotFound(f"{record.id}: is gone already") from None
        if error.status == 409:
            raise JobNotFound(f"{record.id}: was deleted, and one of the same name created") from None
        raise


def _wait_for_pods(source: ClusterJobs, record: JobRecord, prefix: str) -> None:
    """Until no pod can write any more. Raises JobsError."""
    key, give_up = record.job.key, time.monotonic() + _PODS_S
    while pods_of(source.api, key.namespace, key.name, record.job.uid):
        if time.monotonic() > give_up:
            raise JobsError(
                f"{record.id}: the job is deleted, but its pods have not ended after {_PODS_S:.0f} s and may still "
                f"write; remove {prefix} yourself when they are gone"
            )
        time.sleep(_POLL_S)
