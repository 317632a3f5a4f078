"""`dlcloud rm`: which jobs, whether they may go, and what was freed.

May import this package. One job that cannot be deleted does not keep the others.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from dlcloud_operator.api import Phase

from .exits import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE
from .home import short
from .jobs.errors import JobNotFound, JobsError
from .jobs.run_folder import is_held, run_ids, runs_folder
from .jobs.source import JobRecord, JobSource
from .output import Output
from .place import Place
from .view.words import size

_SAVE_S = 900.0
_LEAVE_S, _POLL_S = 20.0, 0.1  # a run that has ended still lets its workers write their last words


@dataclass(frozen=True)
class RemoveOptions:
    """What the user asked for; exactly one of `names`, `finished` and `every`."""

    names: tuple[str, ...]
    finished: bool = False
    every: bool = False
    objects: bool = False
    force: bool = False
    yes: bool = False


def remove_command(place: Place, options: RemoveOptions, out: Output, err: Output) -> int:
    """Delete the jobs; 0 when all are gone, 1 when something could not be deleted, 2 for what does not exist."""
    source = place.open()
    chosen, damaged, code = _choose(source, place, options, err)
    if not chosen and not damaged:
        if code == EXIT_OK:
            out.line("there is nothing to delete")
        return code
    try:
        if options.objects and not _agreed(chosen, options, err):
            return EXIT_USAGE
        for record in chosen:
            code = max(code, _told(lambda: _remove(source, record, options, out), err))  # noqa: B023 - called at once
        for name in damaged:
            code = max(code, _told(lambda: _remove_damaged(name, out), err))  # noqa: B023 - called at once
    except KeyboardInterrupt:
        err.line("interrupted; what is not named above is still there: say it again to go on")
        return EXIT_INTERRUPTED
    return code


def _choose(
    source: JobSource, place: Place, options: RemoveOptions, err: Output
) -> tuple[list[JobRecord], list[str], int]:
    """The jobs that are meant, local folders that cannot be read, and the exit code so far."""
    if options.every:
        records = source.records()
        read = {record.id for record in records}
        return records, [] if place.in_cluster else [name for name in run_ids() if name not in read], EXIT_OK
    if options.finished:
        return [r for r in source.records() if r.phase in (Phase.SUCCEEDED, Phase.FAILED)], [], EXIT_OK
    chosen: dict[str, JobRecord] = {}
    damaged, code = [], EXIT_OK
    for name in options.names:
        try:
            record = source.find(name)
            chosen[record.id] = record
        except JobNotFound as error:
            err.line(str(error))
            code = EXIT_USAGE
        except JobsError as error:
            if place.in_cluster or name not in run_ids():
                raise
            err.line(str(error))
            damaged.append(name)
    return list(chosen.values()), damaged, code


def _agreed(chosen: list[JobRecord], options: RemoveOptions, err: Output) -> bool:
    """Whether the user wants the objects gone: said by --yes, or typed on a terminal."""
    prefixes = [record.checkpoint_prefix for record in chosen if record.checkpoint_prefix]
    if options.yes or not prefixes:
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        err.line("--objects deletes checkpoints for good, and nobody can be asked here; add --yes if that is meant")
        return False
    for record in chosen:
        if record.checkpoint_prefix:
            saved = record.job.status.checkpoint
            what = f", checkpoints up to step {saved.step}" if saved else ""
            err.line(f"  {record.id} ({record.phase}): {record.checkpoint_prefix}{what}")
    sys.stderr.write(f"delete these {len(prefixes)} jobs and all objects below these prefixes? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return True
    err.line("nothing was deleted")
    return False


def _told(action: Callable[[], None], err: Output) -> int:
    try:
        action()
    except JobsError as error:
        err.line(str(error))
        return EXIT_FAILED
    return EXIT_OK


def _remove(source: JobSource, record: JobRecord, options: RemoveOptions, out: Output) -> None:
    if record.run_dir is not None and record.phase in (Phase.SUCCEEDED, Phase.FAILED):
        give_up = time.monotonic() + _LEAVE_S
        while is_held(record.run_dir) and time.monotonic() < give_up:
            time.sleep(_POLL_S)
    if record.run_dir is not None and is_held(record.run_dir):
        if not options.force:
            raise JobsError(f"{record.id}: is running; suspend it first, or add --force")
        _end(source, record, options, out)
        record = source.find(record.id)
    elif record.run_dir is None and record.running and record.phase != Phase.SUSPENDED and not options.force:
        raise JobsError(f"{record.id}: is {record.phase}; suspend it first, or add --force")
    for line in source.remove(record, objects=options.objects):
        out.line(line)


def _end(source: JobSource, record: JobRecord, options: RemoveOptions, out: Output) -> None:
    """Let a local run save and stop; when its objects go as well there is nothing to save, and it is killed."""
    from .jobs.removal import end_now

    if not options.objects:
        try:
            source.suspend(record, wait_s=_SAVE_S, tell=lambda text: out.line(f"{record.id}: {text}"))
            return
        except JobsError as error:
            out.line(str(error))
    end_now(record)


def _remove_damaged(name: str, out: Output) -> None:
    from .jobs.removal import remove_folder

    folder = (runs_folder() / name).resolve()
    out.line(f"{name}: {short(folder)} deleted, {size(remove_folder(runs_folder(), name, folder))}")
