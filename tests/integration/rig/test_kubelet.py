"""The stand-in kubelet does to pods of a real API server what a kubelet does: all else is tested upon it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest

from ...rig.client import KubeClient
from ...rig.cluster import Cluster
from ...rig.kubelet import Kubelet
from ...rig.processes import until

LIMIT_S = 20.0
SLEEP = "import time; print('up', flush=True); time.sleep(100)"
SECURITY = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
Object = dict[str, Any]
Start = Callable[..., str]


@pytest.fixture(scope="module")
def node(control_plane: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubelet]:
    folder = tmp_path_factory.mktemp("kubelet")
    with Kubelet(control_plane.kubeconfig, folder, name="kubelet-test", labels={"rig/of": "kubelet-test"}) as kubelet:
        yield kubelet


class Pods:
    """The pods of one namespace, all of them on the node."""

    def __init__(self, kube: KubeClient, namespace: str) -> None:
        self.kube, self.namespace, self.path = kube, namespace, f"/api/v1/namespaces/{namespace}/pods"

    def start(self, name: str, code: str, env: list[Object] | None = None, **spec: Any) -> str:
        """A worker whose trainer runs this Python; its uid."""
        container = {
            "name": "trainer",
            "image": "any:1",
            "command": ["python3", "-c", code],
            "env": env or [],
            "securityContext": SECURITY,
            "volumeMounts": [{"name": "token", "mountPath": "/dlcloud/token"}],
        }
        source = {"serviceAccountToken": {"audience": "dlcloud", "expirationSeconds": 3600, "path": "token"}}
        whole = {
            "restartPolicy": "Never",
            "nodeSelector": {"rig/of": "kubelet-test"},
            "terminationGracePeriodSeconds": 3,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [container],
            "volumes": [{"name": "token", "projected": {"sources": [source]}}],
            **spec,
        }
        metadata = {"name": name, "labels": {"app.kubernetes.io/name": "dlcloud-worker"}}
        return str(self.kube.create(self.path, {"metadata": metadata, "spec": whole})["metadata"]["uid"])

    def get(self, name: str) -> Object | None:
        found: Object | None = self.kube.find(f"{self.path}/{name}")
        return found

    def until_phase(self, name: str, phase: str) -> Object:
        def look() -> Object | None:
            pod = self.get(name)
            return pod["status"] if pod is not None and pod["status"].get("phase") == phase else None

        return until(f"{name} is {phase}", look, LIMIT_S)

    def waiting(self, name: str) -> Object:
        pod = self.get(name) or {}
        statuses = pod.get("status", {}).get("containerStatuses") or [{}]
        found: Object = statuses[0].get("state", {}).get("waiting") or {}
        return found


@pytest.fixture
def pods(kube: KubeClient, namespace: str, node: Kubelet) -> Pods:
    return Pods(kube, namespace)


def test_a_pod_runs_and_its_end_is_told(pods: Pods, node: Kubelet) -> None:
    pods.start("a-0-1", "import sys; print('last words'); sys.exit(3)")
    status = pods.until_phase("a-0-1", "Failed")
    ended = status["containerStatuses"][0]["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"], ended["message"]) == (3, "Error", "last words")
    ready = next(one for one in status["conditions"] if one["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("False", "PodFailed")
    assert node.log(pods.namespace, "a-0-1") == "last words\n"


def test_its_token_is_a_real_one_bound_to_the_pod(pods: Pods, node: Kubelet) -> None:
    uid = pods.start("b-0-1", "print(open('/dlcloud/token/token').read(), end='')")
    pods.until_phase("b-0-1", "Succeeded")
    claims = jwt.decode(node.log(pods.namespace, "b-0-1"), options={"verify_signature": False})
    assert claims["aud"] == ["dlcloud"] and claims["kubernetes.io"]["pod"] == {"name": "b-0-1", "uid": uid}


def test_a_fresh_token_reaches_a_running_pod(pods: Pods, node: Kubelet) -> None:
    code = (
        "import time; path = '/dlcloud/token/token'; first = open(path).read(); print('up', flush=True)\n"
        "while open(path).read() == first: time.sleep(0.05)"
    )
    pods.start("c-0-1", code)
    until("it has read the first", lambda: "up" in node.log(pods.namespace, "c-0-1"), LIMIT_S)

    def renewed() -> bool:
        node.renew_tokens()  # two within the same second are alike
        return bool((pods.get("c-0-1") or {})["status"]["phase"] == "Succeeded")

    until("it has seen another", renewed, LIMIT_S, poll_s=0.3)


def test_a_secret_that_comes_later_lets_the_pod_start(pods: Pods, node: Kubelet) -> None:
    value = {"name": "WORD", "valueFrom": {"secretKeyRef": {"name": "late", "key": "word"}}}
    pods.start("d-0-1", "import os; print(os.environ['WORD'])", env=[value])
    waiting = until("it is told", lambda: pods.waiting("d-0-1").get("message") and pods.waiting("d-0-1"), LIMIT_S)
    assert waiting == {"reason": "CreateContainerConfigError", "message": 'secret "late" not found'}
    pods.kube.create(
        f"/api/v1/namespaces/{pods.namespace}/secrets", {"metadata": {"name": "late"}, "stringData": {"word": "here"}}
    )
    pods.until_phase("d-0-1", "Succeeded")
    assert node.log(pods.namespace, "d-0-1") == "here\n"


def test_a_volume_that_is_missing_is_an_event(pods: Pods) -> None:
    pods.start("e-0-1", "", volumes=[{"name": "token", "configMap": {"name": "none"}}])

    def told() -> list[str]:
        events = pods.kube.items(f"/api/v1/namespaces/{pods.namespace}/events")
        return [event["message"] for event in events if event["reason"] == "FailedMount"]

    assert until("it is told", told, LIMIT_S) == [
        'MountVolume.SetUp failed for volume "token" : configmap "none" not found'
    ]
    assert pods.waiting("e-0-1") == {"reason": "ContainerCreating"}


def test_a_deleted_pod_gets_its_grace_and_goes(pods: Pods, node: Kubelet) -> None:
    code = (
        "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\n"
        "print('up', flush=True); time.sleep(100)"
    )
    pods.start("f-0-1", code)
    until("it runs", lambda: "up" in node.log(pods.namespace, "f-0-1"), LIMIT_S)
    ended: set[int] = set()
    watch = pods.kube.watch(pods.path, timeout_s=15)
    pods.kube.delete(f"{pods.path}/f-0-1")
    for event in watch:
        state = event["object"]["status"]["containerStatuses"][0]["state"]
        ended |= {state["terminated"]["exitCode"]} if "terminated" in state else set()
        if event["type"] == "DELETED":
            break
    assert ended == {7}, "its program was asked, and its end was told before the object went"
    assert pods.get("f-0-1") is None


def test_a_dead_node_lets_nothing_go_until_it_is_back(pods: Pods, node: Kubelet) -> None:
    pods.start("g-0-1", SLEEP)
    pods.until_phase("g-0-1", "Running")
    node.freeze(kill=True)
    pods.kube.delete(f"{pods.path}/g-0-1", {"gracePeriodSeconds": 1})
    with pytest.raises(Exception, match="not within"):
        until("it is gone", lambda: pods.get("g-0-1") is None, 3)
    left = pods.get("g-0-1")
    assert left is not None and left["status"]["phase"] == "Running" and "deletionTimestamp" in left["metadata"]
    node.thaw()
    until("it is gone", lambda: pods.get("g-0-1") is None, LIMIT_S)


def test_memory_and_images_run_out_on_demand(pods: Pods, node: Kubelet) -> None:
    pods.start("h-0-1", SLEEP)
    pods.until_phase("h-0-1", "Running")
    node.end(pods.namespace, "h-0-1", 137, "OOMKilled")
    ended = pods.until_phase("h-0-1", "Failed")["containerStatuses"][0]["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (137, "OOMKilled")
    node.withhold_image("any:1", "no such image")
    pods.start("h-1-1", "")
    until("it backs off", lambda: pods.waiting("h-1-1").get("reason") == "ImagePullBackOff", LIMIT_S)
    assert "no such image" in pods.waiting("h-1-1")["message"]
    node.release_image("any:1")
    pods.until_phase("h-1-1", "Succeeded")
