"""A state to the store: slices side by side, then the manifest; and the thread that does it.

May import objects, layout, draft and tries. Never a multipart upload, never an overwritten slice.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable

from ..objects import AlreadyExists, Objects
from .draft import Source
from .errors import UploadFailed
from .layout import Manifest, Slice, manifest_key, slice_key
from .tries import in_parallel, persist

MIB = 1 << 20
THREADS = 4
SMALLEST, LARGEST = 16 * MIB, 64 * MIB


def slice_size(size_bytes: int, waits: bool = False) -> int:
    """Bytes of a slice, 16 to 64 MiB: eight slices keep four threads evenly busy. Where a slice is a piece of memory
    there is little of (`waits`), the smallest."""
    return SMALLEST if waits else max(SMALLEST, min(LARGEST, -(-size_bytes // (2 * THREADS * MIB)) * MIB))


def put_slices(
    objects: Objects, folder: str, source: Source, *, until: float, stop: threading.Event
) -> tuple[Slice, ...]:
    """Upload `source` below `folder`; raises the store's error when it stays unreachable until `until`."""
    step = slice_size(source.size_bytes, source.waits)

    def put(index: int) -> Slice:
        if stop.is_set():
            raise UploadFailed("the upload was given up")
        key = slice_key(folder, index)
        with source.read(index * step, min((index + 1) * step, source.size_bytes)) as view:
            crc = zlib.crc32(view)
            persist(lambda: objects.put(key, view), until=until, stop=stop)
            return Slice(key, len(view), crc)

    return tuple(in_parallel(put, range(-(-source.size_bytes // step)), THREADS))


def put_manifest(objects: Objects, manifest: Manifest, *, until: float, stop: threading.Event) -> str:
    """Create the manifest's object; returns its key."""
    key, data = manifest_key(manifest.step, manifest.round), manifest.dump()

    def put() -> None:
        try:
            objects.put_if_absent(key, data)
        except AlreadyExists:
            # The reply was lost, or an earlier attempt of this same process ended between manifest and head: no head
            # lists
            # this key (the caller skips committed steps), and no other round has it in its keys.
            if objects.get(key) != data:
                objects.put(key, data)

    persist(put, until=until, stop=stop)
    return key


class Background:
    """One task at a time, each on a daemon thread that ends with it. A copy by torch gives the thread it runs on OpenMP
    threads of its own, and while a process has more of them than processors, all sleep at every barrier instead of
    waiting awake: an LSTM's step took 225 ms instead of 50, until the end of the training."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._busy = self._closed = False
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        with self._changed:
            return self._busy

    def start(self, task: Callable[[], None]) -> None:
        """Run `task`, which must not raise; only when not busy."""
        with self._changed:
            if self._busy or self._closed:
                raise RuntimeError("a task is running, or this was closed")
            self._thread = threading.Thread(target=self._run, args=(task,), name="checkpoint-upload", daemon=True)
            self._thread.start()
            self._busy = True

    def wait(self, timeout_s: float | None = None) -> bool:
        """Until nothing runs; False when it still does after `timeout_s`."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._busy, timeout_s)

    def close(self, timeout_s: float) -> None:
        """Take no more tasks, and wait a while for the one that runs."""
        with self._changed:
            self._closed = True
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _run(self, task: Callable[[], None]) -> None:
        try:
            task()
        finally:
            with self._changed:
                self._busy = False
                self._changed.notify_all()


def deadline(limit_s: float) -> float:
    """`limit_s` from now, for `persist`."""
    return time.monotonic() + limit_s
