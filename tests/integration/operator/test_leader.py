"""The leader's label on operator pods, on a real API server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dlcloud_operator.kube.api import KubeApi
from dlcloud_operator.kube.connection import Connection
from dlcloud_operator.kube.leader import LABEL_LEADER, LeaderLabel

from ...rig.client import KubeClient
from ...rig.cluster import Cluster
from .proxy import Proxy

RIGHTS = [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "patch"]}]


def make_pod(kube: KubeClient, namespace: str, name: str, leader: bool = False, app: str = "dlcloud-operator") -> None:
    labels = {"app.kubernetes.io/name": app, **({LABEL_LEADER: "true"} if leader else {})}
    container = {
        "name": "operator",
        "image": "operator",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    body = {"metadata": {"name": name, "labels": labels}, "spec": {"containers": [container]}}
    kube.create(f"/api/v1/namespaces/{namespace}/pods", body)


def leaders(kube: KubeClient, namespace: str) -> list[str]:
    pods = kube.items(f"/api/v1/namespaces/{namespace}/pods", labelSelector=f"{LABEL_LEADER}=true")
    return sorted(pod["metadata"]["name"] for pod in pods)


def with_label(
    kubeconfig: Path,
    namespace: str,
    test: Callable[[LeaderLabel], Any],
    pod: str = "new",
    leads: Callable[[], bool] = lambda: True,
) -> None:
    async def scenario() -> None:
        api = KubeApi(Connection(kubeconfig), patience_s=0.0)
        try:
            await test(LeaderLabel(api, namespace, pod, leads, resync_s=0.2))
        finally:
            await api.close()

    asyncio.run(scenario())


def test_the_leader_labels_its_pod_with_the_rights_of_the_chart_and_no_more(
    control_plane: Cluster, kube: KubeClient, namespace: str
) -> None:
    make_pod(kube, namespace, "new")
    control_plane.make_service_account(namespace, "operator", RIGHTS)
    kubeconfig = control_plane.kubeconfig_for_service_account(namespace, "operator")
    with_label(kubeconfig, namespace, LeaderLabel.take)
    assert leaders(kube, namespace) == ["new"]


def test_a_new_leader_takes_the_label_from_the_one_before(
    control_plane: Cluster, kube: KubeClient, namespace: str
) -> None:
    make_pod(kube, namespace, "new")
    make_pod(kube, namespace, "old", leader=True)
    make_pod(kube, namespace, "foreign", leader=True, app="something-else")
    with_label(control_plane.kubeconfig, namespace, LeaderLabel.take)
    assert leaders(kube, namespace) == ["foreign", "new"]


def test_who_stops_gives_its_label_away(control_plane: Cluster, kube: KubeClient, namespace: str) -> None:
    make_pod(kube, namespace, "new", leader=True)
    with_label(control_plane.kubeconfig, namespace, LeaderLabel.drop)
    assert leaders(kube, namespace) == []


def test_who_does_not_lead_any_more_labels_nothing(control_plane: Cluster, kube: KubeClient, namespace: str) -> None:
    make_pod(kube, namespace, "frozen")
    make_pod(kube, namespace, "leader", leader=True)
    with_label(control_plane.kubeconfig, namespace, LeaderLabel.take, pod="frozen", leads=lambda: False)
    assert leaders(kube, namespace) == ["leader"]


def test_what_failed_is_tried_again_and_what_others_changed_is_mended(
    control_plane: Cluster, kube: KubeClient, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    make_pod(kube, namespace, "new")

    async def labelled(names: list[str]) -> None:
        async with asyncio.timeout(10):
            while await asyncio.to_thread(leaders, kube, namespace) != names:  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    with Proxy(control_plane.kubeconfig) as proxy:
        proxy.answer(lambda call: call.method == "PATCH", 503, times=2)

        async def test(label: LeaderLabel) -> None:
            running = asyncio.create_task(label.run())
            try:
                await labelled(["new"])
                make_pod(kube, namespace, "late", leader=True)
                await labelled(["new"])
            finally:
                running.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await running

        with_label(proxy.kubeconfig(control_plane.kubeconfig), namespace, test)
    assert [r.levelname for r in caplog.records if r.name.endswith("leader")].count("WARNING") == 1


def test_outside_of_a_cluster_nothing_is_labelled(control_plane: Cluster, kube: KubeClient, namespace: str) -> None:
    make_pod(kube, namespace, "other", leader=True)

    async def test(label: LeaderLabel) -> None:
        await label.run()
        await label.drop()

    with_label(control_plane.kubeconfig, namespace, test, pod="")
    assert leaders(kube, namespace) == ["other"]
