"""What is watched: TrainingJobs through kopf, what they own by list and watch. Each event only goes into the store.

May import kopf, the API's names and this package. kopf writes nothing for us: no finalizer, no annotation, no Event.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import Any

import kopf

from dlcloud_operator.api import GROUP, VERSION
from dlcloud_operator.core.model import JobKey

from .api import ApiError, KubeApi, path_of
from .cluster import PLURAL, jobs_path
from .connection import Connection
from .list_watch import ListWatch, Sink
from .store import Store

log = logging.getLogger(__name__)

MANAGED = "app.kubernetes.io/managed-by=dlcloud"
_SERVER_TIMEOUT_S = 300  # the API server ends a watch then, and kopf goes on from where it was
_CONNECT_S = 10.0
_PAGE = 500
_END_S = 3.0
_MAX_PAUSE_S = 30.0
# Of no use without kopf's peering; its own would look the user up, whom a container's /etc/passwd need not know.
_KOPF_IDENTITY: Any = "dlcloud"
_CREDENTIALS_FOR = timedelta(minutes=5)  # a token that rotates on disk must reach the watches as well

Seen = Callable[[str, str], None]  # resource, type of the event


class _NothingToRemember(kopf.DiffBaseStorage):
    """kopf compares objects with what it saw before, a deep copy of each; nobody here asks for the difference."""

    def build(self, **_: Any) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: Any) -> kopf.BodyEssence | None:
        return None

    def store(self, **_: Any) -> None:
        raise RuntimeError("nothing is ever stored on users' objects")


def watches_of_owned(
    api: KubeApi, store: Store, namespaces: Collection[str], network_policies: bool, seen: Seen
) -> list[ListWatch]:
    """The watches of what jobs own: pods and, if asked for, network policies. `namespaces`: none for all."""
    pods = Sink("pods", store.note_pod, store.drop_raw_pod, store.note_all_pods, seen)
    policies = Sink("networkpolicies", store.note_policy, store.drop_policy, store.note_all_policies, seen)
    return [
        ListWatch(api, path, namespace, MANAGED, sink)
        for namespace in namespaces or ("",)
        for sink, path in (
            (pods, path_of("pods", namespace)),
            (policies, path_of("networkpolicies", namespace, group="networking.k8s.io")),
        )
        if sink is pods or network_policies
    ]


class JobWatches:
    """The watches of TrainingJobs, through kopf."""

    def __init__(
        self, api: KubeApi, store: Store, connection: Connection, namespaces: Collection[str], seen: Seen
    ) -> None:
        """`namespaces`: those to watch, none for all. `seen` hears of each event."""
        self._api = api
        self._store = store
        self._connection = connection
        self._namespaces = list(namespaces)
        self._seen = seen
        self._registry = self._handlers()
        self.begun = False  # whether kopf has ever begun to listen

    async def run(self, started: Callable[[], None] = lambda: None) -> None:
        """Watch until cancelled. kopf gives up after some errors of the API server: then it is started again.

        `started` is called each time kopf has taken the process' signals for itself.
        """
        failures = 0
        while True:
            began = time.monotonic()
            try:
                await self._watch(started)
            except Exception as error:
                failures = 0 if time.monotonic() - began > _MAX_PAUSE_S else failures + 1
                pause_s = min(_MAX_PAUSE_S, 2.0**failures) * random.uniform(0.5, 1.0)
                log.warning("jobs are not heard of (%s); listening again in %.0f s", error, pause_s)
                await asyncio.sleep(pause_s)
                await self._list_what_is_left()

    async def _watch(self, started: Callable[[], None]) -> None:
        tasks = await kopf.spawn_tasks(
            registry=self._registry,
            settings=_settings(),
            identity=_KOPF_IDENTITY,
            standalone=True,
            clusterwide=not self._namespaces,
            namespaces=self._namespaces,
        )
        self.begun = True
        started()
        try:
            # Not kopf's own `run_tasks`: at its end it waits for, and then cancels, every task of the event loop.
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            raise RuntimeError("kopf has ended")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=_END_S)

    async def _list_what_is_left(self) -> None:
        """kopf lists what is there, and does not tell what vanished while nobody watched."""
        with contextlib.suppress(ApiError):  # everything is listed again in some minutes anyway
            for namespace in self._namespaces or [""]:
                await self._store.note_all_jobs(self._api.items(jobs_path(namespace)), namespace)

    def _handlers(self) -> kopf.OperatorRegistry:
        registry = kopf.OperatorRegistry()

        @kopf.on.login(registry=registry)
        async def login(**_: Any) -> kopf.ConnectionInfo:
            return await self._login()

        @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
        async def job(event: kopf.RawEvent, **_: Any) -> None:
            raw, kind = event["object"], self._kind(PLURAL, event)
            if kind == "DELETED":
                metadata = raw["metadata"]
                self._store.drop_job(JobKey(metadata["namespace"], metadata["name"]), metadata["uid"])
            else:
                self._store.note_job(raw)

        return registry

    def _kind(self, resource: str, event: kopf.RawEvent) -> str:
        kind = str(event["type"] or "LISTED")
        self._seen(resource, kind)
        return kind

    async def _login(self) -> kopf.ConnectionInfo:
        client, headers = await self._connection.client()
        configuration = client.configuration
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        return kopf.ConnectionInfo(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert,
            insecure=not configuration.verify_ssl,
            scheme=scheme or None,
            token=token or None,
            certificate_path=configuration.cert_file,
            private_key_path=configuration.key_file,
            trust_env=True,
            expiration=datetime.now(UTC) + _CREDENTIALS_FOR if token else None,
        )


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True  # else it wants to watch namespaces and definitions, which are not ours to read
    settings.persistence.diffbase_storage = _NothingToRemember()
    settings.persistence.finalizer = f"{GROUP}/never-set"
    settings.watching.server_timeout = _SERVER_TIMEOUT_S
    settings.watching.client_timeout = _SERVER_TIMEOUT_S + 30
    settings.watching.connect_timeout = _CONNECT_S
    settings.watching.chunk_size = _PAGE
    settings.networking.request_timeout = 60.0
    settings.networking.connect_timeout = _CONNECT_S
    settings.networking.error_backoffs = (0.5, 1, 2, 3, 5)
    settings.queueing.idle_timeout = 1.0  # of a task per object, which waits for the next event
    settings.queueing.exit_timeout = 0.2
    return settings
