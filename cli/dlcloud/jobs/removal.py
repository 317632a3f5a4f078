"""Removes a local run: its folder, and on demand what it stored. Objects first: the folder says where they are.

May import this package. A run whose process is there is refused; ending it is the caller's business.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from ..home import short
from ..objects import StoreError, open_reader
from ..view.words import size
from .errors import JobsError
from .processes import kill
from .run_folder import KILL, LOCK_FILE, RunHeld, hold, is_held, read_info, request_stop
from .source import JobRecord

if TYPE_CHECKING:
    from .local_runs import LocalRuns

_KILL_S = 10.0
_GONE_S = 5.0
_POLL_S = 0.05
_DOOMED = ".removing-"


def remove_run(source: LocalRuns, record: JobRecord, runs: Path, *, objects: bool) -> list[str]:
    """Delete a stopped run, with `objects` everything below its prefix; what was freed, in lines. Raises JobsError."""
    folder, prefix = record.run_dir, record.checkpoint_prefix
    assert folder is not None
    if is_held(folder):
        raise JobsError(f"{record.id}: is running; suspend it first, or add --force")
    if not objects and record.job.status.checkpoint is not None and _within(folder, record):
        raise JobsError(
            f"{record.id}: its checkpoints lie in its own folder, {short(folder)}; add --objects to delete them, too"
        )
    freed = []
    if objects and prefix:
        num, num_bytes = _remove_objects(source, record, prefix)
        freed.append(f"{record.id}: {num} object{'s' * (num != 1)} deleted below {prefix}, {size(num_bytes)}")
    freed.append(f"{record.id}: folder deleted, {size(remove_folder(runs, record.id, folder))}")
    if not objects and record.job.status.checkpoint is not None:
        freed.append(f"its checkpoints stay; go on from them with --set resumeFrom={prefix}")
    return freed


def remove_folder(runs: Path, name: str, folder: Path) -> int:
    """Delete a run's folder and its entry, also of a damaged run; the bytes that are free now. Raises JobsError."""
    link = runs / name
    lock = None
    try:
        if folder.exists():
            lock = _hold(folder, name)
            num_bytes = _bytes_below(folder)
            # In one step out of every list: what is left by an interruption is no half of a run.
            doomed = folder.with_name(f"{_DOOMED}{folder.name}-{os.getpid()}")
            folder.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)
            shutil.rmtree(doomed, ignore_errors=True)  # a process that just died may have made a file meanwhile
        else:
            num_bytes = 0
        if link.is_symlink():
            link.unlink()
    except OSError as error:
        raise JobsError(f"{error.filename or folder}: {error.strerror or error}; the run cannot be deleted") from None
    finally:
        if lock is not None:
            os.close(lock)
    for left in [*runs.glob(f"{_DOOMED}*"), *folder.parent.glob(f"{_DOOMED}{folder.name}-*")]:
        shutil.rmtree(left, ignore_errors=True)
    return num_bytes


def end_now(record: JobRecord) -> None:
    """Have the run's process kill its pods and leave; kill it when it does not. Raises JobsError."""
    folder = record.run_dir
    assert folder is not None
    give_up = time.monotonic() + _KILL_S
    while is_held(folder) and time.monotonic() < give_up:
        with contextlib.suppress(OSError, JobsError):
            request_stop(folder, read_info(folder).stints[-1].mark, KILL)
        time.sleep(_POLL_S)
    if not is_held(folder):
        return
    stints = read_info(folder).stints
    killed = bool(stints) and kill(stints[-1])
    give_up = time.monotonic() + _GONE_S
    while is_held(folder):
        if not killed or time.monotonic() > give_up:
            where = f" on {stints[-1].host} (process {stints[-1].pid})" if stints else ""
            raise JobsError(f"{record.id}: its process{where} does not end and cannot be killed from here")
        time.sleep(_POLL_S)


def _hold(folder: Path, name: str) -> int | None:
    try:
        return hold(folder)
    except RunHeld:
        raise JobsError(f"{name}: is running; suspend it first, or add --force") from None
    except OSError:  # a full or read-only disk: deleting says so itself, if it cannot
        if (folder / LOCK_FILE).exists() and is_held(folder):
            raise JobsError(f"{name}: is running; suspend it first, or add --force") from None
        return None


def _within(folder: Path, record: JobRecord) -> bool:
    """Whether deleting the folder deletes the checkpoints."""
    uri = record.checkpoint_prefix
    if uri.startswith("file://"):
        return Path(unquote(urlsplit(uri).path)).resolve().is_relative_to(folder)
    if not uri.startswith("s3://"):
        return False
    try:
        info = read_info(folder)
    except JobsError:
        return (folder / "store").exists()
    return not info.endpoint and info.store.resolve().is_relative_to(folder)


def _remove_objects(source: LocalRuns, record: JobRecord, prefix: str) -> tuple[int, int]:
    if prefix.startswith("file://"):
        return _remove_files(Path(unquote(urlsplit(prefix).path)))
    from .objects_removal import remove_below

    with source.access(record) as access:
        assert access is not None
        return remove_below(prefix, access)


def _remove_files(folder: Path) -> tuple[int, int]:
    try:
        found = open_reader(folder.as_uri(), None).list()
        with contextlib.suppress(FileNotFoundError):
            (folder / "head.json").unlink()  # first: what is left after an interruption is no checkpoint
        if folder.exists():
            shutil.rmtree(folder)
    except (OSError, StoreError) as error:
        raise JobsError(f"{folder}: {error}; its checkpoints cannot be deleted") from None
    for parent in list(folder.parents)[:2]:  # name and namespace, when nothing else is in them
        with contextlib.suppress(OSError):
            parent.rmdir()
    return len(found), sum(info.size_bytes for info in found)


def _bytes_below(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.lstat().st_size if not path.is_dir() else 0
    return total
