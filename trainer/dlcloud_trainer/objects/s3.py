"""S3 through obstore: single requests, but for `put_pieces`: a large file of a data set takes a multipart upload.

May import obstore. Importing this module, or making an `S3Objects`, must start no thread and send nothing: the zygote
imports it.
obstore starts its threads with the first request.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import S3Store

from .base import Data, Described, Pieces, Take
from .credentials import KeySource
from .encryption import Encryption
from .errors import AccessDenied, AlreadyExists, ObjectMissing, PreconditionFailed, StoreUnreachable, StoreUnusable
from .s3_errors import about_encryption, is_key_refusal, not_s3, translate, waits_for_keys

if TYPE_CHECKING:
    from obstore import PutMode
    from obstore.store import S3Credential

T = TypeVar("T")
Traffic = Literal["small", "upload", "download", "look"]

# Small requests must fail within 8 s, whatever is wrong: the last attempt begins before RETRY_S and ends TIMEOUT_S
# later. A look is one attempt.
CONNECT_S, TIMEOUT_S, RETRY_S = 3.0, 5.0, 3.0
# A slice of 64 MiB gets this long: enough at 4 Mbit/s for each of four at once. Only downloads can tell a stall from
# slowness: the client's read timeout would also end an upload that takes longer.
BULK_TIMEOUT_S = 150.0
BULK_STALL_S = 20.0
BULK_BYTES = 1 << 20
CUT_S = 0.5  # an answer that breaks off does so sooner than a server is found to be away
DENIED_PAUSES_S = (0.02, 0.1)  # before the second and the third try of a PUT that was denied
PART_BYTES, PARTS = 16 << 20, 4  # of a large upload: each may take BULK_TIMEOUT_S, so many are under way
PIECE_BYTES = 256 << 10  # larger ones cost a page fault for every 4 KiB, smaller ones the time of Python


class S3Objects:
    """Objects of a bucket below a prefix. Without `keys` obstore's own client finds out who it is."""

    def __init__(
        self,
        bucket: str,
        prefix: str,
        *,
        endpoint: str,
        region: str,
        ca: bytes | None,
        keys: KeySource | None = None,
        encryption: Encryption | None = None,
    ) -> None:
        self._bucket, self._prefix = bucket, prefix
        self._where = endpoint or f"AWS ({region})"
        self._endpoint, self._region, self._ca = endpoint, region, ca
        self._keys, self._encryption = keys, encryption
        self._accepted = False  # keys of this source have signed a request that was answered
        self._credential: S3Credential | None = None
        self._stores: dict[Traffic, S3Store] = {}
        self._lock = threading.Lock()

    def uri(self, key: str = "") -> str:
        return f"s3://{self._bucket}/{self._prefix}{key}"

    def get(self, key: str) -> bytes:
        return self._read(key, lambda store, path: bytes(obstore.get(store, path).bytes()))

    def get_with_etag(self, key: str) -> tuple[bytes, str] | None:
        def read(store: S3Store, path: str) -> tuple[bytes, str]:
            answer = obstore.get(store, path)
            if not answer.meta["e_tag"]:
                raise not_s3(self._where)
            return bytes(answer.bytes()), answer.meta["e_tag"]

        try:
            return self._read(key, read)
        except ObjectMissing:
            return None

    def get_pieces(self, key: str, size_bytes: int, take: Take) -> int:
        def read(store: S3Store, path: str) -> int:
            answer = obstore.get(store, path)
            size = answer.meta["size"]
            if size != size_bytes:
                return size
            at = 0
            for chunk in answer.stream(min_chunk_size=PIECE_BYTES):
                part = memoryview(chunk)
                take(at, part)
                at += len(part)
            return at

        return self._read(key, read, traffic="download" if size_bytes >= BULK_BYTES else "small")

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

    def put_pieces(self, key: str, pieces: Pieces) -> str:
        def write(store: S3Store, path: str) -> str:
            rest, head = iter(pieces()), bytearray()
            while len(head) < PART_BYTES and (piece := next(rest, b"")):
                head += piece
            if len(head) < PART_BYTES:
                return obstore.put(store, path, head, use_multipart=False)["e_tag"] or ""
            whole = chain((bytes(head),), rest)
            done = obstore.put(store, path, whole, use_multipart=True, chunk_size=PART_BYTES, max_concurrency=PARTS)
            return done["e_tag"] or ""

        return self._call(key, write, traffic="upload")

    def describe(self, prefix: str = "") -> list[Described]:
        def read(store: S3Store, path: str) -> list[Described]:
            pages = obstore.list(store, path.rstrip("/"))
            found = ((meta["path"], meta["size"], meta["e_tag"] or "") for page in pages for meta in page)
            return [Described(path[len(self._prefix) :], size, etag) for path, size, etag in sorted(found)]

        began = time.monotonic()
        try:
            return self._call(prefix, read)
        except StoreUnreachable:
            if time.monotonic() - began > CUT_S:
                raise
            return self._call(prefix, read)  # the client itself reads on where an object breaks off, but no list

    def list(self, prefix: str = "") -> list[str]:
        return [found.key for found in self.describe(prefix)]

    def look(self, key: str) -> None:
        with suppress(ObjectMissing):
            self._read(key, lambda store, path: obstore.head(store, path), traffic="look")

    def delete(self, key: str) -> None:
        try:
            self._call(key, lambda store, path: obstore.delete(store, path))
        except ObjectMissing:
            return

    def _put(self, key: str, data: Data, mode: PutMode) -> str:
        def write(store: S3Store, path: str) -> str:
            return obstore.put(store, path, data, mode=mode, use_multipart=False)["e_tag"] or ""

        for pause_s in DENIED_PAUSES_S:
            try:
                return self._call(key, write, traffic="upload" if len(data) >= BULK_BYTES else "small")
            except AccessDenied:
                # MinIO says so, too, when a delete beside this PUT just removes the folder that became empty.
                time.sleep(pause_s)
        return self._call(key, write, traffic="upload" if len(data) >= BULK_BYTES else "small")

    def _read(self, key: str, read: Callable[[S3Store, str], T], *, traffic: Traffic = "small") -> T:
        try:
            return self._call(key, read, traffic=traffic)
        except AccessDenied:
            # Whoever may list only below a prefix is told 403 of an object that is not there.
            if self._is_unlisted(key):
                raise ObjectMissing(f"{self.uri(key)} does not exist at {self._where}") from None
            raise

    def _is_unlisted(self, key: str) -> bool:
        folder = (self._prefix + key).rpartition("/")[0]
        try:
            found = self._call(key, lambda store, _: obstore.list_with_delimiter(store, folder or None))
        except StoreUnusable:
            return False
        return self._prefix + key not in [meta["path"] for meta in found["objects"]]

    def _call(self, key: str, send: Callable[[S3Store, str], T], *, traffic: Traffic = "small") -> T:
        for last in (False, True):
            keys = self._keys.get() if self._keys is not None else None
            if keys is not None:
                self._credential = {
                    "access_key_id": keys.access_key,
                    "secret_access_key": keys.secret_key,
                    "token": keys.token or None,
                    "expires_at": datetime.now(UTC),  # at once: it is asked for again with the next request
                }
            try:
                result = send(self._store(traffic), self._prefix + key)
                self._accepted = True
                return result
            except (AlreadyExistsError, PreconditionError):
                raise
            except (BaseError, FileNotFoundError, ValueError) as error:
                found = self._translate(error, key)
                if keys is not None and self._keys is not None and is_key_refusal(error, found):
                    if not last and self._keys.replace(keys):
                        continue
                    if (source := self._keys.rotates_in) and self._accepted:
                        found = waits_for_keys(error, found, bucket=self._bucket, where=self._where, source=source)
                # `from None`: the original text may hold what was signed.
                raise found from None
            except OSError as error:
                raise StoreUnreachable(
                    f"object store {self._where}: {error.strerror or type(error).__name__}"
                ) from None
        raise AssertionError("the second try returns or raises")

    def _translate(self, error: BaseException, key: str) -> Exception:
        key = self._prefix + key
        found = translate(error, bucket=self._bucket, where=self._where, key=key)
        return about_encryption(error, found, self._encryption, where=self._where, key=key)

    def _store(self, traffic: Traffic) -> S3Store:
        with self._lock:
            if traffic not in self._stores:
                self._stores[traffic] = self._connect(traffic)
            return self._stores[traffic]

    def _connect(self, traffic: Traffic) -> S3Store:
        client: dict[str, Any] = {
            "allow_http": self._endpoint.startswith("http://"),
            "connect_timeout": timedelta(seconds=CONNECT_S),
            "timeout": timedelta(seconds=TIMEOUT_S if traffic in ("small", "look") else BULK_TIMEOUT_S),
        }
        if traffic == "download":
            client["read_timeout"] = timedelta(seconds=BULK_STALL_S)
        if self._ca is not None:
            client["root_certificate"] = self._ca
        config: dict[str, Any] = {
            "region": self._region,
            "virtual_hosted_style_request": False,
            "aws_disable_bulk_delete": True,  # not every server offers it, and it hides what is wrong with one key
        }
        if self._endpoint:
            # Both names: AWS_ENDPOINT_URL_S3 of the environment would win over `endpoint`.
            config |= {"endpoint": self._endpoint, "aws_endpoint_url_s3": self._endpoint}
        if self._encryption is not None:
            config |= self._encryption.client_settings()
        if self._keys is not None:
            # Called on the client's threads, for each request: it must only hand out what `_call` has found.
            config["credential_provider"] = lambda: self._credential
        return S3Store(
            self._bucket,
            client_options=client,  # type: ignore[arg-type]
            retry_config={
                "max_retries": 0 if traffic == "look" else 10,
                "retry_timeout": timedelta(seconds=RETRY_S),
                "backoff": {
                    "init_backoff": timedelta(milliseconds=50),
                    "max_backoff": timedelta(seconds=1),
                    "base": 2,
                },
            },
            **config,
        )
