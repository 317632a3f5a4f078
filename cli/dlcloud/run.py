"""`dlcloud run` and `dlcloud resume` on this machine: from options to an exit code.

May import this package and the API; everything heavy is imported inside. No traceback for what a user did.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from dlcloud_operator.api import InvalidManifest, Problem, TrainingJob

from .exits import EXIT_FAILED, EXIT_USAGE
from .home import home, make_run_folder, short
from .jobs.run_folder import RunInfo, hold, link_run, runs_folder
from .manifest import ManifestErrors, load_manifest
from .output import Output
from .overrides import apply_overrides
from .store import given_access, is_locked, store_need

if TYPE_CHECKING:
    from .place import Place
    from .session import StoreSettings

_NEEDED = {"aiohttp": "operator", "jinja2": "operator", "jwt": "operator", "torch": "trainer", "minio": "local"}


@dataclass(frozen=True)
class RunOptions:
    """What the user asked for; `logs` None: the ranks' output among plain lines for scripts alone."""

    manifest: Path
    workers: int | None = None
    settings: tuple[str, ...] = ()
    run_dir: Path | None = None
    endpoint: str = ""
    store: Path | None = None
    plain: bool = False
    logs: bool | None = None
    detach: bool = False

    @property
    def all_settings(self) -> tuple[str, ...]:
        """`--workers` and each `--set`, as paths and values."""
        return (*([f"workers.count={self.workers}"] if self.workers is not None else []), *self.settings)


@dataclass(frozen=True)
class ResumeOptions:
    """What the user asked for when a stopped run shall go on."""

    name: str
    workers: int | None = None
    settings: tuple[str, ...] = ()
    plain: bool = False
    logs: bool | None = None
    detach: bool = False


def run_command(options: RunOptions) -> int:
    """Run the job and return the exit code; see `dlcloud run --help` for the codes."""
    out, err = Output(sys.stdout), Output(sys.stderr)
    return _explained(lambda: _run(options, out, err), str(options.manifest), err)


def resume_command(options: ResumeOptions) -> int:
    """Let a stopped run go on and return the exit code, as `run_command` does."""
    out, err = Output(sys.stdout), Output(sys.stderr)
    return _explained(lambda: _resume(options, out, err), options.name, err)


def run_in_cluster(place: Place, options: RunOptions) -> int:
    """Create the job in a cluster and follow it. Raises JobsError."""
    from .managing import follow_in_cluster

    out, err = Output(sys.stdout), Output(sys.stderr)

    def create_and_follow() -> int:
        source = place.open()
        record = source.create(load_job(options))
        out.line(f"job: {record.id} is created ({source.where})")
        plain, logs, detach = options.plain, options.logs, options.detach
        return follow_in_cluster(place, record, out, err, plain=plain, logs=logs, detach=detach)

    return _explained(create_and_follow, str(options.manifest), err)


def load_job(options: RunOptions) -> TrainingJob:
    """The manifest with the user's changes. Raises ManifestErrors, InvalidManifest."""
    job = apply_overrides(load_manifest(options.manifest), options.all_settings)
    if job.spec.suspend:
        raise InvalidManifest((Problem("spec.suspend", "is true, so nothing would run; add --set suspend=false"),))
    return job


def _explained(work: Callable[[], int], subject: str, err: Output) -> int:
    try:
        return work()
    except ManifestErrors as errors:
        err.line(errors.explained(shutil.get_terminal_size((100, 24)).columns))
        return EXIT_USAGE
    except InvalidManifest as invalid:
        for problem in invalid.problems:
            err.line(f"{subject}: {problem}" if problem.path.startswith("spec") else str(problem))
        return EXIT_USAGE


def _run(options: RunOptions, out: Output, err: Output) -> int:
    from .jobs.beginning import create_run

    job, notes = prepare(load_job(options))
    _check_installed()
    folder, name = _run_folder(options, job)
    try:
        lock = hold(folder)
        store, store_notes = choose_store(job, options, folder)
        create_run(folder, job, run_info(options, store))
    except (OSError, InvalidManifest) as error:
        _take_back(folder, name, made=options.run_dir is None)
        if isinstance(error, InvalidManifest):
            raise
        err.line(f"{folder}: {error.strerror or error}; the run cannot be written down, so it is not begun")
        return EXIT_FAILED
    for note in (*notes, *store_notes):
        out.line(note)
    out.line(f"run: {name}")
    return _go(folder, lock, name, options, out, err)


def _resume(options: ResumeOptions, out: Output, err: Output) -> int:
    from .jobs.beginning import check_resumable, open_run, with_changes
    from .jobs.continuing import manifest_of
    from .jobs.local_runs import LocalRuns
    from .local.state import write_job

    record = LocalRuns().find(options.name)
    assert record.run_dir is not None
    _check_installed()
    lock = hold(record.run_dir)
    try:
        run = open_run(record.run_dir)
        check_resumable(record.id, run)
        changed = with_changes(run, options.workers, options.settings)
        _check_gpus(manifest_of(changed.job))
        if changed.job != run.job:
            write_job(run.folder, changed.job, changed.events)
    except OSError as error:
        os.close(lock)
        err.line(f"{record.run_dir}: {error.strerror or error}; the run cannot be written down, so it is not begun")
        return EXIT_FAILED
    except BaseException:
        os.close(lock)
        raise
    out.line(f"run: {record.id}")
    return _go(record.run_dir, lock, record.id, options, out, err)


def _go(folder: Path, lock: int, name: str, options: RunOptions | ResumeOptions, out: Output, err: Output) -> int:
    if options.detach:
        from .jobs.background import detached

        return detached(folder, lock, name, out, err)
    from .jobs.owner import own

    return own(folder, lock, out, err, plain=options.plain, logs=options.logs)


def run_info(options: RunOptions, store: StoreSettings) -> RunInfo:
    """What a later process must know to go on with the run; no keys."""
    from importlib.metadata import version

    return RunInfo(
        manifest=str(options.manifest.absolute()) if options.manifest.name else "",
        settings=options.all_settings,
        working_dir=Path.cwd(),
        endpoint=store.access.endpoint if store.access else "",
        store=store.folder.resolve(),
        version=version("dlcloud"),
    )


def _check_installed() -> None:
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        message = f"{', '.join(missing)} not installed; run: pip install 'dlcloud[local]'"
        raise InvalidManifest((Problem("--local", message),))


def prepare(job: TrainingJob) -> tuple[TrainingJob, list[str]]:
    """The job as it will run here, and notes on what was changed for this machine. Raises InvalidManifest."""
    notes = []
    if job.spec.ttl_seconds_after_finished is not None:
        job = job.model_copy(update={"spec": job.spec.model_copy(update={"ttl_seconds_after_finished": None})})
        notes.append("note: ttlSecondsAfterFinished is for clusters; this run stays until `dlcloud rm`")
    job, more = _on_gpus_here(job)
    return job, notes + more


def _on_gpus_here(job: TrainingJob) -> tuple[TrainingJob, list[str]]:
    from .local.gpus import visible_gpus

    workers, found = job.spec.workers, len(visible_gpus())
    wanted = workers.count * workers.gpus
    if wanted <= found:
        return job, []
    if found:
        fitting = found // workers.gpus
        remedy = f"add --workers {fitting}" if fitting else f"add --set workers.gpus={found}"
        message = (
            f"{workers.count} workers with {workers.gpus} each need {wanted} GPUs; this machine has {found}; {remedy}"
        )
        raise InvalidManifest((Problem("spec.workers.gpus", message),))
    return apply_overrides(job, ["workers.gpus=0"]), ["note: this machine has no NVIDIA GPU; the workers use the CPU"]


def _check_gpus(job: TrainingJob) -> None:
    """Raise InvalidManifest when a stopped run had GPUs that are not there any more: it cannot change to the CPU."""
    if _on_gpus_here(job)[0] != job:
        message = "the run was begun with GPUs, and none is visible now; look at nvidia-smi and CUDA_VISIBLE_DEVICES"
        raise InvalidManifest((Problem("spec.workers.gpus", message),))


def choose_store(job: TrainingJob, options: RunOptions, run_dir: Path) -> tuple[StoreSettings, list[str]]:
    """Where s3:// leads in this run, and a line that says so. Raises InvalidManifest."""
    from .session import StoreSettings

    need = store_need(job)
    folder = options.store.expanduser().absolute() if options.store else home(os.environ) / "store"
    if not need.buckets:
        return StoreSettings(None, folder), []
    if options.endpoint:
        if "@" in options.endpoint:
            message = "holds a name or password, which would be written down; export AWS_ACCESS_KEY_ID and the like"
            raise InvalidManifest((Problem("--endpoint", message),))
        access = given_access(options.endpoint, job.spec.object_store.region, os.environ)
        return StoreSettings(access, folder), [f"store: {access.endpoint}"]
    if options.store is None and is_locked(folder):
        if need.reads:
            message = f"{short(folder)}: another run uses it, and this job reads from it; wait, or give --store DIR"
            raise InvalidManifest((Problem("store", message),))
        folder = run_dir / "store"
        return StoreSettings(None, folder), [
            f"store: an S3 server of this run alone, data in {short(folder)} (another run uses ours)"
        ]
    return StoreSettings(None, folder), [f"store: the S3 server of dlcloud itself, data in {short(folder)}"]


def _run_folder(options: RunOptions, job: TrainingJob) -> tuple[Path, str]:
    """A new folder for the run, and the name commands take for it."""
    now = datetime.now(UTC)
    try:
        if options.run_dir is None:
            folder = make_run_folder(runs_folder(), job.metadata.name, now)
            return folder.resolve(), folder.name
        folder = options.run_dir.expanduser().absolute()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise FileExistsError(errno.EEXIST, "is not empty; give a new folder")
    except OSError as error:
        where = options.run_dir or runs_folder()
        remedy = "" if error.errno == errno.EEXIST else "; give a folder that can be written with --run-dir DIR"
        raise InvalidManifest((Problem("--run-dir", f"{where}: {error.strerror or error}{remedy}"),)) from None
    return folder.resolve(), link_run(folder.resolve(), job.metadata.name, now)


def _take_back(folder: Path, name: str, *, made: bool) -> None:
    """Leave nothing behind of a run that never was."""
    if made:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for entry in folder.iterdir():
        entry.unlink(missing_ok=True)
    if (link := runs_folder() / name).is_symlink():
        link.unlink(missing_ok=True)
