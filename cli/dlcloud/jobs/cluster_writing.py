"""Creates jobs in a cluster, and changes what may change of them.

May import this package. Every change carries the uid of the job that is meant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dlcloud_operator.api import API_VERSION, TrainingJob

from .cluster_records import ClusterRecord, record_of
from .errors import JobNotFound, JobsError
from .kube import MERGE_PATCH
from .kube_errors import KubeError, field_errors
from .source import JobRecord

if TYPE_CHECKING:
    from .cluster import ClusterJobs


def create_job(source: ClusterJobs, job: TrainingJob, namespace: str) -> ClusterRecord:
    """Create it; `namespace` is the one given by option, empty without. Raises JobsError with every field at fault."""
    name = job.metadata.name
    target = _target(source, job, namespace)
    # What the user wrote and no more: the cluster's definition fills in defaults, also of a newer version.
    manifest = job.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True)
    manifest |= {"apiVersion": API_VERSION, "kind": job.kind}
    manifest["metadata"]["namespace"] = target
    try:
        return record_of(source.api.send("POST", source.jobs_path(target), manifest))
    except KubeError as error:
        if error.status == 409:
            remove = source.command("rm", name)
            raise JobsError(
                f"{name}: exists already in namespace {target}; remove it with `{remove}`, or give metadata.name "
                "another name"
            ) from None
        if error.status == 404 and error.details.get("kind") == "namespaces":
            raise JobsError(f"namespace {target} does not exist; make it: kubectl create namespace {target}") from None
        raise _refused(name, error) from None


def set_suspend(source: ClusterJobs, record: JobRecord, value: bool) -> ClusterRecord:
    """Change spec.suspend of exactly this job. Raises JobNotFound when it is gone."""
    path = f"{source.jobs_path(record.job.key.namespace)}/{record.job.key.name}"
    patch = {"metadata": {"uid": record.job.uid}, "spec": {"suspend": value}}
    try:
        return record_of(source.api.send("PATCH", path, patch, MERGE_PATCH))
    except KubeError as error:
        if error.status == 404 and error.reason:
            raise JobNotFound(f"{record.id}: was deleted meanwhile") from None
        if error.status in (409, 422) and "uid" in error.said.lower():
            raise JobNotFound(f"{record.id}: was deleted, and one of the same name created") from None
        raise _refused(record.id, error) from None


def _target(source: ClusterJobs, job: TrainingJob, namespace: str) -> str:
    """As kubectl: what the manifest says, unless -n says something; two that differ are a mistake."""
    given = job.metadata.namespace if "namespace" in job.metadata.model_fields_set else ""
    if namespace and given and given != namespace:
        raise JobsError(f"metadata.namespace: {given!r} is not the namespace given by -n, {namespace!r}; leave one out")
    return namespace or given or source.connection.namespace


def _refused(name: str, error: KubeError) -> KubeError:
    """The API server's objections, a line for each field."""
    fields = field_errors(error)
    if error.status not in (400, 422) or not fields:
        return error
    lines = [f"{field}: {message}" if field else message for field, message in fields]
    return KubeError(f"{name}: the API server refuses it:\n  " + "\n  ".join(lines), error.status, error.reason)
