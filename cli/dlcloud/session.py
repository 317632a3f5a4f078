"""One job on this machine: store, pods as processes, rendezvous and engine, composed as the operator composes them.

May import the engine, the API and `dlcloud.local`; the trainer only as a process. Prints nothing; what it starts,
`close` ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from dlcloud_operator.api import Phase, TrainingJob, parse_duration
from dlcloud_operator.core.model import JobKey, JobView, Report
from dlcloud_operator.engine.engine import Engine
from dlcloud_operator.engine.render import MAX_UPLOAD_S, UPLOAD_BYTES_PER_S, PodRenderer, RenderSettings
from dlcloud_operator.engine.rendezvous import RendezvousServer

from .history import head_round
from .jobs.continuing import above_round
from .local.cluster import LocalCluster
from .local.state import LoggedEvent
from .local.store import EmbeddedStore
from .local.weed import StoreFailed
from .logs import LogFollower
from .objects import Access, StoreError, open_reader
from .store import config_maps_of, secrets_of, store_need, with_store
from .view.snapshot import EventLine, Snapshot, Tracker

AGENT_BUILD_LIMIT_S = 60.0
_POLL_S = 0.02


class SessionError(Exception):
    """The session could not start or go on; the message says what is missing and what to do."""


@dataclass(frozen=True)
class StoreSettings:
    """Where s3:// leads: `access` to a server of the user's, or (None) an embedded one with its data in `folder`."""

    access: Access | None
    folder: Path


class LocalSession:
    """Runs `job` in `run_dir`: `start`, then look at `snapshot`, always end with `close`. All on one event loop."""

    def __init__(
        self,
        job: TrainingJob,
        run_dir: Path,
        store: StoreSettings,
        working_dir: Path,
        *,
        begin: JobView | None = None,
        events: Sequence[LoggedEvent] = (),
    ) -> None:
        """`working_dir` is where script jobs run; `begin`: the job of an earlier process, its events with it."""
        self.run_dir = run_dir
        self.key = JobKey(job.metadata.namespace, job.metadata.name)
        self.access = store.access
        self.changed = asyncio.Event()
        self._started_at = _now()
        self.tracker = Tracker(job.metadata.name, self._started_at)
        self._job = job
        self._store_folder = store.folder
        self._working_dir = working_dir
        self._begin = begin
        self._events = events
        self._view: JobView | None = None
        self._log = LogFollower()
        self._log.skip(run_dir.glob("pods/*/log"))
        self._events_seen = len(events)
        self._store: EmbeddedStore | None = None
        self._cluster: LocalCluster | None = None
        self._server: RendezvousServer | None = None
        self._engine: Engine | None = None
        self._engine_task: asyncio.Task[None] | None = None

    @property
    def job(self) -> JobView | None:
        """The job as it is now; None before `start` has applied it."""
        return self._view

    @property
    def phase(self) -> Phase | None:
        """The job's phase; None before there is one."""
        return self._view.status.phase if self._view else None

    def reports(self) -> tuple[Report, ...]:
        """What each pod's agent said last."""
        return tuple(self._server.reports_for(self.key).by_uid.values()) if self._server else ()

    @property
    def checkpoint_prefix(self) -> str:
        """Where the job's own objects lie; empty without spec.checkpoint or before the job exists."""
        job = self._view or self._begin
        if job is None or self._job.spec.checkpoint is None:
            return ""
        return f"{self._job.spec.checkpoint.uri.rstrip('/')}/{self.key.namespace}/{self.key.name}/{job.uid}/"

    @property
    def drain_s(self) -> float:
        """How long the pods may take to save and stop: the job's limit, and an upload as large as the last one."""
        saved = self._view.status.checkpoint if self._view else None
        upload_s = math.ceil((saved.size_bytes or 0) / UPLOAD_BYTES_PER_S) if saved else 0
        return parse_duration(self._job.spec.limits.drain).total_seconds() + min(MAX_UPLOAD_S, upload_s)

    async def start(self) -> None:
        """Start everything and apply the job. Raises SessionError; `close` must follow either way."""
        try:
            await self._start()
        except OSError as error:
            raise SessionError(f"cannot start: {error.filename or self.run_dir}: {error.strerror or error}") from error

    async def _start(self) -> None:
        agent = self.run_dir / "agent.pyz"
        building = asyncio.create_task(build_agent(agent))
        try:
            await self._start_store()
            await building
        finally:
            building.cancel()
            await asyncio.wait([building])
        job = with_store(self._job, self.access, embedded=self._store is not None) if self.access else self._job
        self._cluster = LocalCluster(
            self.run_dir,
            secrets=secrets_of(self.access) if self.access else {},
            config_maps=config_maps_of(self.access) if self.access else {},
            working_dir=self._working_dir,
            python=sys.executable,
        )
        self._cluster.watch_jobs(self._job_changed)
        self._server = RendezvousServer(self._cluster.tokens, self._cluster.owner_of)
        url = await self._server.start()
        renderer = PodRenderer(RenderSettings(rendezvous_url=url, agent_path=str(agent)))
        self._engine = Engine(self._cluster, renderer, self._server)
        self._server.subscribe(self._reported)
        self._engine_task = asyncio.create_task(self._engine.run(), name="engine")
        self._engine_task.add_done_callback(lambda _: self.changed.set())
        if self._begin is None:
            await self._cluster.apply(job)
        else:
            begin = above_round(self._begin, await asyncio.to_thread(self._round_on_store, self._begin))
            await self._cluster.adopt(replace(begin, spec=job.spec), self._events)

    async def _start_store(self) -> None:
        buckets = store_need(self._job).buckets
        if not buckets or self.access is not None:
            return
        self._store = EmbeddedStore(self._store_folder)
        try:
            await self._store.start()
            for bucket in buckets:
                await self._store.ensure_bucket(bucket)
        except StoreFailed as error:
            raise SessionError(str(error)) from error
        self.access = Access(self._store.endpoint, self._store.access_key, self._store.secret_key)

    def _round_on_store(self, begin: JobView) -> int:
        """The highest round the store has seen; a disk that was full may know of fewer, and those would be fenced."""
        if begin.status.phase is None or not self.checkpoint_prefix:
            return 0
        try:
            return head_round(open_reader(self.checkpoint_prefix, self.access))
        except StoreError:
            return 0  # the workers will say what is wrong with it

    def check(self) -> None:
        """Raise SessionError when the session cannot go on: its folder is gone, or the engine has ended."""
        if not (self.run_dir / "pods").exists() and self._view is not None and self.reports():
            raise SessionError(f"{self.run_dir}: the folder was deleted; the workers' tokens and output were in it")
        task = self._engine_task
        if task is not None and task.done() and not task.cancelled():
            raise SessionError(f"the engine ended: {task.exception() or 'without a reason'}; see {self.run_dir}")

    def snapshot(self) -> Snapshot:
        """The run as it is now; reads what the logs gained since the last call."""
        if self._cluster is not None:
            events = self._cluster.events(self.key)
            self.tracker.events(
                EventLine(e.at, e.event.reason, e.event.message, e.event.warning) for e in events[self._events_seen :]
            )
            self._events_seen = len(events)
        self.tracker.log(self._log.poll(sorted(self.run_dir.glob("pods/*/log"))))
        self.changed.clear()
        return self.tracker.snapshot(_now())

    async def suspend(self) -> None:
        """Ask the job to save and stop; its phase becomes Suspended when that is done."""
        if self._cluster is None or self._view is None:
            return
        with contextlib.suppress(LookupError, OSError):
            await self._cluster.update_spec(self.key, lambda spec: spec.model_copy(update={"suspend": True}))

    async def close(self, grace_s: float) -> None:
        """End everything: pods get `grace_s` after SIGTERM. Afterwards no process of this session is left."""
        if self._engine is not None:
            self._engine.stop()
        if self._engine_task is not None:
            await asyncio.wait([self._engine_task], timeout=5)
        try:
            if self._cluster is not None:
                await self._cluster.close(grace_s)
        finally:
            try:
                if self._server is not None:
                    await self._server.stop()
            finally:
                if self._store is not None:
                    await self._store.stop()

    async def settle(self, limit_s: float) -> None:
        """Wait until every pod has left by itself: agents that are told of the job's end write their last words."""
        give_up = asyncio.get_running_loop().time() + limit_s
        while self._cluster is not None and self._view is not None and asyncio.get_running_loop().time() < give_up:
            if all(pod.exit is not None for pod in await self._cluster.list_pods(self._view)):
                return
            await asyncio.sleep(_POLL_S)

    async def hurry(self) -> None:
        """Kill every pod now; `close` ends the rest."""
        if self._cluster is not None:
            await self._cluster.close(0.0)

    def _job_changed(self, view: JobView) -> None:
        self._view = view
        told, ended = view.status.progress, view.status.phase is not None and view.status.phase.finished
        if told is not None and told.reported_at is not None and told.reported_at < self._started_at and not ended:
            view = replace(view, status=view.status.model_copy(update={"progress": None}))  # of an earlier process
        self.tracker.job(view)
        self.changed.set()

    def _reported(self, key: JobKey) -> None:
        if key == self.key:
            for report in self.reports():
                self.tracker.report(report)
            self.changed.set()


async def build_agent(path: Path) -> None:
    """Make the agent's archive at `path`, by a process of the trainer. Raises SessionError."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "dlcloud_trainer.agent_build", str(path),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    try:
        async with asyncio.timeout(AGENT_BUILD_LIMIT_S):
            said, _ = await process.communicate()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    if process.returncode != 0:
        last = said.decode(errors="replace").strip().rsplit("\n", 1)[-1]
        raise SessionError(f"the agent could not be built at {path}: {last}")


def _now() -> datetime:
    return datetime.now(UTC)
