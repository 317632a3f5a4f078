"""Runs as folders, without a process ever having run them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dlcloud.jobs.run_folder import RunInfo, Stint, write_info
from dlcloud.local.state import LoggedEvent, write_job
from dlcloud_operator.api import CheckpointStatus, Phase, Progress, TrainingJobStatus
from dlcloud_operator.api.validation import parse_job
from dlcloud_operator.core.model import Emit, JobKey, JobView

T0 = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
STINT = Stint("mark-1", 2**22 + 1, "boot/1", "here", T0)
SAVED = CheckpointStatus(step=40, uri="s3://bucket/default/digits/uid-digits/manifests/x.json", committed_at=T0)


def job_view(
    name: str = "digits", phase: Phase | None = Phase.SUSPENDED, uri: str = "s3://bucket/", **status: object
) -> JobView:
    """A job of the cnn workload at step 40 of 100."""
    spec = {
        "workload": "cnn",
        "parameters": {"epochs": 10},
        "data": {"uri": "builtin://digits"},
        "workers": {"count": 2},
        **({"checkpoint": {"uri": uri}} if uri else {}),
    }
    manifest = {"apiVersion": "dlcloud.dev/v1", "kind": "TrainingJob", "metadata": {"name": name}, "spec": spec}
    told = Progress(epoch=4, epochs=10, step=40, total_steps=100, samples=640, loss=0.25, samples_per_second=64.0)
    given = TrainingJobStatus(phase=phase, progress=told, checkpoint=SAVED if uri else None).model_copy(update=status)
    return JobView(JobKey("default", name), f"uid-{name}", "7", 1, T0, given, parse_job(manifest).spec)


def make_run(home: Path, job: JobView, *, hour: int = 0, store: Path | None = None, endpoint: str = "") -> Path:
    """A run of this job in `home`, created `hour` hours after T0."""
    at = T0 + timedelta(hours=hour)
    folder = home / "runs" / f"{job.key.name}-{at:%Y%m%d-%H%M%S}"
    folder.mkdir(parents=True)
    (folder / "pods" / f"{job.key.name}-0-1").mkdir(parents=True)
    (folder / "pods" / f"{job.key.name}-0-1" / "log").write_text("one\ntwo\nlast")
    info = RunInfo("/j.yaml", (), home, endpoint, store or home / "store", "0.1.0", (STINT,))
    write_info(folder, info)
    write_job(folder, replace(job, created_at=at), [LoggedEvent(T0, Emit("RoundStarted", "round 1"))])
    return folder
