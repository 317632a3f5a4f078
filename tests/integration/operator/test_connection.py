"""What is watched stays heard of when the API server refuses the operator's credentials and they are read again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dlcloud_operator.kube import connection
from dlcloud_operator.kube.api import KubeApi, path_of
from dlcloud_operator.kube.connection import Connection
from dlcloud_operator.kube.list_watch import ListWatch, Sink

from ...rig.client import KubeClient
from ...rig.cluster import Cluster
from .proxy import Proxy
from .test_leader import make_pod

RETIRED_S = 0.3  # old connections are closed so long after


class Heard:
    """The names that a watch told of."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def take(self, raw: Any) -> None:
        self.names.add(raw["metadata"]["name"])

    async def all(self, items: AsyncIterator[Any], _: str) -> None:
        async for raw in items:
            self.take(raw)

    async def until(self, name: str) -> None:
        async with asyncio.timeout(10):
            while name not in self.names:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


@pytest.mark.parametrize("refused", ["a request beside it", "the watch itself"])
def test_a_watch_goes_on_when_the_credentials_are_read_again(
    control_plane: Cluster, kube: KubeClient, namespace: str, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    monkeypatch.setattr(connection, "_MAX_AGE_S", RETIRED_S)
    heard = Heard()

    async def scenario(proxy: Proxy) -> None:
        path = path_of("pods", namespace)
        access = Connection(proxy.kubeconfig(control_plane.kubeconfig))
        api = KubeApi(access)
        sink = Sink("pods", heard.take, lambda raw: None, heard.all, lambda resource, kind: None)
        watching = asyncio.create_task(ListWatch(api, path, namespace, "", sink).run())
        try:
            await asyncio.to_thread(make_pod, kube, namespace, "before")
            await heard.until("before")
            if refused == "a request beside it":
                proxy.answer(lambda call: call.path == path and not call.is_watch, 401, times=1)
                assert (await api.get(path))["items"]
            else:
                proxy.answer(lambda call: call.is_watch, 401, times=1)
                await access.renew()
            await asyncio.sleep(RETIRED_S * 3)
            await asyncio.to_thread(make_pod, kube, namespace, "after")
            await heard.until("after")
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
            await api.close()

    with Proxy(control_plane.kubeconfig) as proxy:
        asyncio.run(scenario(proxy))
