"""`put`: upload a data set; what is there already is not sent again, and the index is written last.

May import objects, the index and `local`. What has come is noted in a file beside it, for an upload that is broken off:
a file is there when its version is the one that was noted with the SHA-256 it has here.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

from ..checkpoint_tool.lines import Lines, ToolError
from ..errors import InvalidInput
from ..objects import ObjectMissing, Objects, StoreUnusable
from .index import INDEX, PARTIAL, Listed, index_text, parse_index
from .local import Local, find_files

THREADS = 4
NOTE_EVERY_S = 2.0


def put(objects: Objects, source: Path, lines: Lines) -> None:
    """Upload a file or a folder; raises `ToolError` or the store's errors."""
    files = find_files(source)
    upload = _Upload(objects, lines, _known(objects))
    lines.begin(f"upload {source.name or source}", sum(file.size_bytes for file in files))
    upload.run(files)
    objects.put(INDEX, index_text(upload.done).encode())
    objects.delete(PARTIAL)
    lines.say(
        "result", files=len(files), sizeBytes=sum(file.size_bytes for file in files), keptFiles=upload.kept_files,
        keptBytes=upload.kept_bytes, index=objects.uri(INDEX),
    )  # fmt: skip


def _known(objects: Objects) -> Mapping[str, Listed]:
    """What an earlier upload noted of files that are there still as it wrote them."""
    there = {found.key: found for found in objects.describe()}
    noted: dict[str, Listed] = {}
    for key in (INDEX, PARTIAL):  # the later word last
        if key in there:
            with suppress(InvalidInput, ObjectMissing):
                noted |= parse_index(objects.get(key), key)
    return {
        name: file
        for name, file in noted.items()
        if file.etag and name in there and (there[name].etag, there[name].size_bytes) == (file.etag, file.size_bytes)
    }


class _Upload:
    def __init__(self, objects: Objects, lines: Lines, known: Mapping[str, Listed]) -> None:
        self._objects, self._lines, self._known = objects, lines, known
        self._lock = threading.Lock()
        self._noted_at = time.monotonic()
        self._stop = threading.Event()
        self.done: list[Listed] = []
        self.kept_files = self.kept_bytes = 0

    def run(self, files: list[Local]) -> None:
        with ThreadPoolExecutor(THREADS, thread_name_prefix="upload") as pool:
            sent = [pool.submit(self._one, file) for file in files]
            try:
                ended, _ = wait(sent, return_when=FIRST_EXCEPTION)
                for one in ended:
                    one.result()
            except BaseException:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                self._note(force=True)
                raise

    def _one(self, file: Local) -> None:
        if self._stop.is_set():
            return
        found = self._kept(file) or self._sent(file)
        with self._lock:
            self.done.append(found)
        self._note()

    def _kept(self, file: Local) -> Listed | None:
        """The file when the store has it."""
        known = self._known.get(file.name)
        if known is None or known.size_bytes != file.size_bytes:
            return None
        digest = hashlib.sha256()
        for piece in file.pieces():
            digest.update(piece)
        if digest.hexdigest() != known.sha256:
            return None
        self._lines.add(file.size_bytes)
        with self._lock:
            self.kept_files += 1
            self.kept_bytes += file.size_bytes
        return known

    def _sent(self, file: Local) -> Listed:
        digest, counted = hashlib.sha256(), 0
        trouble: list[Exception] = []

        def pieces() -> Iterator[bytes]:
            nonlocal digest, counted
            digest, at = hashlib.sha256(), 0
            try:
                for piece in file.pieces():
                    if self._stop.is_set():
                        raise ToolError("the upload was broken off")
                    digest.update(piece)
                    at += len(piece)
                    if at > counted:  # not again what is sent again
                        self._lines.add(at - counted)
                        counted = at
                    yield piece
            except (ToolError, OSError) as error:
                trouble.append(error)  # the store's client would tell it in its own words
                raise

        try:
            etag = self._objects.put_pieces(file.name, pieces)
        except BaseException:
            if trouble:
                raise trouble[-1] from None
            raise
        return Listed(file.name, file.size_bytes, digest.hexdigest(), etag)

    def _note(self, *, force: bool = False) -> None:
        """Write down what has come, now and then."""
        with self._lock:
            if not self.done or (not force and time.monotonic() < self._noted_at + NOTE_EVERY_S):
                return
            self._noted_at = time.monotonic()
            text = index_text([*self._known_but_done(), *self.done])
        with suppress(StoreUnusable):  # then more is sent again
            self._objects.put(PARTIAL, text.encode())

    def _known_but_done(self) -> list[Listed]:
        names = {file.name for file in self.done}
        return [file for name, file in self._known.items() if name not in names]
