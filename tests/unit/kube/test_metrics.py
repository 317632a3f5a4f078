"""What Prometheus reads, parsed back with its own parser: names, labels, values, and how much it may become."""

from __future__ import annotations

import asyncio
import gzip
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from dlcloud_operator.api import (
    CheckpointStatus,
    Condition,
    Phase,
    Progress,
    TrainingJobSpec,
    TrainingJobStatus,
)
from dlcloud_operator.api.status import Recovery, RoundStatus, WorkerCounts
from dlcloud_operator.core.model import JobKey, JobView
from dlcloud_operator.engine.observer import PassResult, QueueState
from dlcloud_operator.kube.job_metrics import chosen, waiting_since
from dlcloud_operator.kube.metrics import Busy, Metrics

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)
SPEC = TrainingJobSpec.model_validate(
    {
        "workload": "cnn",
        "data": {"uri": "builtin://digits"},
        "workers": {"count": 4},
        "checkpoint": {"uri": "s3://checkpoints/", "everySeconds": 60},
        "restart": {"maxFailures": 3, "window": "1h"},
    }
)
Key = tuple[str, frozenset[tuple[str, str]]]


def ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


def job(name: str = "mnist", phase: Phase | None = Phase.RUNNING, spec: Any = SPEC, **status: Any) -> JobView:
    told = TrainingJobStatus(phase=phase, **status)
    return JobView(JobKey("research", name), f"uid-{name}", "1", 1, ago(hours=2), told, spec)


RUNNING = job(
    restarts=2,
    workers=WorkerCounts(desired=4, ready=3, text="3/4"),
    round=RoundStatus(
        number=3, nonce="n", world_size=4, master="10.0.0.1", port=1, threads=1, members=[], started_at=ago(minutes=30)
    ),
    progress=Progress(
        epoch=2, step=120, total_steps=300, loss=0.5, samples_per_second=4100.0, reported_at=ago(seconds=7)
    ),
    checkpoint=CheckpointStatus(step=100, uri="s3://c/m.json", committed_at=ago(seconds=90), size_bytes=2_400_000),
    recovery=Recovery(counted_at=[ago(hours=3), ago(minutes=20)]),
    start_time=ago(hours=1),
)


class Samples:
    """A text of metrics, by name and labels."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.all = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float | None:
        return self.all.get((name, frozenset(labels.items())))

    def labels(self, name: str) -> list[dict[str, str]]:
        return [dict(labels) for found, labels in self.all if found == name]


def metrics(jobs: Iterable[JobView] = (), leader: bool = True, **options: Any) -> Metrics:
    one = Metrics("1.2.3", lambda: jobs, now=lambda: NOW, **options)
    one.leader = lambda: leader
    return one


def read(one: Metrics) -> Samples:
    text, _ = asyncio.run(one.exposition())
    return Samples(text.decode())


def of_jobs(*jobs: JobView, **options: Any) -> Samples:
    return read(metrics(jobs, **options))


# --- jobs ---


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dlcloud_job_workers_desired", 4),
        ("dlcloud_job_workers_ready", 3),
        ("dlcloud_job_restarts_total", 2),
        ("dlcloud_job_failures_in_window", 1),
        ("dlcloud_job_failures_allowed", 3),
        ("dlcloud_job_round", 3),
        ("dlcloud_job_round_start_timestamp_seconds", ago(minutes=30).timestamp()),
        ("dlcloud_job_epoch", 2),
        ("dlcloud_job_step", 120),
        ("dlcloud_job_steps_planned", 300),
        ("dlcloud_job_loss", 0.5),
        ("dlcloud_job_samples_per_second", 4100),
        ("dlcloud_job_last_progress_timestamp_seconds", ago(seconds=7).timestamp()),
        ("dlcloud_job_checkpoint_interval_seconds", 60),
        ("dlcloud_job_last_checkpoint_timestamp_seconds", ago(seconds=90).timestamp()),
        ("dlcloud_job_last_checkpoint_step", 100),
        ("dlcloud_job_last_checkpoint_size_bytes", 2_400_000),
        ("dlcloud_job_created_timestamp_seconds", ago(hours=2).timestamp()),
        ("dlcloud_job_start_timestamp_seconds", ago(hours=1).timestamp()),
        ("dlcloud_job_completion_timestamp_seconds", None),
        ("dlcloud_job_waiting_since_timestamp_seconds", None),
    ],
)
def test_a_job_is_told_in_numbers(name: str, value: float | None) -> None:
    assert of_jobs(RUNNING).value(name, namespace="research", job="mnist") == value


def test_a_job_has_one_phase() -> None:
    told = of_jobs(RUNNING)
    assert told.labels("dlcloud_job_phase") == [{"namespace": "research", "job": "mnist", "phase": "Running"}]


def test_what_a_job_is_stands_in_its_info() -> None:
    script = job("own", spec=TrainingJobSpec.model_validate({"script": {"command": ["python", "a.py"]}}))
    told = of_jobs(RUNNING, script)
    labels = [{"namespace": "research", "job": name, "uid": f"uid-{name}"} for name in ("mnist", "own")]
    assert told.value("dlcloud_job_info", **labels[0], workload="cnn") == 1
    assert told.value("dlcloud_job_info", **labels[1], workload="script") == 1


def test_what_a_job_has_not_told_is_absent() -> None:
    told = of_jobs(job("new", phase=None))
    assert told.labels("dlcloud_job_loss") == []
    assert told.labels("dlcloud_job_last_checkpoint_step") == []


def test_a_job_whose_spec_does_not_parse_is_told_as_well() -> None:
    told = of_jobs(job("bad", phase=Phase.FAILED, spec=None, completion_time=ago(minutes=1)))
    assert told.value("dlcloud_job_phase", namespace="research", job="bad", phase="Failed") == 1


def condition(kind: str, holds: bool, at: datetime) -> Condition:
    return Condition(type=kind, status="True" if holds else "False", reason="R", last_transition_time=at)


@pytest.mark.parametrize(
    ("phase", "conditions", "since"),
    [
        (None, [], ago(hours=2)),
        (Phase.PENDING, [condition("PodsReady", False, ago(minutes=5))], ago(minutes=5)),
        (Phase.RESTARTING, [condition("PodsReady", False, ago(minutes=1))], ago(minutes=1)),
        (Phase.QUEUED, [], ago(hours=2)),
        (Phase.RUNNING, [condition("PodsReady", False, ago(minutes=5))], None),
        (Phase.SUSPENDED, [condition("PodsReady", False, ago(minutes=5))], None),
        (Phase.FAILED, [], None),
    ],
)
def test_a_job_waits_since_its_workers_are_missing(
    phase: Phase | None, conditions: list[Condition], since: datetime | None
) -> None:
    assert waiting_since(job(phase=phase, conditions=conditions)) == since


def test_warnings_that_hold_are_told_and_no_others() -> None:
    conditions = [
        condition("LossNotFinite", True, NOW),
        condition("CheckpointUploadFailed", False, NOW),
        condition("Training", True, NOW),
    ]
    told = of_jobs(job(conditions=conditions))
    assert [labels["reason"] for labels in told.labels("dlcloud_job_warning")] == ["LossNotFinite"]


def test_totals_have_every_phase_also_with_none_in_it() -> None:
    told = of_jobs(RUNNING, job("b"), job("c", phase=None), job("d", phase=Phase.FAILED))
    totals = {labels["phase"]: told.value("dlcloud_jobs", **labels) for labels in told.labels("dlcloud_jobs")}
    assert totals == {**dict.fromkeys([str(phase) for phase in Phase], 0), "Running": 2, "New": 1, "Failed": 1}


def test_of_very_many_jobs_some_are_only_in_the_totals_and_that_is_told() -> None:
    told = of_jobs(*(job(f"j{number}") for number in range(25)), max_jobs=20)
    assert len(told.labels("dlcloud_job_phase")) == 20
    assert told.value("dlcloud_jobs_without_series") == 5
    assert told.value("dlcloud_jobs", phase="Running") == 25


def ended(name: str, **before: float) -> JobView:
    return job(name, phase=Phase.SUCCEEDED, completion_time=ago(**before))


def names(jobs: Sequence[JobView]) -> list[str]:
    return [one.key.name for one in jobs]


def test_unfinished_jobs_come_first_then_those_that_finished_last() -> None:
    old = replace(job("old"), created_at=ago(days=9))
    jobs = [ended("e30", minutes=30), ended("e10", minutes=10), job("young"), old]
    assert names(chosen(jobs, NOW, 3)[0]) == ["old", "young", "e10"]


def test_a_job_that_finished_long_ago_has_no_series_and_is_not_missed() -> None:
    shown, left_out = chosen([ended("e61", minutes=61), ended("e59", minutes=59)], NOW, 10)
    assert (names(shown), left_out) == (["e59"], 0)


def test_of_two_replicas_only_the_leader_tells_of_jobs() -> None:
    told = read(metrics([RUNNING], leader=False))
    assert told.labels("dlcloud_jobs") == []
    assert told.value("dlcloud_operator_leader") == 0


# --- the operator ---


def test_passes_are_counted_by_result_and_timed() -> None:
    one = metrics()
    for result, seconds in ((PassResult.OK, 0.004), (PassResult.OK, 0.2), (PassResult.ERROR, 1.5)):
        one.reconciled(JobKey("a", "b"), result, seconds)
    told = read(one)
    assert told.value("dlcloud_operator_reconciles_total", result="ok") == 2
    assert told.value("dlcloud_operator_reconciles_total", result="error") == 1
    assert told.value("dlcloud_operator_reconciles_total", result="refused") == 0
    assert told.value("dlcloud_operator_reconcile_duration_seconds_bucket", le="0.25") == 2
    assert told.value("dlcloud_operator_reconcile_duration_seconds_count") == 3


@pytest.mark.parametrize(
    ("status", "code"), [(201, "2xx"), (404, "4xx"), (409, "4xx"), (503, "5xx"), (0, "unreachable")]
)
def test_calls_of_the_api_server_are_counted_by_class(status: int, code: str) -> None:
    one = metrics()
    one.observe_api("create", "pods", status, 0.03)
    told = read(one)
    assert told.value("dlcloud_operator_api_requests_total", verb="create", resource="pods", code=code) == 1
    of_pods = {"verb": "create", "resource": "pods"}
    assert told.value("dlcloud_operator_api_request_duration_seconds_bucket", **of_pods, le="0.05") == 1
    assert told.value("dlcloud_operator_api_request_duration_seconds_bucket", **of_pods, le="0.025") == 0


def test_retries_watch_events_and_agents_requests_are_counted() -> None:
    one = metrics()
    one.observe_retry("patch", "trainingjobs/status")
    one.watch_event("pods", "MODIFIED")
    one.rendezvous_answered("report", 200)
    told = read(one)
    assert told.value("dlcloud_operator_api_retries_total", verb="patch", resource="trainingjobs/status") == 1
    assert told.value("dlcloud_operator_watch_events_total", resource="pods", type="MODIFIED") == 1
    assert told.value("dlcloud_operator_rendezvous_requests_total", verb="report", status="200") == 1


class Parts:
    def queue_state(self) -> QueueState:
        return QueueState(urgent=3, resync=40, busy=2, oldest_age_s=1.5, oldest_busy_s=0.5)

    def num_connections(self) -> int:
        return 17

    def num_agents(self) -> int:
        return 8


def test_queue_server_lease_and_certificate_are_told_as_they_are_now() -> None:
    one = metrics()
    one.watch_engine(Parts())
    one.watch_rendezvous(Parts())
    one.lease_age_s = lambda: 1.25
    one.certificate_expires_at = lambda: NOW
    told = read(one)
    wanted = {
        "queue_busy": 2, "queue_oldest_age_seconds": 1.5, "queue_oldest_busy_seconds": 0.5,
        "rendezvous_connections": 17, "agents_connected": 8, "lease_age_seconds": 1.25, "leader": 1,
        "certificate_expiry_timestamp_seconds": NOW.timestamp(),
    }  # fmt: skip
    assert {name: told.value(f"dlcloud_operator_{name}") for name in wanted} == wanted
    assert told.value("dlcloud_operator_queue_length", lane="urgent") == 3
    assert told.value("dlcloud_operator_queue_length", lane="resync") == 40


def test_what_is_not_there_yet_is_absent() -> None:
    told = read(metrics())
    for name in ("queue_busy", "agents_connected", "lease_age_seconds", "certificate_expiry_timestamp_seconds"):
        assert told.value(f"dlcloud_operator_{name}") is None


def test_version_and_process_are_told() -> None:
    told = read(metrics())
    assert [labels["version"] for labels in told.labels("dlcloud_operator_build_info")] == ["1.2.3"]
    assert (told.value("process_resident_memory_bytes") or 0) > 10**6


def test_two_operators_of_one_process_do_not_share_their_metrics() -> None:
    one, other = metrics(), metrics()
    one.watch_event("pods", "ADDED")
    assert read(other).value("dlcloud_operator_watch_events_total", resource="pods", type="ADDED") is None


# --- how it is told ---


def test_the_text_is_compressed_when_that_is_asked_for() -> None:
    text, _ = asyncio.run(metrics([RUNNING]).exposition(compressed=True))
    assert Samples(gzip.decompress(text).decode()).value("dlcloud_jobs", phase="Running") == 1


def test_open_metrics_is_spoken_with_who_asks_for_it() -> None:
    _, plain = asyncio.run(metrics().exposition("*/*"))
    text, content_type = asyncio.run(metrics([RUNNING]).exposition("application/openmetrics-text; version=1.0.0"))
    assert plain.startswith("text/plain")
    assert content_type.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")


def test_jobs_are_read_on_the_event_loop_and_written_elsewhere() -> None:
    threads: list[threading.Thread] = []

    def jobs() -> Iterable[JobView]:
        threads.append(threading.current_thread())
        return [RUNNING]

    one = Metrics("1", jobs, now=lambda: NOW)
    one.leader = lambda: True
    told = read(one)
    assert threads == [threading.main_thread()]
    assert told.value("dlcloud_jobs", phase="Running") == 1


def test_too_many_who_ask_at_once_are_sent_away() -> None:
    async def scenario() -> None:
        one = metrics()
        ends = await asyncio.gather(*(one.exposition() for _ in range(20)), return_exceptions=True)
        busy = [end for end in ends if isinstance(end, Busy)]
        assert len(busy) == 16
        assert await one.exposition()

    asyncio.run(scenario())
