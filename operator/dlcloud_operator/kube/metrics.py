"""What the operator tells Prometheus: its own work, and the jobs as they are when somebody asks.

May import prometheus_client, the engine's observer, core and this package's job_metrics. It has a registry of its own,
and measures only: nothing is decided from a metric.
"""

from __future__ import annotations

import asyncio
import gzip
import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from dlcloud_operator.core.model import JobKey, JobView
from dlcloud_operator.engine.clock import utc_now
from dlcloud_operator.engine.observer import Observer, PassResult, QueueState

from .job_metrics import MAX_JOBS, job_families

_PASS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)
_API_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0)
_COMPRESSION = 1  # the text repeats itself: higher levels cost much and win little
_MAX_WAITING = 4


class Busy(Exception):
    """Too many ask at once."""


class _Queue(Protocol):
    def queue_state(self) -> QueueState: ...


class _Server(Protocol):
    def num_connections(self) -> int: ...
    def num_agents(self) -> int: ...


@dataclass(frozen=True)
class _Moment:
    """All that is read on the event loop for one answer; the text is then made in a thread."""

    leader: bool
    now: datetime
    lease_age_s: float | None = None
    certificate_expires_at: datetime | None = None
    queue: QueueState | None = None
    connections: int | None = None
    agents: int | None = None
    jobs: tuple[JobView, ...] = ()


class Metrics(Observer):
    """The metrics of one operator process. `leader`, `lease_age_s` and `certificate_expires_at` are to be set."""

    def __init__(
        self,
        version: str,
        jobs: Callable[[], Iterable[JobView]],
        now: Callable[[], datetime] = utc_now,
        max_jobs: int = MAX_JOBS,
    ) -> None:
        """`jobs` is asked on the event loop, when somebody asks for the metrics of the leader."""
        self.leader: Callable[[], bool] = lambda: False
        self.lease_age_s: Callable[[], float | None] = lambda: None
        self.certificate_expires_at: Callable[[], datetime | None] = lambda: None
        self._jobs, self._now, self._max_jobs = jobs, now, max_jobs
        self._engine: _Queue | None = None
        self._rendezvous: _Server | None = None
        self._turn = asyncio.Lock()
        self._num_waiting = 0
        self._moment = _Moment(False, now())
        registry = self._registry = CollectorRegistry()
        prefix = "dlcloud_operator"
        Gauge(f"{prefix}_build_info", "Version of the operator.", ("version", "python"), registry=registry).labels(
            version, platform.python_version()
        ).set(1)
        self._passes = Counter(f"{prefix}_reconciles", "Passes over a job.", ("result",), registry=registry)
        for result in PassResult:
            self._passes.labels(result.value)  # a rate needs the zero before the first
        self._pass_s = Histogram(
            f"{prefix}_reconcile_duration_seconds", "Time of a pass.", buckets=_PASS_BUCKETS, registry=registry
        )
        self._calls = Counter(
            f"{prefix}_api_requests", "Calls of the API server.", ("verb", "resource", "code"), registry=registry
        )
        self._call_s = Histogram(
            f"{prefix}_api_request_duration_seconds",
            "Time of a call of the API server.",
            ("verb", "resource"),
            buckets=_API_BUCKETS,
            registry=registry,
        )
        self._call_series: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._retries = Counter(
            f"{prefix}_api_retries", "Calls that were repeated.", ("verb", "resource"), registry=registry
        )
        self._events = Counter(
            f"{prefix}_watch_events", "Events of the watches.", ("resource", "type"), registry=registry
        )
        self._answers = Counter(
            f"{prefix}_rendezvous_requests", "Requests of agents.", ("verb", "status"), registry=registry
        )
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        registry.register(_Momentary(self._families))

    # --- what is told ---

    def reconciled(self, key: JobKey, result: PassResult, seconds: float) -> None:
        """A pass over a job ended."""
        self._passes.labels(result.value).inc()
        self._pass_s.observe(seconds)

    def rendezvous_answered(self, verb: str, status: int) -> None:
        """A request of an agent was answered."""
        self._answers.labels(verb, str(status)).inc()

    def observe_api(self, verb: str, resource: str, status: int, seconds: float) -> None:
        """One attempt of a call ended; status 0: no answer came."""
        key = (verb, resource, status // 100)
        known = self._call_series.get(key)
        if known is None:  # finding a series by its labels costs more than counting
            code = f"{status // 100}xx" if status else "unreachable"
            known = self._calls.labels(verb, resource, code), self._call_s.labels(verb, resource)
            self._call_series[key] = known
        known[0].inc()
        known[1].observe(seconds)

    def observe_retry(self, verb: str, resource: str) -> None:
        """A call is tried again."""
        self._retries.labels(verb, resource).inc()

    def watch_event(self, resource: str, kind: str) -> None:
        """A watch said something."""
        self._events.labels(resource, kind).inc()

    def watch_engine(self, engine: _Queue) -> None:
        """Show this engine's queue."""
        self._engine = engine

    def watch_rendezvous(self, server: _Server) -> None:
        """Show this server's clients."""
        self._rendezvous = server

    # --- what is asked ---

    async def exposition(self, accept: str = "", compressed: bool = False) -> tuple[bytes, str]:
        """All metrics as text, and its content type. One is made at a time; raises Busy when too many wait for that."""
        if self._num_waiting >= _MAX_WAITING:
            raise Busy("too many ask for metrics at once; ask again later")
        self._num_waiting += 1
        try:
            async with self._turn:
                self._moment = self._look()
                # Thousands of series take a second to write: agents and the lease must not wait for that.
                return await asyncio.to_thread(self._text, accept, compressed)
        finally:
            self._num_waiting -= 1

    def _look(self) -> _Moment:
        leader = self.leader()
        return _Moment(
            leader=leader,
            now=self._now(),
            lease_age_s=self.lease_age_s(),
            certificate_expires_at=self.certificate_expires_at(),
            queue=self._engine.queue_state() if self._engine else None,
            connections=self._rendezvous.num_connections() if self._rendezvous else None,
            agents=self._rendezvous.num_agents() if self._rendezvous else None,
            jobs=tuple(self._jobs()) if leader else (),
        )

    def _text(self, accept: str, compressed: bool) -> tuple[bytes, str]:
        encode, content_type = choose_encoder(accept)
        text = encode(self._registry)
        return (gzip.compress(text, _COMPRESSION, mtime=0) if compressed else text), content_type

    def _families(self) -> Iterator[Metric]:
        moment, queue = self._moment, self._moment.queue
        expires_at = moment.certificate_expires_at
        yield _gauge("leader", "Whether this process leads.", float(moment.leader))
        yield _gauge("lease_age_seconds", "Time since the lease was renewed, as seen here.", moment.lease_age_s)
        yield _gauge(
            "certificate_expiry_timestamp_seconds",
            "When the certificate of the rendezvous expires.",
            None if expires_at is None else expires_at.timestamp(),
        )
        yield _gauge("rendezvous_connections", "Connections of agents.", moment.connections)
        yield _gauge("agents_connected", "Pods whose agent reported within 15 s.", moment.agents)
        if queue is not None:
            length = GaugeMetricFamily("dlcloud_operator_queue_length", "Jobs that wait for a pass.", labels=("lane",))
            length.add_metric(("urgent",), queue.urgent)
            length.add_metric(("resync",), queue.resync)
            yield length
            yield _gauge("queue_busy", "Passes under way.", queue.busy)
            yield _gauge("queue_oldest_age_seconds", "How long a job already waits for a pass.", queue.oldest_age_s)
            yield _gauge("queue_oldest_busy_seconds", "How long the longest pass takes.", queue.oldest_busy_s)
        if moment.leader:  # of two replicas one tells of jobs: sums over both stay right
            yield from job_families(moment.jobs, moment.now, self._max_jobs)


class _Momentary(Collector):
    """Families that are made anew for each answer."""

    def __init__(self, families: Callable[[], Iterator[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        return self._families()

    def describe(self) -> Iterator[Metric]:
        return iter(())


def _gauge(name: str, text: str, value: float | None) -> Metric:
    """One series; none while there is no value."""
    family = GaugeMetricFamily(f"dlcloud_operator_{name}", text)
    if value is not None:
        family.add_metric((), value)
    return family
