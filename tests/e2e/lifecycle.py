"""What stays of a release and of a job while the one or the other changes: `Training`, `objects_of_dlcloud`.

May import the rigs. For the modules that install, upgrade and uninstall dlcloud under a job that trains.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from ..rig.cluster import Cluster
from ..rig.helm import CHART, helm
from .jobs import Jobs, Object
from .release import DEFINITION, HOME, NAME, OPERATOR, STORE, SYSTEM, Release
from .waiting import until

CRD = "trainingjobs.dlcloud.dev"
KEPT = ("dlcloud-ca", STORE)  # Secrets in SYSTEM
# What Kubernetes makes itself, and takes away after a while.
_NOT_OURS = {("ConfigMap", "kube-root-ca.crt"), ("ServiceAccount", "default")}
_NODES = ("Node", "CSINode")  # named like the cluster, which may well be called dlcloud
_FADING = ("APIService", "ComponentStatus", "Endpoints", "EndpointSlice", "Event", "PodMetrics")
_CPU = (
    "import os\n"
    "print(sum(float(x) for p in {pids} "
    "for x in open(f'/proc/{{p}}/stat').read().rpartition(')')[2].split()[11:13]) / os.sysconf('SC_CLK_TCK'))"
)


@dataclass(frozen=True)
class Training:
    """A job that trains, as it was at one moment; `untouched` compares it with what it is now."""

    jobs: Jobs
    name: str
    status: Object
    uids: dict[int, str]
    containers: list[str]

    @classmethod
    def now(cls, jobs: Jobs, name: str) -> Training:
        """Once it trains."""
        status = jobs.until_training(name)
        return cls(jobs, name, status, jobs.uids(name), container_ids(jobs, name))

    def goes_on(self, limit_s: float | None = None) -> Object:
        """The status with later steps and a later checkpoint than now, of the same round in the same containers."""
        now = self.jobs.status(self.name)
        step, saved = now["progress"]["step"], now["checkpoint"]["step"]

        def look(status: Object) -> Object | None:
            further = (status.get("progress") or {}).get("step", 0) > step + 5
            return status if further and (status.get("checkpoint") or {}).get("step", 0) > saved else None

        found: Object = self.jobs.until(self.name, f"{self.name} trains and saves", look, limit_s)
        self.untouched(found)
        return found

    def untouched(self, status: Object) -> None:
        """Nothing was started again, nothing counted."""
        told = self.jobs.told(self.name)
        assert self.jobs.uids(self.name) == self.uids, told
        assert container_ids(self.jobs, self.name) == self.containers, told
        assert status["round"]["number"] == self.status["round"]["number"], told
        assert status.get("restarts", 0) == self.status.get("restarts", 0), told

    def trains_without_being_asked(self, cpu_s: float = 1.0) -> None:
        """Each worker's rank has used so much more of a CPU: true also while nobody hears of its steps."""
        for index in self.uids:
            pod = self.jobs.pod(self.name, index)
            pids = self.jobs.rank_pids(pod)
            assert pids, f"no rank runs in {pod['metadata']['name']}"
            used = cpu_of(self.jobs, pod, pids)
            until(
                f"worker {index} computes",
                lambda pod=pod, pids=pids, used=used: cpu_of(self.jobs, pod, pids) > used + cpu_s,  # type: ignore[misc]
                120,
            )


def cpu_of(jobs: Jobs, pod: Object, pids: list[int]) -> float:
    """The seconds of CPU that these processes of the pod have used."""
    return float(jobs.exec(pod, "python3", "-c", _CPU.format(pids=pids)))


def container_ids(jobs: Jobs, name: str) -> list[str]:
    """Of all pods of the job: another id is another start."""
    return [one["containerID"] for pod in jobs.pods(name) for one in (pod["status"].get("containerStatuses") or ())]


def secrets(release: Release) -> dict[str, Object]:
    """The contents of the workers' CA and of the store's keys."""
    path = f"/api/v1/namespaces/{SYSTEM}/secrets"
    return {name: release.api.get(f"{path}/{name}")["data"] for name in KEPT}


def operator_uids(release: Release) -> set[str]:
    return {pod["metadata"]["uid"] for pod in release.operator_pods()}


def store_pod(release: Release) -> Object | None:
    """The bundled store's pod, if there is one."""
    found: Object | None = release.api.find(f"/api/v1/namespaces/{SYSTEM}/pods/{STORE}-0")
    return found


def objects_of_dlcloud(cluster: Cluster) -> set[tuple[str, str, str]]:
    """(kind, namespace, name) of everything in the cluster that is dlcloud's: by its namespace, its label or its name.

    Every kind that can be listed is. What jobs own in their namespaces is not looked for: their tests do.
    """
    found = set()
    for path, kind in listable(cluster):
        for metadata in (one["metadata"] for one in cluster.api.items(path)):
            namespace, name = metadata.get("namespace", ""), metadata["name"]
            instance = (metadata.get("labels") or {}).get("app.kubernetes.io/instance")
            near = namespace in ("", HOME) and "dlcloud" in name
            if (namespace == SYSTEM or instance == NAME or near) and (kind, name) not in _NOT_OURS:
                found.add((kind, namespace, name))
    return found


def listable(cluster: Cluster) -> Iterator[tuple[str, str]]:
    """The path of each kind's list over all namespaces, and the kind."""
    groups = ["/api/v1"]
    groups += [f"/apis/{one['preferredVersion']['groupVersion']}" for one in cluster.api.get("/apis")["groups"]]
    for group in groups:
        for one in (cluster.api.find(group) or {}).get("resources") or ():
            if "list" in one["verbs"] and one["kind"] not in (*_NODES, *_FADING):
                yield f"{group}/{one['name']}", one["kind"]


def uninstall(release: Release, home: str = HOME) -> None:
    """`helm uninstall`, as docs/install.md says it; returns when the pods are gone."""
    release.helm("uninstall", NAME, "-n", home, "--wait")
    until("the operator is gone", lambda: not operator_pods_at_all(release), 120)
    until("the store is gone", lambda: store_pod(release) is None, 120)


def operator_pods_at_all(release: Release) -> list[Any]:
    """Those that are being deleted as well."""
    path = f"/api/v1/namespaces/{SYSTEM}/pods"
    return list(release.api.items(path, labelSelector=f"app.kubernetes.io/name={OPERATOR}"))


def remove_all(release: Release) -> None:
    """The two commands of docs/install.md for being rid of all of it."""
    release.cluster.kubectl("delete", "crd", CRD, "--ignore-not-found", "--wait=false")
    release.cluster.kubectl("delete", "namespace", SYSTEM, "--ignore-not-found", "--wait=false")
    until("the definition is gone", lambda: release.api.find(DEFINITION) is None, 180)
    until("the namespace is gone", lambda: release.api.find(f"/api/v1/namespaces/{SYSTEM}") is None, 180)


def install(release: Release, home: str = HOME, *options: str, values: Object | None = None) -> tuple[str, float]:
    """`helm install dlcloud charts/`, then `kubectl rollout status`; what helm said, and the seconds."""
    began = time.monotonic()
    given = release.values() if values is None else values
    said = release.helm("install", NAME, str(CHART), "-n", home, *options, values=given, timeout_s=400)
    rollout = ("rollout", "status", "-n", SYSTEM, f"deployment/{OPERATOR}", "--timeout=180s", "--request-timeout=0")
    with contextlib.suppress(Exception):  # said again by wait_leading, with a longer limit
        release.cluster.kubectl(*rollout)
    release.wait_leading()
    return said, round(time.monotonic() - began, 1)


def someone_elses_store(release: Release, namespace: str) -> tuple[str, Object]:
    """An S3 server with buckets in a namespace, which is no part of a release; its endpoint and the jobs' keys."""
    values = {**release.values(), "namespaceOverride": namespace, "createNamespace": False}
    values["s3"] = {**values["s3"], "jobNamespaces": []}
    only = [part for name in ("s3", "scripts") for part in ("-s", f"templates/{name}.yaml")]
    text = helm("template", "external", str(CHART), "--kube-version", "1.36.0", *only, values=values)
    items = [one for one in yaml.safe_load_all(text) if one]
    release.cluster.kubectl("apply", "-f", "-", given={"apiVersion": "v1", "kind": "List", "items": items})
    made = f"/apis/batch/v1/namespaces/{namespace}/jobs/external-dlcloud-s3-buckets"
    until("its buckets are made", lambda: release.api.get(made).get("status", {}).get("succeeded"), 240)
    data = release.api.get(f"/api/v1/namespaces/{namespace}/secrets/external-dlcloud-s3")["data"]
    keys = {name: data[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    return f"http://external-dlcloud-s3.{namespace}.svc:8333", keys


@contextlib.contextmanager
def own_jobs(release: Release, prefix: str, made: list[str]) -> Iterator[Jobs]:
    """Jobs in a namespace for the length of the block, which may use the bundled store."""
    namespace = release.cluster.make_namespace(prefix)
    made.append(namespace)
    try:
        release.admit(namespace)
        yield Jobs(release.cluster, namespace)
    finally:
        release.cluster.delete_namespace(namespace)
