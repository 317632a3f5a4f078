"""The TrainingJobs of a cluster as a source of jobs, by the user's own kubeconfig and rights.

May import this package. Deletes and changes only the job whose uid it was given.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import shlex
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import Any

from dlcloud_operator.api import API_VERSION, ObjectStore, Phase, TrainingJob

from ..home import home, program
from ..objects import Access
from ..view.snapshot import EventLine
from .cluster_records import ClusterRecord, event_lines, record_of
from .cluster_writing import create_job, set_suspend
from .errors import JobNotFound, JobsError
from .kube import KubeApi
from .kube_errors import PLURAL, KubeError
from .kubeconfig import Connection, connect
from .source import JobRecord, LogReader

_POLL_S = (0.2, 2.0)  # from, to
_POD_CONNECTIONS = 16


class ClusterJobs:
    """A JobSource. The connection is made with the first request, so that making one costs nothing."""

    def __init__(
        self,
        *,
        kubeconfig: Path | None = None,
        context: str = "",
        namespace: str = "",
        all_namespaces: bool = False,
        endpoint: str = "",
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._kubeconfig, self._context, self._namespace = kubeconfig, context, namespace
        self._all_namespaces = all_namespaces
        self._endpoint = endpoint
        self._environ = environ

    @cached_property
    def connection(self) -> Connection:
        """Which cluster, user and namespace. Raises JobsError."""
        return connect(self._kubeconfig, self._context, self._namespace, self._environ)

    @cached_property
    def api(self) -> KubeApi:
        """The API server. Raises JobsError."""
        return KubeApi(self.connection)

    @property
    def where(self) -> str:
        """The place in words."""
        scope = "all namespaces" if self._all_namespaces else f"namespace {self.connection.namespace}"
        return f"cluster {self.connection.context}, {scope}"

    @property
    def problems(self) -> tuple[str, ...]:
        """None: a job that does not fit the models is a record that says so."""
        return ()

    def records(self) -> list[JobRecord]:
        """All jobs of the namespace (or of all), newest first."""
        path = f"/apis/{API_VERSION}/{PLURAL}" if self._all_namespaces else self.jobs_path()
        found = [record_of(item) for item in self._items(path)]
        return sorted(found, key=lambda record: (record.job.created_at, record.id), reverse=True)

    def find(self, name: str) -> ClusterRecord:
        """The job of this name. Raises JobNotFound."""
        try:
            return record_of(self.api.get(f"{self.jobs_path()}/{_segment(name)}"))
        except KubeError as error:
            if error.status != 404 or not error.reason:
                raise
        raise JobNotFound(self._not_found(name))

    def events(self, record: JobRecord) -> list[EventLine]:
        """What happened to the job, oldest first; the API server forgets events after an hour."""
        path = f"/api/v1/namespaces/{record.job.key.namespace}/events"
        return event_lines(list(self.api.items(path, fieldSelector=f"involvedObject.uid={record.job.uid}")))

    def access(self, record: JobRecord) -> AbstractContextManager[Access | None]:
        """A way to the job's objects from this machine; entering raises JobsError."""
        from .cluster_store import store_access

        if not record.checkpoint_prefix.startswith("s3://"):
            return contextlib.nullcontext(None)
        store = record.job.spec.object_store if record.job.spec is not None else _store_of(record)
        return store_access(self.api, record.job.key.namespace, store, self._endpoint, self._environ)

    def logs(self, record: JobRecord) -> LogReader | None:
        """The output of the pods there are; None when there are none."""
        from .cluster_logs import ClusterLogReader, pods_of

        api = KubeApi(self.connection, _POD_CONNECTIONS)
        key, uid = record.job.key, record.job.uid
        try:
            pods = pods_of(api, key.namespace, key.name, uid)
        except BaseException:
            api.close()
            raise
        if not pods:
            api.close()
            return None
        return ClusterLogReader(api, key.namespace, key.name, uid, pods)

    def suspend(self, record: JobRecord, *, wait_s: float, tell: Callable[[str], None]) -> JobRecord:
        """Set spec.suspend and wait until the job has saved and its pods are gone. Raises JobsError."""
        if not record.running:
            raise JobsError(f"{record.id}: has ended ({record.phase}); there is nothing to suspend")
        record = set_suspend(self, record, True)
        told, pause_s, give_up = "", _POLL_S[0], time.monotonic() + wait_s
        while record.phase != Phase.SUSPENDED:
            if not record.running:
                return record
            if record.message and record.message != told:
                told = record.message
                tell(told)
            if time.monotonic() > give_up:
                raise JobsError(
                    f"{record.id}: is not suspended after {wait_s:.0f} s but {record.phase} ({record.message}); "
                    "spec.suspend is set, so it still will be. Look again with "
                    f"`{self.command('describe', record.id)}`; `{self.command('doctor')}` tells whether an operator "
                    "is there"
                )
            time.sleep(pause_s)
            pause_s = min(pause_s * 1.5, _POLL_S[1])
            record = self._again(record)
        return record

    def create(self, job: TrainingJob) -> JobRecord:
        """Create the job in the namespace given by option, else its manifest's. Raises JobsError."""
        return create_job(self, job, self._namespace)

    def resume(self, record: JobRecord) -> JobRecord:
        """Let a suspended job go on. Raises JobsError for one that has ended or was not suspended."""
        if not record.running:
            raise JobsError(
                f"{record.id}: has ended ({record.phase}); create a job of another name with resumeFrom: "
                f"{record.checkpoint_prefix or 'its checkpoints'}"
            )
        if record.job.spec is not None and not record.job.spec.suspend:
            raise JobsError(f"{record.id}: is not suspended but {record.phase}; there is nothing to resume")
        return set_suspend(self, record, False)

    def remove(self, record: JobRecord, *, objects: bool) -> list[str]:
        """Delete the job, its pods with it; with `objects` what it stored as well, once no pod can write any more."""
        from .cluster_removal import remove_job

        return remove_job(self, record, objects=objects)

    def close(self) -> None:
        """Give back the connections."""
        if "api" in self.__dict__:
            self.api.close()

    def command(self, *words: str) -> str:
        """A command of ours on the same place, for a message."""
        options = ["--kubeconfig", str(self._kubeconfig)] if self._kubeconfig else []
        options += ["--context", self._context] if self._context else []
        return shlex.join([*program(), *words, *options, *(["-n", self._namespace] if self._namespace else [])])

    def jobs_path(self, namespace: str = "") -> str:
        """Path of the TrainingJobs of a namespace, ours by default."""
        return f"/apis/{API_VERSION}/namespaces/{namespace or self.connection.namespace}/{PLURAL}"

    # --- inside ---

    def _items(self, path: str) -> list[Mapping[str, Any]]:
        try:
            return list(self.api.items(path))
        except KubeError as error:
            if error.status == 410:  # the list was changed for too long while we read its pages
                return list(self.api.items(path))
            raise

    def _again(self, record: JobRecord) -> ClusterRecord:
        found = record_of(self._get(record))
        if found.job.uid != record.job.uid:
            raise JobNotFound(f"{record.id}: was deleted, and one of the same name created")
        return found

    def _get(self, record: JobRecord) -> Mapping[str, Any]:
        try:
            found: Mapping[str, Any] = self.api.get(f"{self.jobs_path(record.job.key.namespace)}/{record.job.key.name}")
            return found
        except KubeError as error:
            if error.status == 404 and error.reason:
                raise JobNotFound(f"{record.id}: was deleted meanwhile") from None
            raise

    def _not_found(self, name: str) -> str:
        text = f"{name}: there is no such job in {self.where}"
        with contextlib.suppress(JobsError):
            names = [record.id for record in self.records()]
            near = difflib.get_close_matches(name, names, 3, 0.5)
            text += (
                f"; did you mean {', '.join(near)}?"
                if near
                else f"; there are {len(names)}: see `{self.command('ls')}`"
            )
        if _is_local(name, self._environ):
            text += " (there is a local run of this name: add --local)"
        return text


def _segment(name: str) -> str:
    """A name as part of a path; what cannot be one finds nothing."""
    from urllib.parse import quote

    return quote(name, safe="")


def _store_of(record: JobRecord) -> ObjectStore:
    """Of a job whose spec this program does not understand: as much as it can read."""
    raw = record.document().get("spec", {}).get("objectStore") or {}
    known = {field.alias or name for name, field in ObjectStore.model_fields.items()}
    try:
        return ObjectStore.model_validate({key: value for key, value in raw.items() if key in known})
    except ValueError:
        raise JobsError(f"{record.id}: spec.objectStore cannot be read; update dlcloud") from None


def _is_local(name: str, environ: Mapping[str, str]) -> bool:
    runs = home(environ) / "runs"
    try:
        return any(path.name == name or path.name.rsplit("-", 2)[0] == name for path in runs.iterdir())
    except OSError:
        return False
