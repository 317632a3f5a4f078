"""S3 through obstore: single requests only, never a multipart upload.

May import obstore. Importing this module, or making an `S3Objects`, must start no thread and send nothing: the zygote
imports it.
obstore starts its threads with the first request.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import S3Store

from .base import Data
from .errors import AlreadyExists, ObjectMissing, PreconditionFailed, StoreUnreachable
from .s3_errors import translate

if TYPE_CHECKING:
    from obstore import PutMode

T = TypeVar("T")
Traffic = Literal["small", "upload", "download"]

# Small requests must fail within 10 s, whatever is wrong: the last attempt begins before RETRY_S and ends TIMEOUT_S
# later.
CONNECT_S, TIMEOUT_S, RETRY_S = 3.0, 4.0, 5.0
# A slice of 64 MiB gets this long: enough at 4 Mbit/s for each of four at once. Only downloads can tell a stall from
# slowness: the client's read timeout would also end an upload that takes longer.
BULK_TIMEOUT_S = 150.0
BULK_STALL_S = 20.0
BULK_BYTES = 1 << 20
CHUNK_BYTES = 4 << 20


class S3Objects:
    """Objects of a bucket below a prefix. Credentials come from the standard AWS_* environment."""

    def __init__(self, bucket: str, prefix: str, *, endpoint: str, region: str, ca: bytes | None) -> None:
        self._bucket, self._prefix = bucket, prefix
        self._where = endpoint or f"AWS ({region})"
        self._endpoint, self._region, self._ca = endpoint, region, ca
        self._stores: dict[Traffic, S3Store] = {}
        self._lock = threading.Lock()

    def uri(self, key: str = "") -> str:
        return f"s3://{self._bucket}/{self._prefix}{key}"

    def get(self, key: str) -> bytes:
        return self._call(key, lambda store, path: bytes(obstore.get(store, path).bytes()))

    def get_with_etag(self, key: str) -> tuple[bytes, str] | None:
        def read(store: S3Store, path: str) -> tuple[bytes, str]:
            answer = obstore.get(store, path)
            return bytes(answer.bytes()), answer.meta["e_tag"] or ""

        try:
            return self._call(key, read)
        except ObjectMissing:
            return None

    def get_into(self, key: str, view: memoryview) -> int:
        target = np.frombuffer(view, np.uint8)

        def read(store: S3Store, path: str) -> int:
            answer = obstore.get(store, path)
            size = answer.meta["size"]
            if size != len(target):
                return size
            if size < BULK_BYTES:
                target[:] = np.frombuffer(memoryview(answer.bytes()), np.uint8)
                return size
            at = 0
            for chunk in answer.stream(min_chunk_size=CHUNK_BYTES):
                part = np.frombuffer(chunk, np.uint8)
                target[at : at + len(part)] = part
                at += len(part)
            return at

        return self._call(key, read, traffic="download" if len(target) >= BULK_BYTES else "small")

    def put(self, key: str, data: Data) -> str:
        return self._put(key, data, "overwrite")

    def put_if_absent(self, key: str, data: Data) -> str:
        try:
            return self._put(key, data, "create")
        except AlreadyExistsError:
            raise AlreadyExists(f"{self.uri(key)} exists") from None

    def put_if_match(self, key: str, data: Data, etag: str) -> str:
        try:
            return self._put(key, data, {"e_tag": etag})
        except (PreconditionError, ObjectMissing):
            raise PreconditionFailed(f"{self.uri(key)} is no longer version {etag}") from None

    def list(self, prefix: str = "") -> list[str]:
        def read(store: S3Store, path: str) -> list[str]:
            return sorted(meta["path"] for page in obstore.list(store, path.rstrip("/")) for meta in page)

        return [path[len(self._prefix) :] for path in self._call(prefix, read)]

    def delete(self, key: str) -> None:
        # One DELETE: the bulk request is not offered by every server, and hides errors of single keys.
        try:
            self._call(key, lambda store, path: obstore.delete(store, path))
        except ObjectMissing:
            return

    def _put(self, key: str, data: Data, mode: PutMode) -> str:
        def write(store: S3Store, path: str) -> str:
            return obstore.put(store, path, data, mode=mode, use_multipart=False)["e_tag"] or ""

        return self._call(key, write, traffic="upload" if len(data) >= BULK_BYTES else "small")

    def _call(self, key: str, send: Callable[[S3Store, str], T], *, traffic: Traffic = "small") -> T:
        try:
            return send(self._store(traffic), self._prefix + key)
        except (AlreadyExistsError, PreconditionError):
            raise
        except (BaseError, FileNotFoundError, ValueError) as error:
            # `from None`: the original text may hold what was signed.
            raise translate(error, bucket=self._bucket, where=self._where, key=key) from None
        except OSError as error:
            raise StoreUnreachable(f"object store {self._where}: {error.strerror or type(error).__name__}") from None

    def _store(self, traffic: Traffic) -> S3Store:
        with self._lock:
            if traffic not in self._stores:
                self._stores[traffic] = self._connect(traffic)
            return self._stores[traffic]

    def _connect(self, traffic: Traffic) -> S3Store:
        client: dict[str, Any] = {
            "allow_http": self._endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=CONNECT_S),
            "timeout": timedelta(seconds=TIMEOUT_S if traffic == "small" else BULK_TIMEOUT_S),
        }
        if traffic == "download":
            client["read_timeout"] = timedelta(seconds=BULK_STALL_S)
        if self._ca is not None:
            client["root_certificate"] = self._ca
        config: dict[str, Any] = {"region": self._region, "virtual_hosted_style_request": False}
        if self._endpoint:
            # Both names: AWS_ENDPOINT_URL_S3 of the environment would win over `endpoint`.
            config |= {"endpoint": self._endpoint, "aws_endpoint_url_s3": self._endpoint}
        return S3Store(
            self._bucket,
            client_options=client,  # type: ignore[arg-type]
            retry_config={
                "max_retries": 10,
                "retry_timeout": timedelta(seconds=RETRY_S),
                "backoff": {
                    "init_backoff": timedelta(milliseconds=50),
                    "max_backoff": timedelta(seconds=1),
                    "base": 2,
                },
            },
            **config,
        )
