"""The kubelet is told the truth by the operator's probes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ..cluster.nodes import Nodes
from ..rig.client import KubeClient
from .release import OPERATOR, SYSTEM, Release, is_ready
from .waiting import until

Object = dict[str, Any]


@pytest.mark.full
def test_an_operator_that_is_of_no_use_is_not_ready_and_one_that_hangs_is_restarted(
    release: Release, kube: KubeClient, namespace: str, nodes: Nodes
) -> None:
    """A copy of the operator's pod, with the chart's probes asked more often, which cannot reach the API server."""
    pods = f"/api/v1/namespaces/{namespace}/pods"
    kube.create(pods, {"metadata": {"name": "lost"}, "spec": lost_operator(release, kube)})

    def condition(look: Callable[[Object], Any], what: str) -> Any:
        return until(what, lambda: look(kube.get(f"{pods}/lost")), 180)

    def refused() -> list[str]:
        events = kube.items(f"/api/v1/namespaces/{namespace}/events", fieldSelector="involvedObject.name=lost")
        return [one["message"] for one in events if one["reason"] == "Unhealthy" and "eadiness" in one["message"]]

    condition(lambda pod: container(pod).get("started"), "the copy has started")
    told = until("the kubelet finds it not ready", refused, 120)
    assert any("503" in message for message in told), told
    pod = kube.get(f"{pods}/lost")
    assert not is_ready(pod) and container(pod)["restartCount"] == 0

    node = pod["spec"]["nodeName"]
    nodes.signal(node, list(nodes.processes(node, pod["metadata"]["uid"])), "STOP")
    condition(lambda pod: container(pod)["restartCount"] >= 1, "the kubelet restarts what hangs")


def container(pod: Object) -> Object:
    found: Object = (pod["status"].get("containerStatuses") or [{}])[0]
    return found


def lost_operator(release: Release, kube: KubeClient) -> Object:
    """The spec of the Deployment's pods, without the CA, and with the API server where nobody listens."""
    path = f"/apis/apps/v1/namespaces/{SYSTEM}/deployments/{OPERATOR}"
    spec: Object = kube.get(path)["spec"]["template"]["spec"]
    one = spec["containers"][0]
    one["args"] = [flag for flag in one["args"] if not flag.startswith("--tls-")] + ["--insecure-http"]
    one["env"] += [{"name": "KUBERNETES_SERVICE_HOST", "value": "127.0.0.1"}]
    one["volumeMounts"] = [mount for mount in one["volumeMounts"] if mount["name"] != "tls"]
    for probe in ("livenessProbe", "readinessProbe"):
        one[probe] = {**one[probe], "periodSeconds": 2, "failureThreshold": 2}
    volumes = [volume for volume in spec["volumes"] if volume["name"] != "tls"]
    dropped = ("serviceAccountName", "serviceAccount")
    kept = {key: value for key, value in spec.items() if key not in dropped}
    return {**kept, "volumes": volumes, "terminationGracePeriodSeconds": 1}
