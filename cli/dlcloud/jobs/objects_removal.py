"""Deletes everything below a job's prefix on an S3 server.

May import the objects module and minio. The head goes first: what is left after an interruption is no checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from ..objects import Access, ObjectInfo, StoreError, open_reader
from .errors import JobsError

_HEAD = "head.json"
_AT_ONCE = 8


def listed(uri: str, access: Access | None) -> list[ObjectInfo]:
    """All objects below the job's prefix; shows that keys and bucket are right. Raises JobsError."""
    found: list[ObjectInfo] = _told(lambda: open_reader(uri, access).list())
    return found


def remove_below(uri: str, access: Access) -> tuple[int, int]:
    """Delete all objects below `s3://bucket/job's prefix/`; how many there were, and their bytes. Raises JobsError."""
    from ..objects import _client

    bucket, prefix = urlsplit(uri).netloc, uri.removeprefix(f"s3://{urlsplit(uri).netloc}/")
    if prefix.count("/") < 3:  # namespace/name/uid/: never a whole bucket by a mistake elsewhere
        raise JobsError(f"{uri}: is no job's prefix; nothing was removed")
    client = _client(access)
    found = listed(uri, access)

    def remove(info: ObjectInfo) -> None:
        _told(lambda: _removed(client, bucket, prefix + info.key))

    for info in (info for info in found if info.key == _HEAD):
        remove(info)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(remove, (info for info in found if info.key != _HEAD)))
    return len(found), sum(info.size_bytes for info in found)


def _removed(client: Any, bucket: str, key: str) -> None:
    # One DELETE for each: the bulk request is not offered by every server, and hides errors of single keys.
    from minio.error import MinioException
    from urllib3.exceptions import HTTPError

    try:
        client.remove_object(bucket, key)
    except (MinioException, HTTPError, OSError) as error:
        raise StoreError(f"s3://{bucket}/{key} cannot be removed: {error}") from error


def _told(action: Callable[[], Any]) -> Any:
    try:
        return action()
    except StoreError as error:
        raise JobsError(str(error)) from None
