"""The composition of the operator: what is started in which order, and what the end of each part means.

May import everything of the operator. Two phases: every process watches, listens and is Ready; the one that holds the
lease also acts and answers agents. When the lease is lost, or any part ends by itself, the whole process ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import Callable, Coroutine
from importlib.metadata import version
from typing import Any

from dlcloud_operator.api import GROUP, VERSION, ObjectStore
from dlcloud_operator.engine.clock import utc_now
from dlcloud_operator.engine.engine import Engine
from dlcloud_operator.engine.network_policy import NetworkPolicies
from dlcloud_operator.engine.render import PodRenderer, RenderSettings
from dlcloud_operator.engine.rendezvous import RendezvousServer

from .api import ApiError, KubeApi, path_of
from .certificates import open_certificates
from .cluster import PLURAL, KubeCluster, jobs_path
from .connection import Connection
from .events import EventRecorder
from .health import HealthServer, queue_moves
from .jobs import JobReader
from .leader import LeaderLabel
from .lease import Lease, lease_api, make_identity
from .metrics import Metrics
from .options import Options
from .store import Store
from .tokens import make_authenticator
from .troubles import Troubles
from .watches import MANAGED, JobWatches, watches_of_owned

log = logging.getLogger(__name__)

_WORKERS = 32  # a pass waits for the API server most of its time
_RELIST_S = 300.0  # a watch may miss what vanished while it was away
_RETRY_S = 2.0


class Operator:
    """One operator process: `run` until `stop`."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._stop = asyncio.Event()
        self._engine: Engine | None = None
        self._loaded = False
        self._changed = asyncio.Event()
        self._parts: list[asyncio.Task[None]] = []
        self._certificates = open_certificates(options)
        connection = self._connection = Connection(options.kubeconfig)
        renderer = self._renderer = PodRenderer(
            RenderSettings(
                rendezvous_url=options.rendezvous_url,
                ca=self._certificates.ca_pem if self._certificates else "",
                trainer_image=options.trainer_image,
                image_pull_policy=options.image_pull_policy,
                token_audience=options.token_audience,
            )
        )
        self._store = Store(
            JobReader(
                options.own_namespace,
                options.allow_privileged_pod_templates,
                ObjectStore(
                    endpoint=options.object_store_endpoint,
                    region=options.object_store_region or ObjectStore().region,
                    credentials_secret=options.object_store_credentials_secret,
                ),
                renderer,
            )
        )
        self._policies: NetworkPolicies | None = None
        if options.network_policy:
            self._policies = NetworkPolicies(
                options.own_namespace, options.rendezvous_port, options.network_policy_egress
            )
        self._metrics = Metrics(version("dlcloud"), self._store.jobs)
        self._api = KubeApi(connection, self._metrics)
        self._lease_api = lease_api(connection)
        self._lease = Lease(
            self._lease_api, options.own_namespace, options.lease_name, make_identity(options.pod_name, options.pod_uid)
        )
        self._label = LeaderLabel(self._lease_api, options.own_namespace, options.pod_name, self._lease.valid)
        self._events = EventRecorder(self._api, utc_now, options.pod_name)
        self._cluster = KubeCluster(self._api, self._store, self._events, Troubles(self._api), self._lease.valid)
        self._rendezvous = RendezvousServer(
            make_authenticator(self._api, options.token_audience, options.token_review),
            self._cluster.owner_of,
            observer=self._metrics,
            may_speak=self._leads,
        )
        seen, namespaces = self._metrics.watch_event, options.watch_namespaces
        self._job_watches = JobWatches(self._api, self._store, connection, namespaces, seen)
        self._owned_watches = watches_of_owned(self._api, self._store, namespaces, options.network_policy, seen)
        self._health = HealthServer(
            self._metrics,
            live={"queue": queue_moves(lambda: self._engine.queue_state() if self._engine else None)},
            ready={
                "api": lambda: "" if self._api.reached else "the API server was not reached yet",
                "jobs": lambda: "" if self._job_watches.begun else "jobs are not listened for yet; the log says why",
            },
        )
        self._metrics.watch_rendezvous(self._rendezvous)
        self._metrics.leader = self._lease.valid
        self._metrics.lease_age_s = self._lease.age_s
        self._metrics.certificate_expires_at = lambda: (
            self._certificates.leaf_expires_at if self._certificates is not None else None
        )

    def stop(self) -> None:
        """End `run` in good order."""
        self._stop.set()

    async def run(self, take_signals: Callable[[], None] = lambda: None) -> None:
        """Work until `stop`. Raises LeaseLost, NotConfigured, OSError, or what ended a part.

        `take_signals` is called now and whenever a library has put handlers of its own in their place.
        """
        take_signals()
        options = self._options
        if (certificates := self._certificates) is not None:
            self._spawn("certificates", certificates.run(lambda: self._renderer.trust(certificates.ca_pem)))
        await self._connection.client()  # a credential that is missing is told before anything listens
        try:
            await self._health.start(options.host, options.metrics_port)
            if not await self._until_defined():
                return
            await self._rendezvous.start(
                options.host, options.rendezvous_port, self._certificates.context if self._certificates else None
            )
            self._events.start()
            self._spawn("watch of trainingjobs", self._job_watches.run(take_signals))
            for watch in self._owned_watches:
                self._spawn(f"watch of {watch.resource}", watch.run())
            self._spawn("lease", self._lease.run())
            self._spawn("leading", self._lead())
            await self._until_an_end()
        finally:
            await self._close()

    def _leads(self) -> bool:
        """Whether agents may be answered: before everything was listed, their pods would seem to be nobody's."""
        return self._loaded and self._lease.valid()

    async def _lead(self) -> None:
        """From the moment the lease is held: know everything, then act."""
        await self._lease.held.wait()
        await self._relist_until_done()
        self._loaded = True
        if self._options.pod_name:
            self._spawn("label", self._label.run())
        engine = self._engine = Engine(
            self._cluster,
            self._renderer,
            self._rendezvous,
            workers=_WORKERS,
            objects=self._policies.objects if self._policies is not None else lambda job: (),
            observer=self._metrics,
            expected=(ApiError,),
        )
        self._metrics.watch_engine(engine)
        self._spawn("relist", self._relist_for_ever())
        await engine.run()

    async def _until_defined(self) -> bool:
        """Wait until TrainingJob is defined, saying so; kopf would not notice when it comes later."""
        undefined = f"{PLURAL}.{GROUP} is not defined; install the chart with crds.install=true"
        told = False
        while not self._stop.is_set():
            try:
                found = await self._api.get(f"/apis/{GROUP}/{VERSION}")
                if any(resource.get("name") == PLURAL for resource in found.get("resources") or ()):
                    return True
                why = undefined
            except ApiError as error:
                missing = error.status == 404
                why = (
                    f"{PLURAL}.{GROUP} is not defined: install the chart with crds.install=true"
                    if missing
                    else str(error)
                )
            if not told:
                log.warning("waiting for the API server: %s", why)
                told = True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), _RETRY_S)
        return False

    async def _relist_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_RELIST_S)
            await self._relist_until_done()
            gc.collect()  # a pause that is due rarely, and then: `main` keeps it from coming at any time

    async def _relist_until_done(self) -> None:
        while True:
            try:
                return await self._relist()
            except ApiError as error:
                log.warning("jobs and pods cannot be listed, trying again: %s", error)
                await asyncio.sleep(_RETRY_S)

    async def _relist(self) -> None:
        """Read everything: whatever the watches missed is known afterwards."""
        for namespace in self._options.watch_namespaces or ("",):
            # Pods first: a job that is seen without its pods would seem to have lost them.
            pods = self._api.items(path_of("pods", namespace), labelSelector=MANAGED)
            await self._store.note_all_pods(pods, namespace)
            if self._options.network_policy:
                path = path_of("networkpolicies", namespace, group="networking.k8s.io")
                policies = self._api.items(path, labelSelector=MANAGED)
                await self._store.note_all_policies(policies, namespace)
            await self._store.note_all_jobs(self._api.items(jobs_path(namespace)), namespace)

    def _spawn(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        self._parts.append(asyncio.create_task(work, name=name))
        self._changed.set()

    async def _until_an_end(self) -> None:
        """Until `stop`; a part that ends before, with or without an error, ends everything."""
        stopping = asyncio.create_task(self._stop.wait(), name="stop")
        try:
            while not stopping.done():
                self._changed.clear()
                changed = asyncio.create_task(self._changed.wait())
                await asyncio.wait([stopping, changed, *self._parts], return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                for part in self._parts:
                    if part.done():
                        part.result()
                        raise RuntimeError(f"{part.get_name()} has ended")
        finally:
            stopping.cancel()

    async def _close(self) -> None:
        """In this order: act no more, be found no more, let another act, say the last words, hang up."""
        log.info("stopping")
        if self._engine is not None:
            self._engine.stop()
        for part in self._parts:
            part.cancel()
        if self._parts:
            await asyncio.wait(self._parts, timeout=1.0)  # nothing of ours may be under way when another acts
        if self._engine is not None:
            await self._label.drop()
        await self._lease.release()
        await self._events.stop()
        await self._rendezvous.stop()
        await asyncio.gather(*self._parts, return_exceptions=True)
        await self._health.stop()
        await self._api.close()
