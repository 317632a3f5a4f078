"""What every object store of ours can do, and the proof that it can.

May import errors only. Keys are relative to the store's prefix, with `/` between their parts.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from .errors import AlreadyExists, ConditionalWritesMissing, PreconditionFailed, StoreUnusable

Data = bytes | bytearray | memoryview
Take = Callable[[int, memoryview], None]
Pieces = Callable[[], Iterable[bytes]]


@dataclass(frozen=True)
class Described:
    """An object as it is listed; `etag` is its version as `put_pieces` returns it, empty where the store names none."""

    key: str
    size_bytes: int
    etag: str


class Objects(Protocol):
    """Objects under one prefix. Every method may be called from any thread and raises `StoreUnusable` or a subclass."""

    def uri(self, key: str = "") -> str:
        """Full URI of a key, for people and for other jobs."""

    def get(self, key: str) -> bytes:
        """The whole object; raises `ObjectMissing`."""

    def get_with_etag(self, key: str) -> tuple[bytes, str] | None:
        """The whole object and its version, None when there is none."""

    def get_pieces(self, key: str, size_bytes: int, take: Take) -> int:
        """Hand the object to `take` piece by piece (where it begins, its bytes), from 0 on, and from 0 again when the
        reading was begun again; returns the object's size: nothing is handed over when that is not `size_bytes`.
        Raises `ObjectMissing`."""

    def put(self, key: str, data: Data) -> str:
        """Write in one atomic request, whatever is there; returns the etag."""

    def put_pieces(self, key: str, pieces: Pieces) -> str:
        """Write a large object in several requests, whatever is there; it shows when all of it is written. `pieces` is
        called again where the writing is begun again. Returns the etag."""

    def put_if_absent(self, key: str, data: Data) -> str:
        """Write only a new object; returns the etag, raises `AlreadyExists`."""

    def put_if_match(self, key: str, data: Data, etag: str) -> str:
        """Replace only this version; returns the new etag, raises `PreconditionFailed`."""

    def describe(self, prefix: str = "") -> list[Described]:
        """The objects below the folder `prefix`, by their keys."""

    def list(self, prefix: str = "") -> list[str]:
        """Keys below the folder `prefix`, sorted."""

    def delete(self, key: str) -> None:
        """Remove the object; a missing one is no error."""

    def look(self, key: str) -> None:
        """One small request about this key, tried once: raises `StoreUnreachable` after 5 s without an answer."""


def probe_rights(objects: Objects, folder: str) -> None:
    """Prove with three small requests that objects can be put, listed and deleted below `folder`; raises the store's
    errors."""
    folder = folder.rstrip("/")
    key = f"{folder}/{secrets.token_hex(8)}"
    objects.put(key, b"1")
    try:
        listed = key in objects.list(folder)
    finally:
        objects.delete(key)
    if not listed:
        raise StoreUnusable(f"{objects.uri(key)} was written and is not listed; use a store that lists what it holds")


def probe_conditional_writes(objects: Objects, folder: str = "attempts/000000-probe") -> None:
    """Prove with six small requests that conditions are kept; raises `ConditionalWritesMissing` or the store's
    errors."""
    key = f"{folder.rstrip('/')}/{secrets.token_hex(8)}"
    try:
        first = _sent(objects, key, b"1", lambda: objects.put_if_absent(key, b"1"))
        with suppress(AlreadyExists):
            objects.put_if_absent(key, b"2")
            raise _refusal(objects, "If-None-Match")
        second = _sent(objects, key, b"3", lambda: objects.put_if_match(key, b"3", first))
        with suppress(PreconditionFailed):
            objects.put_if_match(key, b"4", first)
            raise _refusal(objects, "If-Match")
        if objects.get_with_etag(key) != (b"3", second):
            raise _refusal(objects, "read-after-write")
    except (AlreadyExists, PreconditionFailed):
        _remove(objects, key)
        raise _refusal(objects, "If-Match") from None
    except BaseException:
        _remove(objects, key)
        raise
    objects.delete(key)


def _remove(objects: Objects, key: str) -> None:
    with suppress(StoreUnusable):
        objects.delete(key)


def _sent(objects: Objects, key: str, data: bytes, send: Callable[[], str]) -> str:
    """The etag of `data` under a key only we know: refused, but there, it had arrived and only the reply was lost."""
    try:
        return send()
    except (AlreadyExists, PreconditionFailed):
        found = objects.get_with_etag(key)
        if found is None or found[0] != data:
            raise
        return found[1]


def _refusal(objects: Objects, what: str) -> ConditionalWritesMissing:
    return ConditionalWritesMissing(
        f"{objects.uri()}: the store does not keep {what} conditions, so an outdated process could overwrite newer "
        "checkpoints; use a store with conditional writes (AWS S3, MinIO, SeaweedFS 4, Ceph 19) or file:///path"
    )
