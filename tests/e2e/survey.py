"""Two jobs of one namespace, looked at from inside while they run: `survey`, `Seen`.

May import the rigs. Asks once for all tests of a module; what it finds is for them to judge.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from ..cluster.place import Place
from . import evidence
from .inside import API_SERVER, TOKEN, Inside, listener, question
from .jobs import TRAINER, Jobs
from .release import SYSTEM, Release, is_ready
from .waiting import until

Object = dict[str, Any]
LONG, SCRIPT = "long", "script"
PORT = 8765
MIB = 1 << 20


@dataclass
class Seen:
    """Two jobs of one namespace as they trained: one built in, one a script with an image of its own."""

    namespace: str
    pods: dict[str, Object] = field(default_factory=dict)
    containers: dict[str, Object] = field(default_factory=dict)  # what a process finds there
    token: str = ""
    from_api_server: dict[str, int] = field(default_factory=dict)
    from_rendezvous: dict[str, tuple[int, str]] = field(default_factory=dict)
    told: str = ""  # all that the operator says aloud: logs, metrics, what it wrote about the jobs
    policies: dict[str, Object] = field(default_factory=dict)
    jobs: dict[str, Object] = field(default_factory=dict)
    enforced: bool = False
    reached_by_peer: bool = False
    reached_by_stranger: bool = False


def survey(jobs: Jobs, release: Release, place: Place) -> Seen:
    """Make the two jobs and ask them for everything, which takes as long as they need to start."""
    jobs.create_long(LONG)
    script = {"image": place.images.operator, "command": ["python3", "-c", "import time; time.sleep(900)"]}
    jobs.create(SCRIPT, script=script, workers={"count": 1}, checkpoint=None, objectStore=None)
    target = walled_pod(jobs, place)
    jobs.until_training(LONG, steps=5)
    jobs.until_phase(SCRIPT, "Running")
    found = Seen(jobs.namespace)
    found.jobs = {name: jobs.get(name) for name in (LONG, SCRIPT)}
    policies = jobs.api.items(f"/apis/networking.k8s.io/v1/namespaces/{jobs.namespace}/networkpolicies")
    found.policies = {one["metadata"]["name"]: one for one in policies if one["metadata"]["name"] != target}
    look_inside(found, jobs, release)
    try_network(found, jobs, target)
    try_tokens(found, jobs)
    found.told = told_by_operator(jobs, release)
    return found


def look_inside(found: Seen, jobs: Jobs, release: Release) -> None:
    found.pods = {
        "built-in worker": jobs.pod(LONG, 0),
        "script worker": jobs.pod(SCRIPT, 0),
        "operator": release.wait_leading(),
    }
    for kind, pod in found.pods.items():
        there = Inside(jobs.cluster, pod, "operator" if kind == "operator" else TRAINER).look()
        found.containers[kind] = there
        processes = [f"{one['command'][:50]}: {one['resident_bytes'] >> 20}" for one in there["processes"].values()]
        evidence.note(
            "memory",
            of=kind,
            usage_mib=round((there["memory_bytes"] or 0) / MIB),
            peak_mib=round((there["memory_peak_bytes"] or 0) / MIB),
            resident_mib=processes,
        )


def try_network(found: Seen, jobs: Jobs, target: str) -> None:
    peer, stranger = (Inside(jobs.cluster, jobs.pod(*one), TRAINER) for one in ((LONG, 1), (SCRIPT, 0)))
    walled = jobs.api.get(f"{jobs.pods_path}/{target}")["status"]["podIP"]
    found.enforced = not stranger.reaches(walled, PORT)
    address = jobs.pod(LONG, 0)["status"]["podIP"]
    port = jobs.until_round(LONG)["port"]  # rank 0 listens there for as long as the round lasts
    found.reached_by_peer, found.reached_by_stranger = (one.reaches(address, port) for one in (peer, stranger))


def walled_pod(jobs: Jobs, place: Place) -> str:
    """A pod that listens, and that nobody may reach, wherever such things are enforced; its name."""
    name = "walled"
    quiet = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    user = {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}}
    container = {
        "name": TRAINER,
        "image": place.images.operator,
        "command": listener(PORT, 600),
        "securityContext": quiet,
        "readinessProbe": {"exec": {"command": ["true"]}},
    }
    spec = {"containers": [container], "securityContext": user, "automountServiceAccountToken": False}
    policy = {"podSelector": {"matchLabels": {"app": name}}, "policyTypes": ["Ingress"]}
    policies = f"/apis/networking.k8s.io/v1/namespaces/{jobs.namespace}/networkpolicies"
    jobs.api.create(policies, {"metadata": {"name": name}, "spec": policy})
    jobs.api.create(jobs.pods_path, {"metadata": {"name": name, "labels": {"app": name}}, "spec": spec})
    path = f"{jobs.pods_path}/{name}/log"
    until(
        "the walled pod listens",
        lambda: is_ready(jobs.api.find(f"{jobs.pods_path}/{name}")) and "listening" in jobs.api.text(path),
        180,
    )
    return name


def try_tokens(found: Seen, jobs: Jobs) -> None:
    """What the API server and the rendezvous answer in worker 0 of the long job; its worker 1 is deleted meanwhile."""
    worker = Inside(jobs.cluster, jobs.pod(LONG, 0), TRAINER)
    found.token = worker.read(TOKEN).strip()
    paths = [
        "/api",
        f"/api/v1/namespaces/{jobs.namespace}/pods",
        f"/api/v1/namespaces/{jobs.namespace}/secrets",
        f"/apis/dlcloud.dev/v1/namespaces/{jobs.namespace}/trainingjobs/{LONG}",
        "/apis/dlcloud.dev/v1/trainingjobs",
    ]
    answers = worker.ask([question(API_SERVER + path) for path in paths])
    found.from_api_server = {path: status for path, (status, _) in zip(paths, answers, strict=True)}

    environment = found.containers["built-in worker"]["environment"]
    url, authority = environment["DLCLOUD_RENDEZVOUS_URL"], environment["DLCLOUD_CA"]

    def ask(job: str, pod: str, token: str | None = None, namespace: str = jobs.namespace) -> Object:
        path = f"/v1/namespaces/{namespace}/jobs/{job}/pods/{pod}/assignment?after=0&wait=0"
        return question(url + path, token, authority)

    leaving = jobs.pod(LONG, 1)
    name, uid = leaving["metadata"]["name"], leaving["metadata"]["uid"]
    old = Inside(jobs.cluster, leaving, TRAINER).read(TOKEN).strip()
    asked = {
        "its own pod": ask(LONG, worker.name),
        "no token": ask(LONG, worker.name, ""),
        "no such token": ask(LONG, worker.name, found.token[:-8] + "AAAAAAAA"),
        "another worker of its job": ask(LONG, name),
        "another job": ask(SCRIPT, jobs.pod(SCRIPT, 0)["metadata"]["name"]),
        "its own name in another job": ask(SCRIPT, worker.name),
        "another namespace": ask(LONG, worker.name, namespace="default"),
    }
    answers = worker.ask(list(asked.values()))
    jobs.delete_pod(leaving, grace_s=1)
    until(
        "worker 1 is replaced",
        lambda: uid not in {one["metadata"]["uid"] for one in jobs.pods(LONG)} and len(jobs.uids(LONG)) == 2,
        120,
    )
    gone = {"a pod that is gone": ask(LONG, name, old)}
    gone["its successor"] = ask(LONG, jobs.pod(LONG, 1)["metadata"]["name"], old)
    answers += worker.ask(list(gone.values()))
    found.from_rendezvous = dict(zip([*asked, *gone], answers, strict=True))


def told_by_operator(jobs: Jobs, release: Release) -> str:
    path = f"/api/v1/namespaces/{SYSTEM}/services/dlcloud-metrics:metrics/proxy/metrics"
    written = [jobs.get(name) for name in (LONG, SCRIPT)], jobs.events(LONG), jobs.events(SCRIPT), jobs.pods(LONG)
    return release.operator_logs() + jobs.api.text(path) + json.dumps(written)
