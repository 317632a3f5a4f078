"""Hears how a running upload fares, so that its user knows of a store that is away within seconds: an upload itself
keeps trying for minutes, and one large PUT alone may wait that long for its answer.

May import objects and errors. One thread for each upload, which ends with it. Never an error of the upload's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TypeVar

from ..objects import Data, Described, Objects, Pieces, StoreUnreachable, Take

SILENT_S = 3.0  # with no answer for so long the store is asked whether it is there; a look takes 5 s at most

T = TypeVar("T")
Tell = Callable[[StoreUnreachable, datetime], None]


class Watch:
    """Minds one upload at a time, and asks the store about `key` when nothing was heard for a while."""

    def __init__(self, objects: Objects, key: str) -> None:
        self._objects, self._key = objects, key
        self._lock = threading.Lock()
        self._upload: _Upload | None = None

    @contextmanager
    def upload(self, tell: Tell) -> Iterator[None]:
        """While the block runs, `tell` is called with what is wrong and since when, once for each different trouble."""
        one = self._upload = _Upload(tell)
        threading.Thread(target=self._look_after, args=(one,), name="checkpoint-watch", daemon=True).start()
        try:
            yield
        finally:
            with self._lock:  # nothing is told any more once the upload is over
                one.over.set()

    def mind(self, act: Callable[[], T]) -> T:
        """The result of a request that belongs to the upload."""
        try:
            result = act()
        except StoreUnreachable as error:
            self._failed(self._upload, error)
            raise
        except BaseException:
            self._heard()
            raise
        self._heard()
        return result

    def _heard(self) -> None:
        if (upload := self._upload) is not None:
            upload.heard_at, upload.heard = time.monotonic(), datetime.now(UTC)

    def _failed(self, upload: _Upload | None, error: StoreUnreachable) -> None:
        if upload is None:
            return
        with self._lock:
            upload.failures += 1
            if upload.failures == 1 and time.monotonic() < upload.heard_at + SILENT_S:
                return  # the next try may well succeed: not worth a word
            if not upload.over.is_set() and str(error) not in upload.told:
                upload.told.add(str(error))
                upload.tell(error, upload.heard)

    def _look_after(self, upload: _Upload) -> None:
        looked_at = upload.heard_at
        while not upload.over.wait(max(0.0, max(upload.heard_at, looked_at) + SILENT_S - time.monotonic())):
            if time.monotonic() < upload.heard_at + SILENT_S:
                continue
            with suppress(Exception):  # whatever else is wrong: it answers, and the upload's own requests will say it
                try:
                    self._objects.look(self._key)
                except StoreUnreachable as error:
                    self._failed(upload, error)
            looked_at = time.monotonic()


class _Upload:
    def __init__(self, tell: Tell) -> None:
        self.tell = tell
        self.over = threading.Event()
        self.heard_at, self.heard = time.monotonic(), datetime.now(UTC)  # the last answer
        self.failures = 0
        self.told: set[str] = set()


class Watched:
    """The objects, with `watch` told of every answer."""

    def __init__(self, objects: Objects, watch: Watch) -> None:
        self._objects, self._mind = objects, watch.mind

    def uri(self, key: str = "") -> str:
        return self._objects.uri(key)

    def get(self, key: str) -> bytes:
        return self._mind(lambda: self._objects.get(key))

    def get_with_etag(self, key: str) -> tuple[bytes, str] | None:
        return self._mind(lambda: self._objects.get_with_etag(key))

    def get_pieces(self, key: str, size_bytes: int, take: Take) -> int:
        return self._mind(lambda: self._objects.get_pieces(key, size_bytes, take))

    def put(self, key: str, data: Data) -> str:
        return self._mind(lambda: self._objects.put(key, data))

    def put_pieces(self, key: str, pieces: Pieces) -> str:
        return self._mind(lambda: self._objects.put_pieces(key, pieces))

    def put_if_absent(self, key: str, data: Data) -> str:
        return self._mind(lambda: self._objects.put_if_absent(key, data))

    def put_if_match(self, key: str, data: Data, etag: str) -> str:
        return self._mind(lambda: self._objects.put_if_match(key, data, etag))

    def describe(self, prefix: str = "") -> list[Described]:
        return self._mind(lambda: self._objects.describe(prefix))

    def list(self, prefix: str = "") -> list[str]:
        return self._mind(lambda: self._objects.list(prefix))

    def delete(self, key: str) -> None:
        self._mind(lambda: self._objects.delete(key))

    def look(self, key: str) -> None:
        self._mind(lambda: self._objects.look(key))
