"""Runs in the background: start the owning process, and wait until the job is accepted and its first state known.

May import this package. The process has a session of its own and no terminal: nothing the shell does ends it.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dlcloud_operator.api import InvalidManifest, Phase, TrainingJob
from dlcloud_operator.core.model import JobView

from ..exits import EXIT_FAILED, EXIT_OK
from ..home import make_run_folder, program, short
from ..output import Output
from .beginning import check_resumable, create_run, open_run, store_of
from .errors import JobsError
from .local_runs import read_run
from .run_folder import OUTPUT_FILE, hold, read_info, runs_folder
from .source import JobRecord

_BEGIN_S = 120.0  # the agent's archive and the S3 server have limits of their own, below this
_POLL_S = 0.05
_SHOWN_BYTES = 4096


@dataclass(frozen=True)
class Begun:
    """How a background run began: its phase and message, or (`exit_code`) that its process has ended already."""

    phase: Phase | None
    message: str
    exit_code: int | None = None


def start_in_background(folder: Path, lock: int) -> Begun:
    """Start the owner of a run and wait for the job's first state. Gives the lock to it. Raises OSError."""
    output = folder / OUTPUT_FILE
    before = _version(folder)
    try:
        with output.open("ab") as stream:
            told_from = stream.tell()
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "dlcloud.jobs.owner", str(folder), str(lock)],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                cwd=_working_dir(folder),
                start_new_session=True,
                pass_fds=(lock,),
            )
    finally:
        os.close(lock)  # the lock itself stays as long as the new process has it open
    give_up = time.monotonic() + _BEGIN_S
    while time.monotonic() < give_up:
        code = process.poll()
        job = _job(folder)
        if job is not None and int(job.resource_version) > before and job.status.phase not in (None, Phase.SUSPENDED):
            return Begun(job.status.phase, job.status.message, code)
        if code is not None:
            return Begun(None, _end_of(output, told_from), code)
        time.sleep(_POLL_S)
    return Begun(None, "it has not begun yet")


def detached(folder: Path, lock: int, name: str, out: Output, err: Output) -> int:
    """Start a run in the background and tell of it; the answer is the exit code."""
    try:
        begun = start_in_background(folder, lock)
    except OSError as error:
        err.line(f"{folder}: {error.strerror}; the run cannot be started in the background")
        return EXIT_FAILED
    except KeyboardInterrupt:
        err.line(f"{name} goes on in the background; stop it with: {shlex.join(program())} suspend {name}")
        raise
    if begun.phase is None and begun.exit_code is not None:
        err.line(begun.message or f"the run ended at once; see {short(folder)}")
        return begun.exit_code or EXIT_FAILED
    if begun.phase is Phase.FAILED:
        err.line(f"{name} has failed: {begun.message}")
        return EXIT_FAILED
    word = shlex.join(program())
    state = f"{begun.phase or 'Starting'}" + (f": {begun.message}" if begun.message else "")
    out.line(f"{name} runs in the background; {state}")
    out.line(f"follow it:  {word} logs -f {name}")
    out.line(f"            {word} top {name}")
    out.line(f"stop it:    {word} suspend {name}")
    return EXIT_OK


def start_again(record: JobRecord) -> None:
    """Let a stopped run go on in the background. Raises JobsError."""
    assert record.run_dir is not None
    lock = hold(record.run_dir)
    try:
        run = open_run(record.run_dir)
        check_resumable(record.id, run)
        store_of(run, os.environ)
    except BaseException:
        os.close(lock)
        raise
    _begin(record.run_dir, lock)


def start_new(job: TrainingJob, environ: Mapping[str, str]) -> str:
    """Begin a new run in the background, with folder and store where they are by default; its id. Raises JobsError."""
    from ..run import RunOptions, choose_store, prepare, run_info

    options = RunOptions(Path())
    made: Path | None = None
    try:
        job, _ = prepare(job)
        folder = made = make_run_folder(runs_folder(environ), job.metadata.name, datetime.now(UTC))
        store, _ = choose_store(job, options, folder)
        lock = hold(folder)
        create_run(folder, job, run_info(options, store))
    except (InvalidManifest, OSError) as error:
        if made is not None:
            shutil.rmtree(made, ignore_errors=True)
        if isinstance(error, InvalidManifest):
            raise JobsError("; ".join(map(str, error.problems))) from None
        raise JobsError(f"{error.filename or runs_folder(environ)}: {error.strerror}") from None
    _begin(folder, lock)
    return folder.name


def _begin(folder: Path, lock: int) -> None:
    try:
        begun = start_in_background(folder, lock)
    except OSError as error:
        raise JobsError(f"{folder}: {error.strerror}; the run cannot be started in the background") from None
    if begun.phase is None and begun.exit_code is not None:
        raise JobsError(begun.message or f"the run ended at once; see {short(folder)}")


def _working_dir(folder: Path) -> Path:
    found = read_info(folder).working_dir
    return found if found.is_dir() else folder


def _job(folder: Path) -> JobView | None:
    try:
        return read_run(folder)[0]
    except JobsError:
        return None


def _version(folder: Path) -> int:
    job = _job(folder)
    return int(job.resource_version) if job is not None else 0


def _end_of(path: Path, begin: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(begin, path.stat().st_size - _SHOWN_BYTES))
            return file.read().decode("utf-8", "replace").strip()
    except OSError:
        return ""
