"""`dlcloud run --local`: from options to an exit code.

May import this package and the API; everything heavy is imported inside. No traceback for what a user did.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from dlcloud_operator.api import CheckpointStatus, InvalidManifest, Problem, TrainingJob

from .ending import RunFacts, ending_lines
from .exits import EXIT_FAILED, EXIT_USAGE
from .home import home, make_run_folder, program, short
from .manifest import ManifestErrors, load_manifest
from .output import Output
from .overrides import apply_overrides
from .store import given_access, is_locked, store_need

if TYPE_CHECKING:
    from .session import LocalSession, StoreSettings

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

    def command(self) -> list[str]:
        """The command line that runs the same job again, without a resumeFrom of its own."""
        words = [*program(), "run", str(self.manifest), "--local"]
        words += ["--workers", str(self.workers)] if self.workers is not None else []
        for setting in self.settings:
            words += ["--set", setting] if not setting.removeprefix("spec.").startswith("resumeFrom=") else []
        words += ["--endpoint", self.endpoint] if self.endpoint else []
        words += ["--store", str(self.store)] if self.store else []
        return words


def run_command(options: RunOptions) -> int:
    """Run the job and return the exit code; see `dlcloud run --help` for the codes."""
    out, err = Output(sys.stdout), Output(sys.stderr)
    try:
        job, notes = prepare(load_manifest(options.manifest), options)
        missing = [name for name in _NEEDED if find_spec(name) is None]
        if missing:
            message = f"{', '.join(missing)} not installed; run: pip install 'dlcloud[local]'"
            raise InvalidManifest((Problem("--local", message),))
        run_dir = _run_folder(options, job)
        store, store_notes = choose_store(job, options, run_dir)
    except ManifestErrors as errors:
        err.line(str(errors))
        return EXIT_USAGE
    except InvalidManifest as invalid:
        for problem in invalid.problems:
            err.line(f"{options.manifest}: {problem}" if problem.path.startswith("spec") else str(problem))
        return EXIT_USAGE
    for note in (*notes, *store_notes):
        out.line(note)
    if options.store is None and store.access is None and store.folder.is_relative_to(run_dir):
        options = replace(options, store=store.folder)
    return asyncio.run(_run(job, options, run_dir, store, out, err))


def prepare(job: TrainingJob, options: RunOptions) -> tuple[TrainingJob, list[str]]:
    """The job as it will run here, and notes on what was changed for this machine. Raises InvalidManifest."""
    settings = list(options.settings)
    if options.workers is not None:
        settings.insert(0, f"workers.count={options.workers}")
    job = apply_overrides(job, settings)
    if job.spec.suspend:
        raise InvalidManifest((Problem("spec.suspend", "is true, so nothing would run; add --set suspend=false"),))
    return _on_gpus_here(job)


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


def choose_store(job: TrainingJob, options: RunOptions, run_dir: Path) -> tuple[StoreSettings, list[str]]:
    """Where s3:// leads in this run, and a line that says so. Raises InvalidManifest."""
    from .session import StoreSettings

    need = store_need(job)
    folder = options.store.expanduser().absolute() if options.store else home(os.environ) / "store"
    if not need.buckets:
        return StoreSettings(None, folder), []
    if options.endpoint:
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


def _run_folder(options: RunOptions, job: TrainingJob) -> Path:
    try:
        if options.run_dir is None:
            return make_run_folder(home(os.environ) / "runs", job.metadata.name, datetime.now(UTC))
        folder = options.run_dir.expanduser().absolute()
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise FileExistsError(errno.EEXIST, "is not empty; give a new folder")
    except OSError as error:
        where = options.run_dir or home(os.environ) / "runs"
        remedy = "" if error.errno == errno.EEXIST else "; give a folder that can be written with --run-dir DIR"
        raise InvalidManifest((Problem("--run-dir", f"{where}: {error.strerror or error}{remedy}"),)) from None
    return folder


async def _run(
    job: TrainingJob, options: RunOptions, run_dir: Path, store: StoreSettings, out: Output, err: Output
) -> int:
    from .follow import follow
    from .session import LocalSession, SessionError
    from .stopping import StopRequests
    from .view.terminal import PlainView, open_view

    log_to(run_dir)
    session = LocalSession(job, run_dir, store, Path.cwd())
    show_log = options.logs if options.logs is not None else job.spec.script is not None
    view = open_view(out, sys.stdout, plain=options.plain, show_log=show_log)
    with StopRequests() as stop:
        try:
            code, last = await follow(session, view, out, stop, at_end=_look_at_the_store)
        except SessionError as error:
            err.line(str(error))
            return stop.exit_code or EXIT_FAILED
        facts = RunFacts(
            run_dir=run_dir,
            command=options.command(),
            checkpoints=job.spec.checkpoint is not None,
            killed=stop.now.is_set(),
            show_log=not (show_log and isinstance(view, PlainView)),
            script=job.spec.script is not None,
        )
        write_lines(out, ending_lines(last, code, facts))
    return code


async def _look_at_the_store(session: LocalSession) -> None:
    """Take the newest checkpoint from the store itself: workers that stop save once more and may not tell."""
    from .history import read_checkpoints
    from .objects import StoreError, open_reader

    prefix = session.checkpoint_prefix
    if not prefix or session.tracker.progress is None:
        return
    with contextlib.suppress(StoreError):
        reader = await asyncio.to_thread(open_reader, prefix, session.access)
        for saved in (await asyncio.to_thread(read_checkpoints, reader))[:1]:
            session.tracker.saved(
                CheckpointStatus(
                    step=saved.step,
                    uri=prefix + saved.manifest,
                    committed_at=saved.created_at or datetime.now(UTC),
                    size_bytes=saved.size_bytes,
                )
            )


def write_lines(out: Output, lines: Sequence[str]) -> None:
    """Write all lines."""
    for line in lines:
        out.line(line)


def log_to(run_dir: Path) -> None:
    """The engine's own log goes to a file of the run: the screen is the user's."""
    root = logging.getLogger()
    try:
        handler: logging.Handler = logging.FileHandler(run_dir / "dlcloud.log", delay=True)
    except OSError:
        handler = logging.NullHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.raiseExceptions = False  # a full disk loses log lines, not the run
