"""What `dlcloud ls` and `dlcloud describe` say of jobs. May import the API and this package's values. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from dlcloud_operator.api import API_VERSION, Phase, TrainingJobSpec
from dlcloud_operator.core.model import JobView
from dlcloud_operator.core.time_left import seconds_left

from .formats import Column, table_lines
from .home import short
from .jobs.source import JobRecord
from .view.snapshot import EventLine
from .view.words import duration, metric_texts, number, printable, size

_LOCAL = (
    Column("NAMESPACE"), Column("ID"), Column("JOB"), Column("PHASE"), Column("WORKERS"), Column("EPOCH", right=True),
    Column("STEP", right=True), Column("LOSS", right=True), Column("RESTARTS", right=True), Column("AGE", right=True),
    Column("RATE", wide=True, right=True), Column("ETA", wide=True, right=True),
    Column("CHECKPOINT", wide=True, right=True), Column("FOLDER", wide=True), Column("MESSAGE", wide=True),
)  # fmt: skip
_INDENT = "  "


def list_lines(records: Sequence[JobRecord], now: datetime, *, wide: bool) -> list[str]:
    """The table of `dlcloud ls`; jobs of a cluster have neither a JOB (their id is the name) nor a FOLDER.

    Jobs of several namespaces, whose names may be the same, have a NAMESPACE.
    """
    local = any(record.run_dir is not None for record in records)
    left_out = {"NAMESPACE"} if local else {"JOB", "FOLDER"}
    if len({record.job.key.namespace for record in records}) < 2:
        left_out.add("NAMESPACE")
    columns = [column for column in _LOCAL if column.title not in left_out]
    rows = [_row(record, now) for record in records]
    return table_lines(columns, [[row[column.title] for column in columns] for row in rows], wide=wide)


def list_document(records: Sequence[JobRecord]) -> dict[str, Any]:
    """The list as the API server would give it."""
    items = [record.document() for record in records]
    return {"apiVersion": API_VERSION, "kind": "TrainingJobList", "items": items}


def _row(record: JobRecord, now: datetime) -> dict[str, str]:
    status, progress = record.job.status, record.job.status.progress
    running = record.phase in (Phase.RUNNING, Phase.RESTARTING)
    epoch = step = loss = rate = eta = ""
    if progress is not None:
        epoch = _of(progress.epoch, progress.epochs)
        step = _of(progress.step, progress.total_steps)
        loss = number(progress.loss) if progress.loss is not None else ""
        if running and progress.samples_per_second:
            rate = f"{progress.samples_per_second:,.0f}/s"
            left = seconds_left(progress)
            eta = duration(left) if left else ""
    return {
        "NAMESPACE": record.job.key.namespace,
        "ID": record.id,
        "JOB": record.job.key.name,
        "PHASE": record.phase,
        "WORKERS": _workers(record),
        "EPOCH": epoch,
        "STEP": step,
        "LOSS": loss,
        "RESTARTS": str(status.restarts),
        "AGE": age(record.job.created_at, now),
        "RATE": rate,
        "ETA": eta,
        "CHECKPOINT": f"step {status.checkpoint.step}" if status.checkpoint else "",
        "FOLDER": short(record.run_dir) if record.run_dir else "",
        "MESSAGE": printable(record.message),
    }


def _workers(record: JobRecord) -> str:
    desired = record.job.spec.workers.count if record.job.spec else record.job.status.workers.desired
    return record.job.status.workers.text if record.running and record.job.status.workers.text else str(desired)


def _of(value: int | None, whole: int | None) -> str:
    return "" if value is None else f"{value}/{whole}" if whole else str(value)


def age(at: datetime, now: datetime) -> str:
    """How long ago, coarsely: `5s`, `3m`, `2h`, `4d`."""
    seconds = max(0, int((now - at).total_seconds()))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length or (unit == "m" and seconds >= 120):
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def describe_lines(record: JobRecord, events: Sequence[EventLine], now: datetime) -> list[str]:
    """All that is known of a job, for people."""
    job, status = record.job, record.job.status
    lines = _block(
        "",
        [
            ("ID", record.id if record.id != job.key.name else ""),
            ("Name", job.key.name),
            ("Namespace", job.key.namespace),
            ("UID", job.uid),
            ("Created", f"{_time(job.created_at)} ({age(job.created_at, now)} ago)"),
            ("Folder", short(record.run_dir) if record.run_dir else ""),
            ("Phase", record.phase),
            ("Message", record.message),
            ("Ended", f"{_time(status.completion_time)}" if status.completion_time else ""),
        ],
    )
    lines += _block("Spec", _spec_facts(job.spec) if job.spec else [("", "cannot be read")])
    lines += _block("Workers", _worker_facts(record))
    lines += _block("Progress", _progress_facts(job))
    lines += _block("Checkpoints", _checkpoint_facts(record, now))
    if status.conditions:
        columns = (Column("TYPE"), Column("STATUS"), Column("REASON"), Column("SINCE"), Column("MESSAGE"))
        rows = [
            [c.type, c.status, c.reason, age(c.last_transition_time, now), printable(c.message)]
            for c in status.conditions
        ]
        lines += ["Conditions:", *(_INDENT + line for line in table_lines(columns, rows))]
    if status.failures:
        lines.append("Failures (the last ones):")
        for failure in status.failures:
            where = [f"worker {failure.worker}"] * (failure.worker is not None)
            where += [f"rank {failure.rank}"] * (failure.rank is not None)
            where += [f"exit code {failure.exit_code}"] * (failure.exit_code is not None)
            counted = "counted" if failure.counted else "not counted"
            head = ", ".join([f"round {failure.round}", *where, counted])
            first, *rest = failure.message.splitlines() or [""]
            lines.append(f"{_INDENT}{age(failure.time, now)} ago  {failure.reason} ({head}): {printable(first)}")
            lines += [f"{_INDENT * 3}{printable(line)}" for line in rest if line.strip()]
    lines.append("Events:" if events else "Events: none")
    if events:
        titles = (Column("TYPE"), Column("REASON"), Column("AGE"), Column("MESSAGE"))
        told = [["Warning" if e.warning else "Normal", e.reason, age(e.at, now), printable(e.message)] for e in events]
        lines += [_INDENT + line for line in table_lines(titles, told)]
    return lines


def describe_document(record: JobRecord, events: Sequence[EventLine]) -> dict[str, Any]:
    """The job as one document, with its events."""
    told = [
        {"at": e.at.astimezone(UTC).isoformat(), "reason": e.reason, "message": e.message, "warning": e.warning}
        for e in events
    ]
    return record.document() | {"events": told}


def _spec_facts(spec: TrainingJobSpec) -> list[tuple[str, str]]:
    workers = spec.workers
    each = f"{workers.cpu} CPU, {workers.memory}" + (f", {workers.gpus} GPU" if workers.gpus else "")
    parameters = ", ".join(f"{key}={value}" for key, value in sorted(spec.parameters.items()))
    script = " ".join([*spec.script.command, *spec.script.args]) if spec.script else ""
    restart = f"at most {spec.restart.max_failures} failures in {spec.restart.window}"
    kept = spec.checkpoint
    return [
        ("Workload", spec.workload),
        ("Script", script),
        ("Parameters", parameters),
        ("Data", spec.data.uri if spec.data else ""),
        ("Workers", f"{workers.count} with {each}"),
        ("Checkpoint", f"{kept.uri} every {kept.every_seconds} s, keeps {kept.keep_last}" if kept else "none"),
        ("Resume from", spec.resume_from),
        ("Object store", spec.object_store.endpoint),
        ("Restart", restart),
    ]


def _worker_facts(record: JobRecord) -> list[tuple[str, str]]:
    status = record.job.status
    facts = [("Ready", status.workers.text if record.running else "none runs"), ("Restarts", str(status.restarts))]
    current = status.round
    if current is None:
        last = status.recovery.last_round
        return [*facts, ("Rounds", f"{last} so far" if last else "")]
    facts.append(("Round", f"{current.number}, {current.world_size} ranks, master {current.master}:{current.port}"))
    if record.running:
        facts += [(f"Worker {m.index}", f"{m.pod}, ranks {', '.join(map(str, m.ranks))}") for m in current.members[:32]]
        more = len(current.members) - 32
        facts += [("", f"and {more} more")] * (more > 0)
    return facts


def _progress_facts(job: JobView) -> list[tuple[str, str]]:
    progress = job.status.progress
    if progress is None:
        return []
    left = seconds_left(progress)
    running = job.status.phase is Phase.RUNNING
    return [
        ("Epoch", _of(progress.epoch, progress.epochs)),
        ("Step", _of(progress.step, progress.total_steps)),
        ("Loss", number(progress.loss) if progress.loss is not None else ""),
        ("Metrics", ", ".join(metric_texts(progress.metrics))),
        ("Rate", f"{progress.samples_per_second:,.0f} samples/s" if progress.samples_per_second else ""),
        ("To go", duration(left) if left and running else ""),
    ]


def _checkpoint_facts(record: JobRecord, now: datetime) -> list[tuple[str, str]]:
    saved = record.job.status.checkpoint
    if saved is None:
        return [("Prefix", record.checkpoint_prefix)]
    what = f"step {saved.step}, {age(saved.committed_at, now)} ago" + (
        f", {size(saved.size_bytes)}" if saved.size_bytes else ""
    )
    return [("Last", what), ("Manifest", saved.uri), ("Prefix", record.checkpoint_prefix)]


def _block(title: str, facts: Sequence[tuple[str, str]]) -> list[str]:
    """Aligned lines; facts that say nothing are left out, and a block of such with its title."""
    told = [(name, printable(value)) for name, value in facts if value]
    if not told:
        return []
    width = max(len(name) for name, _ in told) + 2
    indent = _INDENT if title else ""
    lines = [f"{indent}{(name + ':' if name else '').ljust(width)} {value}".rstrip() for name, value in told]
    return [f"{title}:", *lines] if title else lines


def _time(at: datetime) -> str:
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S")
