"""The NetworkPolicy of a job on a real API server: made once, mended, refused."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dlcloud_operator.core.model import JobView
from dlcloud_operator.engine.clock import utc_now
from dlcloud_operator.engine.cluster import Refused
from dlcloud_operator.engine.network_policy import NetworkPolicies
from dlcloud_operator.kube.api import KubeApi
from dlcloud_operator.kube.cluster import KubeCluster
from dlcloud_operator.kube.connection import Connection
from dlcloud_operator.kube.events import EventRecorder
from dlcloud_operator.kube.jobs import JobReader
from dlcloud_operator.kube.store import Store
from dlcloud_operator.kube.troubles import Troubles

from ...rig.client import KubeClient
from ...rig.cluster import Cluster

OPEN = NetworkPolicies("dlcloud-system", 8443)
STRICT = NetworkPolicies("dlcloud-system", 8443, [{"to": [], "ports": [{"port": 443}]}])
SPEC = {"script": {"command": ["python", "train.py"]}, "workers": {"count": 1}}


class Calls:
    """What was asked of the API server."""

    def __init__(self) -> None:
        self.verbs: list[str] = []

    def observe_api(self, verb: str, resource: str, status: int, seconds: float) -> None:
        self.verbs.append(verb)

    def observe_retry(self, verb: str, resource: str) -> None: ...


@dataclass
class Desk:
    """A KubeCluster of its own, without watches: what it knows, it read itself."""

    cluster: KubeCluster
    store: Store
    calls: Calls
    job: JobView

    async def ensure(self, policies: NetworkPolicies) -> None:
        for manifest in policies.objects(self.job):
            if not self.cluster.has_object(self.job, manifest):
                await self.cluster.ensure_object(self.job, manifest)

    def has(self, policies: NetworkPolicies) -> bool:
        return all(self.cluster.has_object(self.job, manifest) for manifest in policies.objects(self.job))


def at_desk(kubeconfig: Path, raw: Any, test: Callable[[Desk], Awaitable[None]]) -> None:
    async def scenario() -> None:
        store, calls = Store(JobReader("dlcloud-system")), Calls()
        api = KubeApi(Connection(kubeconfig), calls)
        cluster = KubeCluster(api, store, EventRecorder(api, utc_now), Troubles(api), lambda: True)
        try:
            await test(Desk(cluster, store, calls, store.note_job(raw)))
        finally:
            await api.close()

    asyncio.run(scenario())


@pytest.fixture
def raw_job(kube: KubeClient, namespace: str) -> Any:
    body = {"apiVersion": "dlcloud.dev/v1", "kind": "TrainingJob", "metadata": {"name": "mnist"}, "spec": SPEC}
    return kube.create(f"/apis/dlcloud.dev/v1/namespaces/{namespace}/trainingjobs", body)


def path(namespace: str, name: str = "/mnist") -> str:
    return f"/apis/networking.k8s.io/v1/namespaces/{namespace}/networkpolicies{name}"


def test_a_policy_is_made_once_and_the_api_server_takes_it_as_it_is(
    control_plane: Cluster, kube: KubeClient, namespace: str, raw_job: Any
) -> None:
    async def test(desk: Desk) -> None:
        await desk.ensure(STRICT)
        await desk.ensure(STRICT)
        assert desk.calls.verbs == ["create"]

    at_desk(control_plane.kubeconfig, raw_job, test)
    found = kube.get(path(namespace))
    assert found["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert found["metadata"]["ownerReferences"][0]["uid"] == raw_job["metadata"]["uid"]


def test_another_operators_life_finds_it_and_writes_nothing(
    control_plane: Cluster, kube: KubeClient, namespace: str, raw_job: Any
) -> None:
    async def test(desk: Desk) -> None:
        await desk.ensure(STRICT)

    at_desk(control_plane.kubeconfig, raw_job, test)
    before = kube.get(path(namespace))["metadata"]["resourceVersion"]
    at_desk(control_plane.kubeconfig, raw_job, test)
    assert kube.get(path(namespace))["metadata"]["resourceVersion"] == before


@pytest.mark.parametrize(("before", "after"), [(OPEN, STRICT), (STRICT, OPEN)], ids=["close", "open"])
def test_other_egress_rules_are_written_over_the_old(
    control_plane: Cluster,
    kube: KubeClient,
    namespace: str,
    raw_job: Any,
    before: NetworkPolicies,
    after: NetworkPolicies,
) -> None:
    async def test(desk: Desk) -> None:
        await desk.ensure(before)
        await desk.ensure(after)
        assert desk.has(after)
        assert not desk.has(before)

    at_desk(control_plane.kubeconfig, raw_job, test)
    assert ("egress" in kube.get(path(namespace))["spec"]) is (after is STRICT)


def test_what_somebody_changed_is_changed_back(
    control_plane: Cluster, kube: KubeClient, namespace: str, raw_job: Any
) -> None:
    async def test(desk: Desk) -> None:
        await desk.ensure(OPEN)
        kube.merge(path(namespace), {"spec": {"ingress": [{}]}})
        desk.store.note_policy(kube.get(path(namespace)))
        await desk.ensure(OPEN)

    at_desk(control_plane.kubeconfig, raw_job, test)
    assert "from" in kube.get(path(namespace))["spec"]["ingress"][0]


def test_a_deleted_policy_is_made_again(control_plane: Cluster, kube: KubeClient, namespace: str, raw_job: Any) -> None:
    async def test(desk: Desk) -> None:
        await desk.ensure(OPEN)
        found = kube.get(path(namespace))
        kube.delete(path(namespace))
        desk.store.drop_policy(found)
        await desk.ensure(OPEN)

    at_desk(control_plane.kubeconfig, raw_job, test)
    assert kube.find(path(namespace)) is not None


def test_somebody_elses_policy_of_that_name_is_named_and_left_alone(
    control_plane: Cluster, kube: KubeClient, namespace: str, raw_job: Any
) -> None:
    theirs = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "mnist"}}
    kube.create(path(namespace, ""), {**theirs, "spec": {"podSelector": {}}})

    async def test(desk: Desk) -> None:
        with pytest.raises(Refused, match=r'networkpolicy "mnist" exists already'):
            await desk.ensure(OPEN)

    at_desk(control_plane.kubeconfig, raw_job, test)
    assert "ingress" not in kube.get(path(namespace))["spec"]


def test_rules_that_the_api_server_does_not_take_are_refused_in_its_words(control_plane: Cluster, raw_job: Any) -> None:
    wrong = NetworkPolicies("dlcloud-system", 8443, [{"to": [{"ipBlock": {"cidr": "10.0.0.0"}}]}])

    async def test(desk: Desk) -> None:
        with pytest.raises(Refused, match="cidr"):
            await desk.ensure(wrong)

    at_desk(control_plane.kubeconfig, raw_job, test)


def test_without_the_right_to_make_policies_the_refusal_says_so(
    control_plane: Cluster, kube: KubeClient, namespace: str, raw_job: Any
) -> None:
    control_plane.make_service_account(namespace, "poor", rules=[])
    kubeconfig = control_plane.kubeconfig_for_service_account(namespace, "poor")

    async def test(desk: Desk) -> None:
        with pytest.raises(Refused, match=r"networkpolicies.*is forbidden"):
            await desk.ensure(OPEN)

    at_desk(kubeconfig, raw_job, test)
