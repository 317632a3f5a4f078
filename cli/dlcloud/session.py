"""One job on this machine: store, pods as processes, rendezvous and engine, composed as the operator composes them.

May import the engine, the API and `dlcloud.local`; the trainer only as a process. Prints nothing; whatever it starts, `close` ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from dlcloud_operator.api import TrainingJob
from dlcloud_operator.core.model import JobKey, JobView
from dlcloud_operator.engine.engine import Engine
from dlcloud_operator.engine.render import PodRenderer, RenderSettings
from dlcloud_operator.engine.rendezvous import RendezvousServer

from .local.cluster import LocalCluster
from .local.store import EmbeddedStore
from .logs import LogFollower
from .objects import Access
from .store import LOCAL_CA, secrets_of, store_need, with_store
from .view.snapshot import EventLine, Snapshot, Tracker


class SessionError(Exception):
    """The session could not start; the message says what is missing and what to do."""


@dataclass(frozen=True)
class StoreSettings:
    """Where s3:// leads: `access` to a server of the user's, or (None) an embedded one with its data in `folder`."""

    access: Access | None
    folder: Path


@dataclass
class LocalSession:
    """Runs `job` in `run_dir`. Call `start`, look at `snapshot` and `view`, always end with `close`."""

    job: TrainingJob
    run_dir: Path
    store_settings: StoreSettings
    working_dir: Path = field(default_factory=Path.cwd)
    on_change: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.started_at = _now()
        self.tracker = Tracker(self.job.metadata.name, self.started_at)
        self.key = JobKey(self.job.metadata.namespace, self.job.metadata.name)
        self.access: Access | None = self.store_settings.access
        self.view: JobView | None = None
        self._log = LogFollower()
        self._events_seen = 0
        self._ended = contextlib.AsyncExitStack()
        self._store: EmbeddedStore | None = None
        self._cluster: LocalCluster | None = None
        self._server: RendezvousServer | None = None
        self._engine_task: asyncio.Task[None] | None = None

    @property
    def cluster(self) -> LocalCluster:
        """The cluster; only after `start`."""
        assert self._cluster is not None
        return self._cluster

    async def start(self) -> None:
        """Start everything and apply the job. Raises SessionError; `close` must follow either way."""
        agent = self.run_dir / "agent.pyz"
        await _build_agent(agent)
        if store_need(self.job).buckets and self.access is None:
            await self._start_store()
        job = with_store(self.job, self.access) if self.access else self.job
        secrets = secrets_of(self.access) if self.access else {}
        config_maps = {LOCAL_CA: {"ca.crt": Path(self.access.ca_file).read_text()}} if self.access and self.access.ca_file else {}
        self._cluster = LocalCluster(
            self.run_dir, secrets=secrets, config_maps=config_maps, working_dir=self.working_dir, python=sys.executable
        )
        self._server = RendezvousServer(self._cluster.tokens, self._cluster.owner_of)
        url = await self._server.start()
        renderer = PodRenderer(RenderSettings(rendezvous_url=url, agent_path=str(agent)))
        engine = Engine(self._cluster, renderer, self._server)
        self._server.subscribe(self._reported)
        self._cluster.watch_jobs(self._changed)
        self._engine = engine
        self._engine_task = asyncio.create_task(engine.run(), name="engine")
        self.view = await self._cluster.apply(job)

    async def _start_store(self) -> None:
        self._store = EmbeddedStore(self.store_settings.folder)
        try:
            await self._store.start()
            for bucket in store_need(self.job).buckets:
                await self._store.ensure_bucket(bucket)
        except (OSError, RuntimeError) as error:
            raise SessionError(f"the embedded S3 server: {error}") from error
        self.access = Access(self._store.endpoint, self._store.access_key, self._store.secret_key)
