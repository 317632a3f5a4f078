"""Jobs as metrics, made from the jobs themselves when somebody asks: a job's progress costs nothing here.

May import prometheus_client, the API and the core's model. The names are public: alerts and dashboards use them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric

from dlcloud_operator.api import Condition, Phase, TrainingJobSpec, parse_duration
from dlcloud_operator.core.conditions import OWN, PODS_READY
from dlcloud_operator.core.model import JobView

MAX_JOBS = 2000
RECENT = timedelta(hours=1)  # so long a finished job keeps its series, for alerts to see it
NEW = "New"  # the phase of a job that was not looked at yet
_LABELS = ("namespace", "job")
_WAITING = (None, Phase.QUEUED, Phase.PENDING, Phase.RESTARTING)

_TEXTS = {
    "workers_desired": "Workers the job shall have.",
    "workers_ready": "Workers whose agent reports.",
    "failures_in_window": "Failures that count against the job's limit now.",
    "failures_allowed": "Failures within the window after which the job fails.",
    "round": "Number of the current round.",
    "round_start_timestamp_seconds": "When the current round began.",
    "epoch": "Epoch of the training.",
    "step": "Step of the training.",
    "steps_planned": "Steps of the whole training.",
    "loss": "Last loss that was told.",
    "samples_per_second": "Samples trained in a second, over all ranks.",
    "last_progress_timestamp_seconds": "When the progress last changed.",
    "checkpoint_interval_seconds": "Seconds between two checkpoints, as the job asks for.",
    "last_checkpoint_timestamp_seconds": "When the last checkpoint was committed.",
    "last_checkpoint_step": "Step of the last checkpoint.",
    "last_checkpoint_size_bytes": "Size of the last checkpoint.",
    "waiting_since_timestamp_seconds": "Since when workers are missing.",
    "created_timestamp_seconds": "When the job was created.",
    "start_timestamp_seconds": "When the job's first round began.",
    "completion_timestamp_seconds": "When the job succeeded or failed.",
}


def job_families(jobs: Sequence[JobView], now: datetime, max_jobs: int = MAX_JOBS) -> Iterator[Metric]:
    """Totals of all jobs, and the series of at most `max_jobs` that are unfinished or have finished lately."""
    shown, left_out = chosen(jobs, now, max_jobs)
    yield from _totals(jobs, left_out)
    yield _ones("phase", "1 for the phase the job is in.", shown, _phases, "phase")
    info = InfoMetricFamily("dlcloud_job", "What the job is.", labels=_LABELS)
    for job in shown:
        info.add_metric(_names(job), {"uid": job.uid, "workload": _workload(job.spec)})
    yield info
    restarts = CounterMetricFamily("dlcloud_job_restarts", "Rounds that had to begin again.", labels=_LABELS)
    for job in shown:
        restarts.add_metric(_names(job), job.status.restarts)
    yield restarts
    yield _ones("warning", "1 for each warning that holds.", shown, _warnings, "reason")
    gauges = {name: GaugeMetricFamily(f"dlcloud_job_{name}", text, labels=_LABELS) for name, text in _TEXTS.items()}
    for job in shown:
        for name, value in _values(job, now).items():
            if value is not None:
                gauges[name].add_metric(_names(job), value)
    yield from gauges.values()


def chosen(jobs: Iterable[JobView], now: datetime, max_jobs: int) -> tuple[list[JobView], int]:
    """The jobs with series of their own: unfinished ones, oldest first, then the last finished; and how many lack them.

    Oldest first keeps the choice stable while jobs come.
    """
    unfinished, finished = [], []
    for job in jobs:
        if job.status.phase is None or not job.status.phase.finished:
            unfinished.append(job)
        elif now - _ended_at(job) < RECENT:
            finished.append(job)
    unfinished.sort(key=lambda job: (job.created_at, job.key))
    finished.sort(key=_ended_at, reverse=True)
    wanted = unfinished + finished
    return wanted[:max_jobs], max(0, len(wanted) - max_jobs)


def waiting_since(job: JobView) -> datetime | None:
    """Since when the job lacks workers; None while it has them, or needs none."""
    if job.status.phase not in _WAITING:
        return None
    ready = next((one for one in job.status.conditions if one.type == PODS_READY), None)
    return job.created_at if ready is None or ready.status == "True" else ready.last_transition_time


def _values(job: JobView, now: datetime) -> dict[str, float | None]:
    """The job's numbers by name; one that is None or missing is not known."""
    status, spec = job.status, job.spec
    values: dict[str, float | None] = {
        "workers_desired": status.workers.desired,
        "workers_ready": status.workers.ready,
        "waiting_since_timestamp_seconds": _time(waiting_since(job)),
        "created_timestamp_seconds": _time(job.created_at),
        "start_timestamp_seconds": _time(status.start_time),
        "completion_timestamp_seconds": _time(status.completion_time),
    }
    if spec is not None:
        since = now - parse_duration(spec.restart.window)
        values["failures_allowed"] = spec.restart.max_failures
        values["failures_in_window"] = sum(at > since for at in status.recovery.counted_at)
        values["checkpoint_interval_seconds"] = spec.checkpoint.every_seconds if spec.checkpoint else None
    if status.round is not None:
        values["round"] = status.round.number
        values["round_start_timestamp_seconds"] = _time(status.round.started_at)
    if (progress := status.progress) is not None:
        values["epoch"], values["step"], values["steps_planned"] = progress.epoch, progress.step, progress.total_steps
        values["loss"], values["samples_per_second"] = progress.loss, progress.samples_per_second
        values["last_progress_timestamp_seconds"] = _time(progress.reported_at)
    if (saved := status.checkpoint) is not None:
        values["last_checkpoint_timestamp_seconds"] = _time(saved.committed_at)
        values["last_checkpoint_step"], values["last_checkpoint_size_bytes"] = saved.step, saved.size_bytes
    return values


def _totals(jobs: Sequence[JobView], left_out: int) -> Iterator[Metric]:
    phases = Counter(_phase(job) for job in jobs)
    total = GaugeMetricFamily("dlcloud_jobs", "Jobs in each phase.", labels=("phase",))
    for phase in (NEW, *Phase):
        total.add_metric((str(phase),), phases[str(phase)])
    yield total
    yield GaugeMetricFamily(
        "dlcloud_jobs_without_series", "Jobs that are only in the totals, because there are so many.", value=left_out
    )


def _ones(
    name: str,
    text: str,
    jobs: Iterable[JobView],
    values: Callable[[JobView], Iterable[str]],
    label: str,
) -> Metric:
    family = GaugeMetricFamily(f"dlcloud_job_{name}", text, labels=(*_LABELS, label))
    for job in jobs:
        for value in values(job):
            family.add_metric((*_names(job), value), 1)
    return family


def _names(job: JobView) -> tuple[str, str]:
    return job.key.namespace, job.key.name


def _phase(job: JobView) -> str:
    return NEW if job.status.phase is None else job.status.phase.value


def _phases(job: JobView) -> Iterable[str]:
    yield _phase(job)


def _warnings(job: JobView) -> Iterable[str]:
    def holds(condition: Condition) -> bool:
        return condition.type not in OWN and condition.status == "True"

    return (condition.type for condition in job.status.conditions if holds(condition))


def _workload(spec: TrainingJobSpec | None) -> str:
    return "" if spec is None else spec.workload or "script"


def _time(at: datetime | None) -> float | None:
    return None if at is None else at.timestamp()


def _ended_at(job: JobView) -> datetime:
    return job.status.completion_time or job.created_at
