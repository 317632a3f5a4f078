"""Two teams, each with `edit` rights in a namespace of its own: neither reads, speaks for or stops the other's jobs."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ..rig.cluster import Cluster
from ..rig.jobs import manifest
from .jobs import DIGITS, Jobs
from .release import Release

Object = dict[str, Any]
NAME = "work"  # both call their job so
AUDIENCE = "dlcloud"
# Runs in a worker: asks the rendezvous with a token, as its agent does. Prints a list of [status, answer].
SPEAK = """
import json, os, ssl, sys, urllib.error, urllib.request
context = ssl.create_default_context(cadata=os.environ["DLCLOUD_CA"])
own = open(os.environ["DLCLOUD_TOKEN_FILE"]).read().strip()
answers = []
for one in json.load(sys.stdin):
    body = None if one["body"] is None else json.dumps(one["body"]).encode()
    headers = {"Authorization": "Bearer " + (one["token"] or own), "Content-Type": "application/json"}
    url = os.environ["DLCLOUD_RENDEZVOUS_URL"] + one["path"]
    request = urllib.request.Request(url, body, headers)
    try:
        with urllib.request.urlopen(request, timeout=40, context=context) as answer:
            answers.append([answer.status, answer.read().decode()])
    except urllib.error.HTTPError as error:
        answers.append([error.code, error.read().decode()])
print(json.dumps(answers))
"""


@dataclass(frozen=True)
class Tenant:
    """A team: the jobs of its namespace as the administrator sees them, and the kubeconfig its people have."""

    jobs: Jobs
    kubeconfig: Path

    @property
    def namespace(self) -> str:
        return self.jobs.namespace

    def kubectl(self, *arguments: str, given: Any = None) -> str:
        """As one of the team. Raises KubectlError."""
        return self.jobs.cluster.kubectl(*arguments, given=given, kubeconfig=self.kubeconfig)

    def refusal(self, *arguments: str, given: Any = None) -> str:
        """What kubectl says of something that the team may not do."""
        return self.jobs.cluster.kubectl(*arguments, given=given, kubeconfig=self.kubeconfig, fails=True)

    def train(self, **more: Any) -> None:
        """Apply a job of one worker with kubectl."""
        training = {"workers": {**DIGITS["workers"], "count": 1}, "parameters": {"epochs": 200, "batchSize": 32}}
        self.kubectl("apply", "-f", "-", given=manifest(NAME, {**DIGITS, **training, **more}))

    def speak(self, pod: str, *said: Object) -> list[tuple[int, str]]:
        """What the rendezvous answers to requests from inside a pod of the team."""
        told = self.kubectl("exec", "-i", pod, "-c", "trainer", "--", "python3", "-c", SPEAK, given=list(said))
        return [(status, answer) for status, answer in json.loads(told)]


@pytest.fixture
def make_tenant(cluster: Cluster, release: Release, make_namespace: Callable[..., str]) -> Callable[[], Tenant]:
    """A namespace that may use the store, and a service account with the cluster role `edit` in it."""

    def make() -> Tenant:
        namespace = make_namespace("team")
        release.admit(namespace)
        cluster.make_service_account(namespace, "developer")
        binding = {
            "metadata": {"name": "developer"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
            "subjects": [{"kind": "ServiceAccount", "name": "developer", "namespace": namespace}],
        }
        cluster.api.create(f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/rolebindings", binding)
        return Tenant(Jobs(cluster, namespace), cluster.kubeconfig_for_service_account(namespace, "developer"))

    return make


def test_who_may_edit_a_namespace_has_its_training_jobs_and_no_others(make_tenant: Callable[[], Tenant]) -> None:
    """What Kubernetes' own role `edit` gives, with the chart's additions to it."""
    ours, theirs = make_tenant(), make_tenant()
    for team in (ours, theirs):
        team.train(suspend=True)
        team.jobs.until_phase(NAME, "Suspended")
    before = theirs.jobs.get(NAME)

    ours.kubectl("patch", "tj", NAME, "--type=merge", "-p", '{"metadata":{"labels":{"seen":"by-us"}}}')
    ours.kubectl("scale", f"tj/{NAME}", "--replicas=2")
    assert NAME in ours.kubectl("get", "tj") and "Suspended" in ours.kubectl("describe", "tj", NAME)

    there = ("-n", theirs.namespace)
    attempts: list[tuple[str, ...]] = [
        ("get", "tj", NAME, *there),
        ("get", "tj", *there),
        ("get", "tj", "--all-namespaces"),
        ("describe", "tj", NAME, *there),
        ("get", "pods", *there),
        ("get", "events", *there),
        ("get", "secret", "dlcloud-s3", *there),
        ("get", "networkpolicies", *there),
        ("logs", f"{NAME}-0-1", *there),
        ("exec", f"{NAME}-0-1", *there, "--", "true"),
        ("patch", "tj", NAME, *there, "--type=merge", "-p", '{"spec":{"suspend":false}}'),
        ("patch", "tj", NAME, *there, "--subresource=status", "--type=merge", "-p", '{"status":{"phase":"Failed"}}'),
        ("scale", f"tj/{NAME}", *there, "--replicas=4"),
        ("delete", "tj", NAME, *there),
        ("delete", "pods", "--all", *there),
        ("create", "token", "default", "--audience", AUDIENCE, *there),
        ("delete", "lease", "dlcloud-operator", "-n", "dlcloud-system"),
        ("get", "secrets", "-n", "dlcloud-system"),
        ("delete", "crd", "trainingjobs.dlcloud.dev"),
    ]
    for attempt in attempts:
        assert "forbidden" in ours.refusal(*attempt).lower(), attempt
    intruder = {**manifest("intruder", DIGITS), "metadata": {"name": "intruder", "namespace": theirs.namespace}}
    assert "forbidden" in ours.refusal("create", "-f", "-", given=intruder).lower()
    # A status is the operator's alone, in one's own namespace as well.
    fake = ("--subresource=status", "--type=merge", "-p", '{"status":{"phase":"Succeeded"}}')
    assert "forbidden" in ours.refusal("patch", "tj", NAME, *fake).lower()

    after = theirs.jobs.get(NAME)
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    assert theirs.jobs.find("intruder") is None


def test_a_pod_of_one_team_cannot_speak_for_another_teams_job(make_tenant: Callable[[], Tenant]) -> None:
    """Of the same name, on the same operator: with its own pod's token, and with all it can ask a token for."""
    ours, theirs = make_tenant(), make_tenant()
    for team in (ours, theirs):
        team.train()
    for team in (ours, theirs):
        team.jobs.until_training(NAME, steps=2)
    our_pod, their_pod = (team.jobs.pod(NAME, 0) for team in (ours, theirs))
    before = theirs.jobs.get(NAME)["status"]
    ended = {"round": before["round"]["number"], "rank": 0, "outcome": "Error", "exitCode": 1, "message": "a lie"}
    at = "2026-01-02T03:04:05.123456Z"
    lie = {"sentAt": at, "round": ended["round"], "results": [{**ended, "endedAt": at}], "ranks": []}

    # What somebody with `edit` can ask for: tokens without a pod, and of a pod of the team's own.
    plain = ours.kubectl("create", "token", "default", "--audience", AUDIENCE).strip()
    bound = ours.kubectl(
        "create", "token", "default", "--audience", AUDIENCE,
        "--bound-object-kind", "Pod", "--bound-object-name", our_pod["metadata"]["name"],
        "--bound-object-uid", our_pod["metadata"]["uid"],
    ).strip()  # fmt: skip
    name = str(our_pod["metadata"]["name"])
    assert name == their_pod["metadata"]["name"]
    own = path(ours.namespace, name) + "/assignment?after=0&wait=0"
    foreign = path(theirs.namespace, name)
    answers = ours.speak(
        name,
        said(own),
        said(f"{foreign}/assignment?after=0&wait=0"),
        said(f"{foreign}/report", lie),
        said(f"{foreign}/report", lie, token=bound),
        said(f"{foreign}/report", lie, token=plain),
        said(own, token=plain),
    )
    assert [status for status, _ in answers] == [200, 403, 403, 403, 401, 401], answers
    assert json.loads(answers[0][1])["job"]["namespace"] == ours.namespace
    told = [json.loads(answer)["error"] for _, answer in answers[1:]]
    assert told[:3] == ["the token speaks for another pod"] * 3
    assert told[3:] == ["the token is not bound to a pod; a projected service account token is needed"] * 2

    # A pod that carries their job's labels and names their job as its owner, in a namespace where that job is not.
    theirs_uid = theirs.jobs.get(NAME)["metadata"]["uid"]
    ours.kubectl("apply", "-f", "-", given=disguised(our_pod, theirs_uid))
    after = theirs.jobs.until_training(NAME, steps=(before["progress"]["step"]) + 10)
    assert after["round"] == before["round"] and after["restarts"] == 0 and after["failures"] == []
    assert theirs.jobs.pod(NAME, 0)["metadata"]["uid"] == their_pod["metadata"]["uid"]
    ours.kubectl("delete", "tj", NAME)
    ours.jobs.until_gone(NAME, limit_s=120)
    assert theirs.jobs.phase(NAME) == "Running" and theirs.jobs.status(NAME)["round"] == before["round"]


# --- what is said ---


def path(namespace: str, pod: str) -> str:
    """Of a pod of the job, on the rendezvous server (docs/protocol.md, section 2)."""
    return f"/v1/namespaces/{namespace}/jobs/{NAME}/pods/{pod}"


def said(path: str, body: Object | None = None, token: str = "") -> Object:
    """A request for `SPEAK`; without a token it takes the pod's own."""
    return {"path": path, "body": body, "token": token}


def disguised(pod: Object, owner_uid: str) -> Object:
    """A pod like a worker of the job with this uid."""
    owner = {**pod["metadata"]["ownerReferences"][0], "uid": owner_uid}
    labels = {**pod["metadata"]["labels"], "dlcloud.dev/index": "0"}
    spec = {
        "containers": [{**pod["spec"]["containers"][0], "command": ["sleep", "60"], "args": [], "volumeMounts": []}],
        "securityContext": pod["spec"]["securityContext"],
    }
    metadata = {"name": f"{NAME}-0-{secrets.randbelow(900) + 100}", "labels": labels, "ownerReferences": [owner]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
