"""Tokens of a real API server at the door of a real rendezvous server: who is let in, and why the others are not."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from dlcloud_operator.core.model import JobKey
from dlcloud_operator.engine.clock import utc_now
from dlcloud_operator.engine.rendezvous import RendezvousServer
from dlcloud_operator.kube.api import KubeApi
from dlcloud_operator.kube.connection import Connection
from dlcloud_operator.kube.tokens import make_authenticator

from ...rig.client import KubeClient
from ...rig.cluster import Cluster
from .proxy import Proxy

AUDIENCE = "dlcloud"
STRANGER = rsa.generate_private_key(public_exponent=65537, key_size=2048)


@dataclass
class Door:
    """A rendezvous server that knows the pods there are."""

    cluster: Cluster
    namespace: str
    url: str
    http: aiohttp.ClientSession

    async def knock(self, token: str, pod: str = "one-0-1", job: str = "one") -> tuple[int, str]:
        """Report as this pod; status and what is wrong."""
        body = {"sentAt": utc_now().isoformat(), "round": 0, "address": "127.0.0.1", "port": 29500}
        url = f"{self.url}/v1/namespaces/{self.namespace}/jobs/{job}/pods/{pod}/report"
        async with self.http.post(url, json=body, headers={"Authorization": f"Bearer {token}"}) as answer:
            return answer.status, str((await answer.json()).get("error", ""))


def make_pod(kube: KubeClient, namespace: str, name: str) -> dict[str, Any]:
    container = {
        "name": "trainer",
        "image": "trainer",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    body = {"metadata": {"name": name}, "spec": {"containers": [container]}}
    return dict(kube.create(f"/api/v1/namespaces/{namespace}/pods", body))


def drop_pod(kube: KubeClient, namespace: str, name: str) -> None:
    kube.delete(f"/api/v1/namespaces/{namespace}/pods/{name}", gracePeriodSeconds=0)


@contextlib.asynccontextmanager
async def door(
    cluster: Cluster, namespace: str, kubeconfig: Path | None = None, review: bool = False
) -> AsyncIterator[Door]:
    api = KubeApi(Connection(kubeconfig or cluster.kubeconfig), patience_s=0.5)

    def owner_of(of: str, pod: str, uid: str) -> JobKey | None:
        found = cluster.api.find(f"/api/v1/namespaces/{of}/pods/{pod}")
        return JobKey(of, pod.rsplit("-", 2)[0]) if found and found["metadata"]["uid"] == uid else None

    server = RendezvousServer(make_authenticator(api, AUDIENCE, review), owner_of)
    url = await server.start()
    async with aiohttp.ClientSession() as http:
        try:
            yield Door(cluster, namespace, url, http)
        finally:
            await server.stop()
            await api.close()


def at_the_door(
    cluster: Cluster, namespace: str, test: Callable[[Door], Coroutine[Any, Any, None]], **options: Any
) -> None:
    async def scenario() -> None:
        async with asyncio.timeout(60), door(cluster, namespace, **options) as one:
            await test(one)

    asyncio.run(scenario())


@pytest.fixture
def pod(kube: KubeClient, namespace: str) -> dict[str, Any]:
    """The pod `one-0-1` of the job `one`."""
    return make_pod(kube, namespace, "one-0-1")


@pytest.fixture
def token(control_plane: Cluster, namespace: str, pod: dict[str, Any]) -> str:
    """As the kubelet projects it into that pod."""
    return control_plane.token(namespace, "default", audiences=[AUDIENCE], pod=pod)


@pytest.fixture
def signed_anew(control_plane: Cluster, token: str) -> Callable[..., str]:
    """The pod's token with other claims, signed by the API server's own key unless another is given."""
    if control_plane.pki is None:
        pytest.skip("the keys of the cluster that TEST_KUBECONFIG names are not ours")
    own = (control_plane.pki / "sa.key").read_bytes()
    header = jwt.get_unverified_header(token)
    claims = jwt.decode(token, options={"verify_signature": False})

    def sign(key: Any = own, **changes: Any) -> str:
        return jwt.encode({**claims, **changes}, key, algorithm="RS256", headers={"kid": header["kid"]})

    return sign


# --- by the published keys ---


def test_a_pods_own_token_opens_and_needs_no_right_of_the_operator(
    control_plane: Cluster, namespace: str, token: str
) -> None:
    control_plane.make_service_account(namespace, "powerless")
    kubeconfig = control_plane.kubeconfig_for_service_account(namespace, "powerless")

    async def test(one: Door) -> None:
        assert await one.knock(token) == (200, "")

    at_the_door(control_plane, namespace, test, kubeconfig=kubeconfig)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"exp": -60}, "the token has expired"),
        ({"nbf": 60, "iat": 60}, "the token is not valid yet"),
        ({"iss": "https://elsewhere.example"}, "the token is from another issuer"),
        ({"aud": ["somebody"]}, "the token is for another audience; 'dlcloud' is needed"),
        ({"kubernetes.io": {"namespace": "default"}}, "the token is not bound to a pod"),
    ],
    ids=["expired", "not yet", "issuer", "audience", "no pod"],
)
def test_a_token_that_proves_nothing_is_refused_with_the_reason(
    control_plane: Cluster, namespace: str, signed_anew: Callable[..., str], changes: dict[str, Any], told: str
) -> None:
    now = time.time()
    claims = {name: int(now) + value if isinstance(value, int) else value for name, value in changes.items()}

    async def test(one: Door) -> None:
        status, why = await one.knock(signed_anew(**claims))
        assert status == 401
        assert why.startswith(told)

    at_the_door(control_plane, namespace, test)


@pytest.mark.parametrize("claims", [{"exp": -8}, {"nbf": 8, "iat": 8}], ids=["behind", "ahead"])
def test_clocks_that_differ_by_8_s_shut_nobody_out(
    control_plane: Cluster, namespace: str, signed_anew: Callable[..., str], claims: dict[str, int]
) -> None:
    now = int(time.time())

    async def test(one: Door) -> None:
        assert await one.knock(signed_anew(**{name: now + value for name, value in claims.items()})) == (200, "")

    at_the_door(control_plane, namespace, test)


def test_a_token_signed_by_a_stranger_is_refused(
    control_plane: Cluster, namespace: str, signed_anew: Callable[..., str]
) -> None:
    async def test(one: Door) -> None:
        assert await one.knock(signed_anew(STRANGER)) == (401, "the token's signature is wrong")

    at_the_door(control_plane, namespace, test)


@pytest.mark.parametrize("audiences", [[], ["vault"]], ids=["the API server's", "somebody's"])
def test_a_real_token_for_another_audience_is_refused(
    control_plane: Cluster, namespace: str, pod: dict[str, Any], audiences: list[str]
) -> None:
    async def test(one: Door) -> None:
        foreign = control_plane.token(namespace, "default", audiences=audiences, pod=pod)
        status, why = await one.knock(foreign)
        assert (status, "another audience" in why) == (401, True)

    at_the_door(control_plane, namespace, test)


def test_a_service_accounts_token_without_a_pod_is_refused(control_plane: Cluster, namespace: str) -> None:
    async def test(one: Door) -> None:
        status, why = await one.knock(control_plane.token(namespace, "default", audiences=[AUDIENCE]))
        assert (status, "not bound to a pod" in why) == (401, True)

    at_the_door(control_plane, namespace, test)


def test_a_deleted_pods_token_is_refused_at_once_and_its_successors_is_not(
    control_plane: Cluster, kube: KubeClient, namespace: str, token: str
) -> None:
    async def test(one: Door) -> None:
        assert (await one.knock(token))[0] == 200  # from now on it is known
        drop_pod(kube, namespace, "one-0-1")
        assert await one.knock(token) == (403, "the token's pod is no living pod of this job")
        following = make_pod(kube, namespace, "one-0-1")
        assert (await one.knock(token))[0] == 403
        new = control_plane.token(namespace, "default", audiences=[AUDIENCE], pod=following)
        assert (await one.knock(new))[0] == 200

    at_the_door(control_plane, namespace, test)


def test_another_jobs_pod_speaks_neither_for_this_pod_nor_for_this_job(
    control_plane: Cluster, kube: KubeClient, namespace: str, pod: dict[str, Any]
) -> None:
    other = make_pod(kube, namespace, "other-0-1")

    async def test(one: Door) -> None:
        theirs = control_plane.token(namespace, "default", audiences=[AUDIENCE], pod=other)
        assert await one.knock(theirs) == (403, "the token speaks for another pod")
        assert (await one.knock(theirs, pod="other-0-1"))[0] == 403
        assert (await one.knock(theirs, pod="other-0-1", job="other"))[0] == 200

    at_the_door(control_plane, namespace, test)


# --- by the API server's word ---


def with_hidden_keys(
    cluster: Cluster, namespace: str, test: Callable[[Door, Callable[[], int]], Coroutine[Any, Any, None]], review: bool
) -> None:
    """A cluster whose keys cannot be read; the test gets the number of reviews so far, too."""
    with Proxy(cluster.kubeconfig) as proxy:
        proxy.answer(lambda call: "openid" in call.path, 403)

        def reviews() -> int:
            return sum("tokenreviews" in call.path for call in proxy.calls)

        kubeconfig = proxy.kubeconfig(cluster.kubeconfig)
        at_the_door(cluster, namespace, lambda one: test(one, reviews), kubeconfig=kubeconfig, review=review)


def test_without_keys_nobody_is_told_that_its_token_is_bad(control_plane: Cluster, namespace: str, token: str) -> None:
    async def test(one: Door, reviews: Callable[[], int]) -> None:
        assert (await one.knock(token))[0] == 503
        assert reviews() == 0

    with_hidden_keys(control_plane, namespace, test, review=False)


def test_where_keys_cannot_be_read_the_api_server_is_asked_once(
    control_plane: Cluster, namespace: str, token: str
) -> None:
    async def test(one: Door, reviews: Callable[[], int]) -> None:
        assert [await one.knock(token) for _ in range(5)] == [(200, "")] * 5
        assert reviews() == 1

    with_hidden_keys(control_plane, namespace, test, review=True)


def test_a_reviewed_token_of_another_pod_does_not_open(
    control_plane: Cluster, kube: KubeClient, namespace: str, token: str
) -> None:
    make_pod(kube, namespace, "other-0-1")

    async def test(one: Door, reviews: Callable[[], int]) -> None:
        assert (await one.knock(token, pod="other-0-1", job="other"))[0] == 403

    with_hidden_keys(control_plane, namespace, test, review=True)


def test_a_deleted_pods_token_is_refused_by_the_api_server_and_asked_about_once(
    control_plane: Cluster, kube: KubeClient, namespace: str, token: str
) -> None:
    drop_pod(kube, namespace, "one-0-1")

    async def test(one: Door, reviews: Callable[[], int]) -> None:
        answers = [await one.knock(token) for _ in range(5)]
        assert answers == [(401, "the API server does not accept the token")] * 5
        assert reviews() == 1

    with_hidden_keys(control_plane, namespace, test, review=True)


def test_what_cannot_be_good_is_not_sent_to_the_api_server(
    control_plane: Cluster, namespace: str, pod: dict[str, Any], signed_anew: Callable[..., str]
) -> None:
    async def test(one: Door, reviews: Callable[[], int]) -> None:
        foreign = control_plane.token(namespace, "default", audiences=["vault"], pod=pod)
        for bad in (foreign, signed_anew(exp=int(time.time()) - 60), "nonsense", "a.b.c"):
            assert (await one.knock(bad))[0] == 401
        assert reviews() == 0

    with_hidden_keys(control_plane, namespace, test, review=True)
