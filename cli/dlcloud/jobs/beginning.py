"""From a manifest to a new run's folder, and from a folder back to what a session needs. Starts no process.

May import this package, the API and the core's values.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from dlcloud_operator.api import InvalidManifest, Phase, Problem, TrainingJob, TrainingJobStatus
from dlcloud_operator.api.rules import check_change
from dlcloud_operator.core.model import JobKey, JobView

from ..home import short
from ..local.state import LoggedEvent, write_job
from ..overrides import apply_overrides
from ..session import StoreSettings
from ..store import store_need
from .continuing import manifest_of
from .errors import JobsError
from .local_runs import read_run
from .local_store import own_server
from .run_folder import RunInfo, is_held, read_info, run_ids, runs_folder, write_info


@dataclass(frozen=True)
class StoppedRun:
    """All that is known of a run that no process has at the moment."""

    folder: Path
    job: JobView
    events: tuple[LoggedEvent, ...]
    info: RunInfo


def create_run(folder: Path, job: TrainingJob, info: RunInfo) -> None:
    """Write a new run into its folder: from now on it can be listed and resumed. Raises OSError."""
    key = JobKey(job.metadata.namespace, job.metadata.name)
    view = JobView(key, str(uuid.uuid4()), "1", 1, datetime.now(UTC), TrainingJobStatus(), job.spec)
    write_info(folder, info)
    write_job(folder, view, ())


def open_run(folder: Path) -> StoppedRun:
    """What a run's folder holds. Raises JobsError."""
    job, events = read_run(folder)
    return StoppedRun(folder, job, events, read_info(folder))


def check_resumable(name: str, run: StoppedRun) -> None:
    """Raise JobsError for a run that cannot go on, with the reason."""
    status = run.job.status
    if status.phase is not Phase.SUCCEEDED:
        return
    remedy = "run the job again to train anew"
    if status.checkpoint is not None:
        prefix = status.checkpoint.uri.partition("manifests/")[0]
        remedy = f"to train on from it: dlcloud run {run.info.manifest or 'JOB.yaml'} --set resumeFrom={prefix}"
    raise JobsError(f"{name}: has succeeded, there is nothing left to do; {remedy}")


def with_changes(run: StoppedRun, workers: int | None, settings: Sequence[str]) -> StoppedRun:
    """The run with another number of workers, or other fields; what may not change is refused as by the API server.

    Raises InvalidManifest.
    """
    before = manifest_of(run.job)
    wanted = [f"workers.count={workers}"] * (workers is not None) + list(settings)
    changed = apply_overrides(before, wanted).spec
    if changed.suspend and not before.spec.suspend:
        raise InvalidManifest((Problem("spec.suspend", "is true, so nothing would run; leave it out"),))
    if problems := check_change(before.spec, changed, Phase.SUSPENDED):
        raise InvalidManifest(problems)
    if changed == before.spec:
        return run
    version = str(int(run.job.resource_version) + 1)
    job = replace(run.job, spec=changed, generation=run.job.generation + 1, resource_version=version)
    return replace(run, job=job)


def store_of(run: StoppedRun, environ: Mapping[str, str]) -> StoreSettings:
    """Where s3:// leads for this run, as it did before. Raises JobsError when that is gone, taken, or has no keys."""
    job, info = manifest_of(run.job), run.info
    if not store_need(job).buckets:
        return StoreSettings(None, info.store)
    if info.endpoint:
        return StoreSettings(own_server(info.endpoint, job.spec.object_store.region), info.store)
    if run.job.status.checkpoint is not None and not (info.store / "data").is_dir():
        raise JobsError(
            f"{short(info.store)}: the data of the run's S3 server is gone, and its checkpoints with it; "
            "put the folder back, or run the job anew"
        )
    for other in run_ids(environ):
        folder = (runs_folder(environ) / other).resolve()
        if folder != run.folder and is_held(folder) and _store_in(folder) == info.store:
            raise JobsError(
                f"{short(info.store)}: run {other} uses this store now; wait for its end, or suspend it: "
                f"dlcloud suspend {other}"
            )
    return StoreSettings(None, info.store)


def _store_in(folder: Path) -> Path | None:
    """The embedded store a run uses; None when it uses none."""
    try:
        run = open_run(folder)
    except JobsError:
        return None
    return run.info.store if not run.info.endpoint and store_need(manifest_of(run.job)).buckets else None
