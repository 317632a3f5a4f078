"""Files of data sets from S3 on this machine's disk: fetched once, read by all ranks of a pod and all rounds of a job.

May import the standard library only. An entry is only ever whole: a temporary file, fsync, rename; its SHA-256 lies
beside it and is checked at every reading. Never fails a training: what the cache cannot do is done without it.

Locks are flocks, which end with their holder. An entry's own lock is held while it is read (shared) or written; the
folder's lock while room is made. Only whoever holds an entry's own lock removes its files.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from .cache_room import DATA, PART, SUM, held, make_room

FOLDER = "DLCLOUD_CACHE"
BYTES = "DLCLOUD_CACHE_BYTES"
DEFAULT_BYTES = 8 << 30
Take = Callable[[int, memoryview], None]
Fetch = Callable[[Take], None]


class Unusable(Exception):
    """The cache cannot hold this file, or not now; the message says why."""


class Cache:
    """`fetch` of `read` hands the file to its argument piece by piece (where it begins, its bytes), from 0 on, and from
    0 again when the fetching was begun again."""

    def __init__(self, folder: Path, limit_bytes: int, *, ours: bool, warn: Callable[[str], None]) -> None:
        self._folder, self._limit_bytes, self._ours, self._warn = folder, limit_bytes, ours, warn
        self._warned = False

    def read(self, uri: str, etag: str, size_bytes: int, fetch: Fetch) -> tuple[bytes, str] | None:
        """The file and its SHA-256, from the cache or fetched into it; None when the cache cannot be used."""
        if not etag or not self._limit_bytes:
            return None
        key = hashlib.sha256(json.dumps([uri, etag, size_bytes]).encode()).hexdigest()[:40]
        try:
            self._prepare()
            with held(self._folder, key, shared=True):
                found = self._sound(key, size_bytes)
            if found is None:
                with held(self._folder, key):
                    found = self._sound(key, size_bytes)  # another rank may have fetched it meanwhile
                    if found is None:
                        self._fetch(key, {"uri": uri, "etag": etag}, size_bytes, fetch)
                        found = self._sound(key, size_bytes)
            if found is None:
                raise Unusable("what was written there is read back differently")
            return found
        except OSError as error:
            self._say(f"{error.strerror or type(error).__name__}")
        except Unusable as error:
            self._say(str(error))
        return None

    def _prepare(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._ours and self._folder.stat().st_uid != os.geteuid():
            raise Unusable("the folder belongs to another user")

    def _sound(self, key: str, size_bytes: int) -> tuple[bytes, str] | None:
        """The entry, when it is there and is what was fetched."""
        path = self._folder / f"{key}{DATA}"
        try:
            noted = json.loads((self._folder / f"{key}{SUM}").read_bytes())
            if path.stat().st_size != size_bytes:
                return None
            data = path.read_bytes()
        except (FileNotFoundError, ValueError):
            return None
        found = hashlib.sha256(data).hexdigest()
        if not isinstance(noted, dict) or noted.get("sha256") != found or len(data) != size_bytes:
            return None
        with suppress(OSError):
            os.utime(path)  # used just now: goes last
        return data, found

    def _fetch(self, key: str, about: Mapping[str, str], size_bytes: int, fetch: Fetch) -> None:
        for ending in (DATA, SUM):
            (self._folder / f"{key}{ending}").unlink(missing_ok=True)
        part = self._folder / f"{key}{PART}"
        reason = make_room(self._folder, self._limit_bytes, part, size_bytes)
        if reason:
            raise Unusable(reason)
        try:
            with part.open("r+b", buffering=0) as file:
                digest = self._receive(file.fileno(), fetch)
                os.fsync(file.fileno())
            part.replace(self._folder / f"{key}{DATA}")
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        noted = json.dumps({**about, "sizeBytes": size_bytes, "sha256": digest})
        part.write_text(noted)  # not synced: what a crash damages is fetched again
        part.replace(self._folder / f"{key}{SUM}")

    def _receive(self, descriptor: int, fetch: Fetch) -> str:
        digest = hashlib.sha256()

        def take(at: int, piece: memoryview) -> None:
            nonlocal digest
            if at == 0:
                digest = hashlib.sha256()
            digest.update(piece)
            try:
                while piece:
                    written = os.pwrite(descriptor, piece, at)
                    piece, at = piece[written:], at + written
            except OSError as error:
                # No OSError: the store would take it for one of its own.
                raise Unusable(error.strerror or type(error).__name__) from None

        fetch(take)
        return digest.hexdigest()

    def _say(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            self._warn(
                f"the cache for data, {self._folder}, is not used: {reason}; data comes from the store each time. "
                f"{FOLDER} names another folder, {BYTES} its size"
            )


def open_cache(environ: Mapping[str, str], warn: Callable[[str], None] | None = None) -> Cache:
    """The cache that the environment names: `DLCLOUD_CACHE`, else below the folder for temporary files, which is a
    pod's own; `DLCLOUD_CACHE_BYTES` bounds it, 0 is none."""
    tell = warn or (lambda text: print_warning(text))
    given, size = environ.get(FOLDER, ""), environ.get(BYTES, "")
    folder = Path(given) if given else Path(environ.get("TMPDIR") or tempfile.gettempdir()) / "dlcloud-cache"
    limit_bytes = int(size) if size.isascii() and size.isdigit() else DEFAULT_BYTES
    if size and not (size.isascii() and size.isdigit()):
        tell(f"{BYTES}: {size!r} is no number of bytes; {DEFAULT_BYTES} are used")
    return Cache(folder, limit_bytes, ours=not given, warn=tell)


def print_warning(text: str) -> None:
    """To the rank's own log."""
    sys.stderr.write(f"warning: {text}\n")
