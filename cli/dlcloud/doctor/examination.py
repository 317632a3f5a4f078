"""Which checks are made, for a place and perhaps a manifest, and in which order their lines come.

May import this package and the commands' places.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from importlib.util import find_spec
from typing import Any

from dlcloud_operator.api import InvalidManifest, TrainingJob

from ..home import home
from ..jobs.cluster import ClusterJobs
from ..jobs.errors import JobsError
from ..local.gpus import visible_gpus
from ..objects import Access
from ..store import given_access
from . import machine, stores
from .findings import Check, Finding, Skipped, ok, split_remedy
from .local_job import judge_size
from .programs import Bench

_WORKLOAD = "cnn"  # forked where no manifest names another


@dataclass
class Examination:
    """What is examined. `job` is the manifest's, None without one."""

    bench: Bench
    job: TrainingJob | None = None
    manifest: str = ""
    endpoint: str = ""
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)

    def local(self) -> list[Check]:
        """For local runs on this machine."""
        from .torch_checks import TorchChecks

        torch = TorchChecks(self.bench, self.environ)
        data_home = home(self.environ)
        workload = self.job.spec.workload if self.job else _WORKLOAD
        checks = [
            Check("python", "quick", lambda: machine.python(local=True)),
            Check("packages", "quick", lambda: machine.packages(machine.LOCAL_NEEDS, machine.LOCAL_WISHES)),
            Check("torch", "torch", torch.torch),
            Check("gpu", "torch", torch.gpu),
            Check("fork", "torch", lambda: torch.fork(workload)),
            Check("cpu", "quick", machine.processors),
            Check("memory", "quick", machine.memory),
            Check("shared-memory", "quick", machine.shared_memory),
            Check("disk", "disk", lambda: machine.disk(data_home, "DLCLOUD_HOME")),
            Check("temporary-files", "tmp", lambda: machine.disk(machine.temporary_folder(self.environ), "TMPDIR")),
            Check("open-files", "quick", machine.open_files),
            Check("loopback", "quick", machine.loopback),
            Check("local-store", "store", lambda: stores.embedded(self.bench, self.environ)),
        ]
        if self.job is not None:
            job = self.job
            checks += [Check("manifest", "quick", self._manifest), Check("size", "quick", lambda: self._size(job))]
            checks += self._job_stores(job, self._local_access, bool(self.endpoint))
        elif self.endpoint:
            checks.append(Check("s3-server", "store", lambda: stores.server(self._local_access())))
        return checks

    def cluster(self, source: ClusterJobs) -> list[Check]:
        """For jobs in a cluster, as the user of a kubeconfig."""
        from . import cluster_job
        from .cluster import ClusterChecks, is_usable
        from .references import references

        checks = ClusterChecks(source)
        job = self.job
        spec = job.spec if job else cluster_job.sample_spec()

        def with_api(look: Callable[[Any, str], Finding]) -> Callable[[], Finding]:
            return lambda: look(checks.api, source.connection.namespace)

        def pods(api: Any, namespace: str) -> Finding:
            _must_have("jinja2")
            return cluster_job.pods(api, namespace, spec)

        lane = "cluster"
        found = [
            Check("python", "quick", lambda: machine.python(local=False)),
            Check("packages", "quick", lambda: machine.packages(machine.CLUSTER_NEEDS, {})),
            Check("kubeconfig", lane, checks.kubeconfig),
            Check("api-server", lane, checks.server),
            Check("crd", lane, checks.crd),
            Check("operator", lane, checks.operator),
            Check("rights", lane, checks.rights),
            Check("nodes", lane, checks.nodes),
            Check("namespace", lane, checks.namespace),
            Check("pods", lane, with_api(pods)),
        ]
        if job is None:
            return found
        found += [
            Check("manifest", lane, with_api(lambda api, namespace: cluster_job.accepted(api, namespace, job))),
            Check("objects", lane, with_api(lambda api, ns: cluster_job.objects(api, ns, references(job.spec)))),
            Check("quota", lane, with_api(lambda api, ns: cluster_job.judge_quota(
                job.spec, list(api.items(f"/api/v1/namespaces/{ns}/resourcequotas"))))),
            Check("size", lane, lambda: cluster_job.judge_fit(
                job.spec, [node for node in checks.node_list if is_usable(node)])),
        ]  # fmt: skip
        opened = _Opened(checks, source, job, self.endpoint, self.environ)
        return found + self._job_stores(job, opened.access, True, lane, in_cluster=True)

    # --- a job's stores ---

    def _job_stores(
        self,
        job: TrainingJob,
        access: Callable[[], Access],
        usable: bool,
        lane: str = "store",
        in_cluster: bool = False,
    ) -> list[Check]:
        """The server, then each URI."""
        uses = stores.uses_of(job.spec)
        data = job.spec.data.uri if job.spec.data else ""
        checks = []

        def reach(uri: str) -> Access | None:
            if in_cluster:
                _must_have("obstore", "torch")
            if uri.startswith("file://") and in_cluster:
                raise Skipped(f"{uri} lies in the pods, not here")
            if not uri.startswith("s3://"):
                return None
            if not usable:
                raise Skipped(f"{uri} lies in the run's own S3 server (give --endpoint URL for another)")
            return access()

        if stores.needs_server(uses, data) and usable:
            checks.append(Check("s3-server", lane, lambda: stores.server(access())))
        for use in uses:
            name = "checkpoints" if use.write else "resume-from"
            checks.append(Check(name, lane, partial(self._try_at, use, reach, job)))
        if data:
            checks.append(Check("data", lane, lambda: self._try_data(job, data, reach(data))))
        return checks

    def _try_at(self, use: stores.Use, reach: Callable[[str], Access | None], job: TrainingJob) -> Finding:
        return self._try(use, reach(use.uri), job)

    def _try(self, use: stores.Use, access: Access | None, job: TrainingJob) -> Finding:
        return stores.try_store(self.bench, use, access, self.environ, job.spec.object_store.encryption)

    def _try_data(self, job: TrainingJob, uri: str, access: Access | None) -> Finding:
        if job.spec.workload:
            return stores.try_data(self.bench, job.spec.workload, uri, access, self.environ)
        return self._try(stores.Use("data.uri", uri, False), access, job)

    def _local_access(self) -> Access:
        region = self.job.spec.object_store.region if self.job else "us-east-1"
        try:
            return given_access(self.endpoint, region, self.environ)
        except InvalidManifest as invalid:
            raise JobsError("; ".join(problem.message for problem in invalid.problems)) from None

    # --- the manifest here ---

    def _manifest(self) -> Finding:
        assert self.job is not None
        return ok(f"{self.manifest}: TrainingJob {self.job.metadata.name}, {self.job.spec.workload or 'script'}")

    def _size(self, job: TrainingJob) -> Finding:
        cores = float(len(os.sched_getaffinity(0)))
        limit, free = machine.cpu_limit(), machine.memory_free()
        cores = cores if limit is None else min(cores, limit)
        return judge_size(job, cores, free[0] if free else None, len(visible_gpus(self.environ)))


@dataclass
class _Opened:
    """The way to a job's store in a cluster, found once and kept open."""

    checks: Any
    source: ClusterJobs
    job: TrainingJob
    endpoint: str
    environ: Mapping[str, str]

    def access(self) -> Access:
        """Raises Skipped when it cannot be had from here: a pod may well have it."""
        return self._found

    @cached_property
    def _found(self) -> Access:
        from ..jobs.cluster_store import store_access

        namespace = self.source.connection.namespace
        opening = store_access(self.checks.api, namespace, self.job.spec.object_store, self.endpoint, self.environ)
        with contextlib.ExitStack() as stack:
            try:
                found = stack.enter_context(opening)
            except JobsError as error:
                message, remedy = split_remedy(str(error))
                raise Skipped(f"cannot be tried from here: {message}" + (f" ({remedy})" if remedy else "")) from None
            self._kept = stack.pop_all()  # a CA's file lasts as long as this object
        return found


def _must_have(*packages: str) -> None:
    """Raises Skipped without them: who only talks to a cluster need not have them."""
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise Skipped(f"needs {', '.join(missing)} on this machine: pip install 'dlcloud[local]'")
