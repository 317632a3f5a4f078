"""Read-only look at a job's objects: on an S3 server or in a folder.

May import minio (lazily: it costs start-up time) and the standard library. Never writes or deletes.
"""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from stat import S_ISREG
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

_REASONS = (
    ("Connection refused", "nothing answers there (connection refused)"),
    ("CERTIFICATE_VERIFY_FAILED", "its certificate is not trusted; give the CA's file in AWS_CA_BUNDLE"),
    ("Name or service not known", "there is no host of this name"),
    ("Temporary failure in name resolution", "its name cannot be looked up"),
    ("timed out", "no answer in time"),
)


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
    """How an S3 server is reached; `endpoint` is a URL, `customer_key` (base64) what SSE-C encrypts with."""

    endpoint: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)
    region: str = "us-east-1"
    ca_file: str = ""
    customer_key: str = field(default="", repr=False)


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
        top = prefix.rpartition("/")[0]
        for path in (self._folder / top).rglob("*"):
            key = path.relative_to(self._folder).as_posix()
            if not key.startswith(prefix):
                continue
            with contextlib.suppress(FileNotFoundError):  # a job that runs renames and deletes
                stat = path.stat()
                if S_ISREG(stat.st_mode):
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
                response = self._client.get_object(self._bucket, self._prefix + key, **self._decryption())
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

    def _decryption(self) -> dict[str, Any]:
        if not self._access.customer_key or not self._access.endpoint.startswith("https://"):
            return {}
        from minio.sse import SseCustomerKey

        try:
            return {"ssec": SseCustomerKey(base64.b64decode(self._access.customer_key, validate=True))}
        except ValueError:
            raise StoreError("AWS_SSE_CUSTOMER_KEY_BASE64 is not 32 bytes in base64; correct it") from None

    def _call(self, action: Any) -> Any:
        from minio.error import MinioException
        from urllib3.exceptions import HTTPError

        try:
            return action()
        except (MinioException, HTTPError, OSError) as error:
            raise StoreError(f"s3://{self._bucket} at {self._access.endpoint}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """The cause in few words: the libraries' own text is a chain of their classes."""
    from minio.error import S3Error

    if isinstance(error, S3Error):
        return f"{error.code}: {error.message}"
    reason = getattr(error, "reason", None) or error  # MaxRetryError wraps what happened
    text = str(reason) or type(reason).__name__
    for mark, words in _REASONS:
        if mark in text:
            return words
    return text.rpartition(": ")[2]


def _client(access: Access) -> Any:
    import urllib3
    from minio import Minio

    parts = urlsplit(access.endpoint)
    timeout = urllib3.Timeout(connect=5, read=30)
    retries = urllib3.Retry(total=2, backoff_factor=0.2)
    pool = urllib3.PoolManager(maxsize=8, timeout=timeout, retries=retries, ca_certs=access.ca_file or None)
    return Minio(
        endpoint=parts.netloc,
        access_key=access.access_key or None,
        secret_key=access.secret_key or None,
        session_token=access.session_token or None,
        secure=parts.scheme == "https",
        region=access.region,
        http_client=pool,
    )
