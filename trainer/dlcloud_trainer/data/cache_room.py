"""Locks and room of the cache: who may touch an entry, and which go when there are too many.

May import the standard library only. Removes only entries whose lock it holds; one that is read or written stays.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

DATA, SUM, PART, LOCK = ".data", ".json", ".part", ".lock"
ROOM, TOTAL = "room", "room.total"  # no entry's key: these are hexadecimal
SUM_BYTES = 1024  # what is kept free for a file with a SHA-256


class Busy(Exception):
    """Somebody else holds the lock."""


@contextmanager
def held(folder: Path, key: str, *, shared: bool = False, wait: bool = True) -> Iterator[None]:
    """An entry's lock; without `wait` raises `Busy`. Ends with its holder, whatever ends that."""
    path = folder / f"{key}{LOCK}"
    how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    while True:
        with path.open("ab") as file:
            try:
                fcntl.flock(file, how)
            except BlockingIOError:
                raise Busy from None
            # Whoever removed the entry removed its lock as well: then this is a lock on nothing.
            if _is_at(file.fileno(), path):
                yield
                return


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def make_room(folder: Path, limit_bytes: int, part: Path, size_bytes: int) -> str:
    """Reserve a file of that size, for which those used longest ago go; why not, or nothing. Its lock is held by the
    caller."""
    with held(folder, ROOM):
        part.unlink(missing_ok=True)
        noted = _noted(folder)
        used = _scan(folder) if noted is None else noted
        allowed = min(limit_bytes, (shutil.disk_usage(folder).free + used) // 2)
        wanted = size_bytes + SUM_BYTES
        if wanted > allowed:
            return f"a file has {size_bytes} bytes, and {allowed} are allowed there (at most half of what is free)"
        if used + wanted > allowed:
            used = _scan(folder)
            for key in _by_age(folder):
                if used + wanted <= allowed:
                    break
                with suppress(Busy), held(folder, key, wait=False):
                    used -= _remove(folder, key)
            if used + wanted > allowed:
                return f"all of its {allowed} bytes are being read or written"
        # Noted first: a writer that is killed leaves too much noted, never too little, and the next scan mends that.
        (folder / TOTAL).write_text(str(used + wanted))
        try:
            with part.open("xb") as file:
                _reserve(file.fileno(), size_bytes)
        except OSError:
            part.unlink(missing_ok=True)
            raise
    return ""


def _noted(folder: Path) -> int | None:
    """Bytes that are taken, at most; None when nobody noted it. Looking at every file of a data set of a hundred
    thousand, for every file of it, would take hours."""
    try:
        return int((folder / TOTAL).read_text())
    except (FileNotFoundError, ValueError):
        return None


def _scan(folder: Path) -> int:
    """Bytes of all entries, also of those that are being written. By key: their files are renamed meanwhile, and a
    listing may show neither name; the lock's stays."""
    return sum(_taken(folder, key) for key in {path.stem for path in folder.iterdir()})


def _taken(folder: Path, key: str) -> int:
    """Looked at in the order of the renaming: a file may be seen under both names, which is one file, never under
    neither."""
    sizes: dict[int, int] = {}
    for ending in (PART, DATA, SUM):
        with suppress(FileNotFoundError):
            about = (folder / f"{key}{ending}").stat()
            sizes[about.st_ino] = about.st_size
    return sum(sizes.values())


def _reserve(descriptor: int, size_bytes: int) -> None:
    try:
        if size_bytes:
            os.posix_fallocate(descriptor, 0, size_bytes)  # a full disk is known before anything is fetched
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
        os.ftruncate(descriptor, size_bytes)


def _by_age(folder: Path) -> list[str]:
    """Keys of all entries, also of what a killed writer left, the one used longest ago first."""
    ages: dict[str, float] = {}
    for path in folder.iterdir():
        if path.suffix in (DATA, PART, SUM):
            with suppress(FileNotFoundError):
                ages[path.stem] = max(ages.get(path.stem, 0.0), path.stat().st_mtime)
    return sorted(ages, key=lambda key: ages[key])


def _remove(folder: Path, key: str) -> int:
    """Its lock is held; the bytes that are free now."""
    freed = _taken(folder, key)
    for ending in (SUM, DATA, PART, LOCK):
        (folder / f"{key}{ending}").unlink(missing_ok=True)
    return freed
