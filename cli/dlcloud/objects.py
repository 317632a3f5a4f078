"""Read-only look at a job's objects: on an S3 server or in a folder.

May import minio (lazily: it costs start-up time) and the standard library. Never writes or deletes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit


class StoreError(Exception):
    """The store could not be read; the message names the address and the cause."""


@dataclass(frozen=True)
class ObjectInfo:
    """One object; `key` is relative to the prefix that was opened."""

    key: str
    size_bytes: int
    modified_at: datetime


@dataclass(frozen=True)
class Access:
    """How an S3 server is reached; `endpoint` is a URL."""

    endpoint: str
    access_key: str
    secret_key: str
    session_token: str = ""
    region: str = "us-east-1"
    ca_file: str = ""


class Reader(Protocol):
    """Objects below one prefix."""

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """All objects whose key begins with `prefix`, by key. Raises StoreError."""
        ...

    def read(self, key: str) -> bytes | None:
        """The bytes, or None when there is no such object. Raises StoreError."""
        ...


def open_reader(uri: str, access: Access | None) -> Reader:
    """A reader of what is below `s3://bucket/prefix/` or `file:///folder/`. Raises StoreError for s3 without access."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return _FolderReader(Path(unquote(parts.path)))
    if access is None:
        raise StoreError(f"{uri}: no S3 server is known for it; give --endpoint URL or set AWS_ENDPOINT_URL")
    return _S3Reader(parts.netloc, parts.path.lstrip("/").rstrip("/") + "/" if parts.path.strip("/") else "", access)


class _FolderReader:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        return sorted(self._found(prefix), key=lambda info: info.key)

    def _found(self, prefix: str) -> Iterator[ObjectInfo]:
        for path in self._folder.rglob("*"):
            key = path.relative_to(self._folder).as_posix()
            if key.startswith(prefix) and path.is_file():
                stat = path.stat()
                yield ObjectInfo(key, stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC))

    def read(self, key: str) -> bytes | None:
        try:
            return (self._folder / key).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"{self._folder / key}: {error.strerror}") from error


class _S3Reader:
    def __init__(self, bucket: str, prefix: str, access: Access) -> None:
        self._bucket, self._prefix, self._access = bucket, prefix, access
        self._client = _client(access)

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        found = self._call(lambda: list(self._client.list_objects(self._bucket, self._prefix + prefix, recursive=True)))
        return sorted(
            (ObjectInfo(o.object_name[len(self._prefix) :], o.size or 0, o.last_modified) for o in found),
            key=lambda info: info.key,
        )

    def read(self, key: str) -> bytes | None:
        from minio.error import S3Error

        def get() -> bytes | None:
            try:
                response = self._client.get_object(self._bucket, self._prefix + key)
            except S3Error as error:
                if error.code in ("NoSuchKey", "NoSuchBucket"):
                    return None
                raise
            try:
                return bytes(response.read())
            finally:
                response.close()
                response.release_conn()

        found: bytes | None = self._call(get)
        return found

    def _call(self, action: Any) -> Any:
        from minio.error import MinioException
        from urllib3.exceptions import HTTPError

        try:
            return action()
        except (MinioException, HTTPError, OSError) as error:
            raise StoreError(f"s3://{self._bucket} at {self._access.endpoint}: {error}") from error


def _client(access: Access) -> Any:
    import urllib3
    from minio import Minio

    parts = urlsplit(access.endpoint)
    timeout = urllib3.Timeout(connect=5, read=30)
    retries = urllib3.Retry(total=2, backoff_factor=0.2)
    pool = urllib3.PoolManager(timeout=timeout, retries=retries, ca_certs=access.ca_file or None)
    return Minio(
        endpoint=parts.netloc,
        access_key=access.access_key or None,
        secret_key=access.secret_key or None,
        session_token=access.session_token or None,
        secure=parts.scheme == "https",
        region=access.region,
        http_client=pool,
    )
