"""What every object store of ours can do, and the proof that it can.

May import errors only. Keys are relative to the store's prefix, with `/` between their parts.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from typing import Protocol

from .errors import AlreadyExists, ConditionalWritesMissing, PreconditionFailed, StoreUnusable

Data = bytes | bytearray | memoryview


class Objects(Protocol):
    """Objects under one prefix. Every method may be called from any thread and raises `StoreUnusable` or a subclass."""

    def uri(self, key: str = "") -> str:
        """Full URI of a key, for people and for other jobs."""

    def get(self, key: str) -> bytes:
        """The whole object; raises `ObjectMissing`."""

    def get_with_etag(self, key: str) -> tuple[bytes, str] | None:
        """The whole object and its version, None when there is none."""

    def get_into(self, key: str, view: memoryview) -> int:
        """Fill `view` (uint8, writable) and return the object's size in bytes, which may differ from the view's;
        raises `ObjectMissing`."""

    def put(self, key: str, data: Data) -> str:
        """Write in one atomic request, whatever is there; returns the etag."""

    def put_if_absent(self, key: str, data: Data) -> str:
        """Write only a new object; returns the etag, raises `AlreadyExists`."""

    def put_if_match(self, key: str, data: Data, etag: str) -> str:
        """Replace only this version; returns the new etag, raises `PreconditionFailed`."""

    def list(self, prefix: str = "") -> list[str]:
        """Keys below the folder `prefix`, sorted."""

    def delete(self, key: str) -> None:
        """Remove the object; a missing one is no error."""


def probe_conditional_writes(objects: Objects, folder: str = "attempts/000000-probe") -> None:
    """Prove with five small requests that conditions are kept; raises `ConditionalWritesMissing`."""
    key = f"{folder.rstrip('/')}/{secrets.token_hex(8)}"
    try:
        first = objects.put_if_absent(key, b"1")
        with suppress(AlreadyExists):
            objects.put_if_absent(key, b"2")
            raise _refusal(objects, "If-None-Match")
        second = objects.put_if_match(key, b"3", first)
        with suppress(PreconditionFailed):
            objects.put_if_match(key, b"4", first)
            raise _refusal(objects, "If-Match")
        if objects.get_with_etag(key) != (b"3", second):
            raise _refusal(objects, "read-after-write")
    except (AlreadyExists, PreconditionFailed):
        raise _refusal(objects, "If-Match") from None
    finally:
        with suppress(StoreUnusable):
            objects.delete(key)


def _refusal(objects: Objects, what: str) -> ConditionalWritesMissing:
    return ConditionalWritesMissing(
        f"{objects.uri()}: the store does not keep {what} conditions, so an outdated process could overwrite newer "
        "checkpoints; use a store with conditional writes (AWS S3, MinIO, SeaweedFS 4, Ceph 19) or file:///path"
    )
