"""The process that runs a job of this machine: it holds the run's lock from before the first write to the last one.

May import this package. In the foreground it is the command itself; in the background `python -m dlcloud.jobs.owner
FOLDER LOCK`, whose output goes to a file of the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from dlcloud_operator.api import CheckpointStatus, Phase

from ..ending import RunFacts, ending_lines
from ..exits import EXIT_FAILED, EXIT_SUSPENDED, EXIT_USAGE
from ..follow import follow
from ..history import read_checkpoints
from ..home import program
from ..objects import StoreError, open_reader
from ..output import Output
from ..session import LocalSession, SessionError
from ..stopping import StopRequests
from ..view.snapshot import Snapshot
from ..view.terminal import PlainView, open_view
from .beginning import StoppedRun, open_run, store_of
from .continuing import continued, manifest_of
from .errors import JobsError
from .local_runs import LocalRuns
from .processes import host, start_of
from .run_folder import KILL, Stint, begin_stint, end_stint, new_mark, requested_stop

_LISTEN_S = 0.2


def own(folder: Path, lock: int, out: Output, err: Output, *, plain: bool, logs: bool | None) -> int:
    """Run the job in this folder to its end or its suspension; the answer is the exit code. Gives the lock back.

    `logs` None: the ranks' output among the plain lines for scripts alone.
    """
    try:
        return asyncio.run(_own(folder, out, err, plain=plain, logs=logs))
    except JobsError as error:
        err.line(str(error))
        return EXIT_USAGE
    finally:
        with contextlib.suppress(OSError):
            os.close(lock)


async def _own(folder: Path, out: Output, err: Output, *, plain: bool, logs: bool | None) -> int:
    run = open_run(folder)
    store = store_of(run, os.environ)
    mark, now = new_mark(), datetime.now(UTC)
    try:
        begin_stint(folder, run.info, Stint(mark, os.getpid(), start_of(os.getpid()), host(), now))
    except OSError as error:
        err.line(f"{folder}: {error.strerror}; the run cannot be written down, so it is not begun")
        return EXIT_FAILED
    log_to(folder)
    begin = continued(run.job, now, _incarnations(folder))
    job = manifest_of(begin)
    session = LocalSession(job, folder, store, run.info.working_dir, begin=begin, events=run.events)
    show_log = logs if logs is not None else job.spec.script is not None
    view = open_view(out, sys.stdout, plain=plain, show_log=show_log)
    code = EXIT_FAILED
    with StopRequests() as stop:
        listening = asyncio.create_task(_listen(folder, mark, stop))
        try:
            code, last = await follow(session, view, out, stop, at_end=_look_at_the_store)
            facts = RunFacts(
                run_dir=folder,
                resume=[*program(), "resume", LocalRuns().id_of(folder)],
                checkpoints=job.spec.checkpoint is not None,
                killed=stop.now.is_set(),
                show_log=not (show_log and isinstance(view, PlainView)),
                script=job.spec.script is not None,
            )
            for line in _last_lines(last, code, facts, run):
                out.line(line)
        except SessionError as error:
            err.line(str(error))
            code = stop.exit_code or EXIT_FAILED
        finally:
            listening.cancel()
            end_stint(folder, mark, datetime.now(UTC), code)
    return code


def _last_lines(last: Snapshot, code: int, facts: RunFacts, run: StoppedRun) -> list[str]:
    lines = ending_lines(last, code, facts)
    stints = len(run.info.stints)
    if stints and last.phase is Phase.SUCCEEDED:
        lines.insert(1, f"in {stints + 1} runs since {run.job.created_at.astimezone():%Y-%m-%d %H:%M}")
    return lines


async def _listen(folder: Path, mark: str, stop: StopRequests) -> None:
    """Pass on what other terminals ask of this run."""
    while True:
        how = requested_stop(folder, mark)
        if how:
            stop.request(EXIT_SUSPENDED)
        if how == KILL:
            stop.now.set()
            return
        await asyncio.sleep(_LISTEN_S)


def _incarnations(folder: Path) -> dict[str, int]:
    """The highest incarnation of each worker that has a folder here."""
    found: dict[str, int] = {}
    for pod in folder.glob("pods/*"):
        _, index, incarnation = ["", "", *pod.name.rsplit("-", 2)][-3:]
        if index.isdigit() and incarnation.isdigit():
            found[index] = max(found.get(index, 0), int(incarnation))
    return found


async def _look_at_the_store(session: LocalSession) -> None:
    """Take the newest checkpoint from the store itself: workers that stop save once more and may not tell."""
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


def main(arguments: list[str]) -> int:
    """Entry point of the background process; it was handed the lock by the command that started it."""
    folder, lock = Path(arguments[0]), int(arguments[1])
    os.set_inheritable(lock, False)
    return own(folder, lock, Output(sys.stdout), Output(sys.stderr), plain=True, logs=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
