"""The embedded S3 server of local mode: SeaweedFS on 127.0.0.1, its data in one folder, dead when this process is.

May import minio and the standard library. Binds nothing but 127.0.0.1, sends no telemetry, makes no bucket unasked.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

from . import weed
from .pods import log_tail
from .processes import Supervised
from .weed import StoreFailed

_READY_S = 30.0
_POLL_S = 0.02
_STOP_S = 2.0  # it waits for idle connections of clients; a killed server loses no object either
_LOCK_WAIT_S = 10.0
_TRIES = 4


@dataclass(frozen=True)
class StoredObject:
    """An object as listed."""

    key: str
    size_bytes: int
    modified_at: datetime | None


class EmbeddedStore:
    """One S3 server over one folder. `async with EmbeddedStore(folder) as store: ...`"""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._ports: dict[str, int] = {}
        self._process: Supervised | None = None
        self._lock: int | None = None
        self._keys: dict[str, str] = {}

    @property
    def endpoint(self) -> str:
        """URL of the S3 server; valid once started."""
        return f"http://127.0.0.1:{self._ports['s3']}"

    @property
    def access_key(self) -> str:
        return self._keys["accessKey"]

    @property
    def secret_key(self) -> str:
        return self._keys["secretKey"]

    @property
    def log(self) -> Path:
        """The server's own log."""
        return self._folder / "weed.log"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start the server and return when it answers S3 requests. Raises StoreFailed."""
        program = weed.find()
        (self._folder / "data").mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = await self._take_lock()
        try:
            self._keys = self._read_or_make_keys()
            for last in [False] * (_TRIES - 1) + [True]:
                if await self._try_start(program, last):
                    return
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop the server; what was stored stays in the folder."""
        if self._process is not None:
            await self._process.stop(_STOP_S)
            self._process = None
            weed.remove_sockets(self._ports)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def ensure_bucket(self, name: str) -> None:
        """Make a bucket unless it exists. Raises StoreFailed, for a name that S3 does not allow as well."""

        def ensure() -> None:
            client = self._client()
            if not client.bucket_exists(name):
                client.make_bucket(name)

        await self._call(ensure, f"bucket {name!r}")

    async def list(self, uri: str) -> tuple[StoredObject, ...]:
        """All objects below `s3://bucket/prefix`, by key. Raises StoreFailed."""
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")

        def listed() -> tuple[StoredObject, ...]:
            found = self._client().list_objects(bucket, prefix=prefix, recursive=True)
            return tuple(StoredObject(o.object_name, o.size or 0, o.last_modified) for o in found)

        return tuple(await self._call(listed, uri))

    # --- inside ---

    async def _try_start(self, program: str, last: bool) -> bool:
        """Start on new ports; False when one of them was taken meanwhile and it may be tried again."""
        self._ports = self._choose_ports()
        log_begin = self.log.stat().st_size if self.log.exists() else 0
        assert self._lock is not None
        self._process = Supervised.start(
            [program, *weed.arguments(self._ports)],
            env={"PATH": os.defpath, "HOME": str(self._folder)},  # no AWS_* and no security.toml of the user's
            cwd=self._folder,
            log=self.log,
            keep_fds=[self._lock],  # the folder stays locked until the server is gone, even if we are killed
        )
        began = time.monotonic()
        while not self._process.ended and time.monotonic() - began < _READY_S:
            if await asyncio.to_thread(self._answers):
                return True
            await asyncio.sleep(_POLL_S)
        died = self._process.ended
        code = await self._process.stop(_STOP_S)
        new = self.log.read_bytes()[log_begin:].decode("utf-8", "replace")
        if died and not last and ("in use" in new or "not available" in new):
            return False
        what = f"ended with {code}" if died else f"did not answer within {_READY_S:.0f} s"
        raise StoreFailed(f"the embedded S3 server {what}; the end of {self.log}:\n{log_tail(self.log)}")

    def _answers(self) -> bool:
        # The port first: importing the client and failing requests take time from a server that still starts.
        with contextlib.suppress(Exception):
            socket.create_connection(("127.0.0.1", self._ports["s3"]), timeout=1).close()
            self._client().list_buckets()
            return weed.has_volumes(self._ports)
        return False

    def _client(self) -> Any:
        from minio import Minio
        from urllib3 import PoolManager

        return Minio(
            self.endpoint.removeprefix("http://"),
            access_key=self.access_key,
            secret_key=self.secret_key,
            secure=False,
            region="us-east-1",
            http_client=PoolManager(timeout=10, retries=False),
        )

    async def _call(self, function: Any, what: str) -> Any:
        from minio.error import MinioException
        from urllib3.exceptions import HTTPError

        try:
            return await asyncio.to_thread(function)
        except (MinioException, HTTPError, ValueError) as error:
            raise StoreFailed(f"{what}: the embedded S3 server at {self.endpoint} refused: {error}") from error

    def _read_or_make_keys(self) -> dict[str, str]:
        """The credentials of this folder, made once; `s3.json` is the server's own configuration file."""
        path = self._folder / "s3.json"
        if not path.exists():
            keys = {"accessKey": secrets.token_hex(10).upper(), "secretKey": secrets.token_urlsafe(30)}
            identity = {
                "name": "dlcloud",
                "credentials": [keys],
                "actions": ["Admin", "Read", "Write", "List", "Tagging"],
            }
            new = path.with_suffix(".new")
            new.touch(mode=0o600)
            new.write_text(json.dumps({"identities": [identity]}))
            new.replace(path)
        found: Mapping[str, Any] = json.loads(path.read_text())
        return dict(found["identities"][0]["credentials"][0])

    def _choose_ports(self) -> dict[str, int]:
        """The ports of the last time, at least S3's, if they are free: addresses in a job's status stay true."""
        path = self._folder / "ports.json"
        ports = None
        if path.exists():
            last = json.loads(path.read_text())
            for wanted in (last, *[{"s3": last["s3"]}] * _TRIES):
                ports = ports or weed.free_ports(wanted)
        while ports is None:
            ports = weed.free_ports({})
        path.write_text(json.dumps(ports))
        return ports

    async def _take_lock(self) -> int:
        lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        give_up = time.monotonic() + _LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            except BlockingIOError:
                if time.monotonic() > give_up:
                    os.close(lock)
                    raise StoreFailed(
                        f"{self._folder}: another run uses this store; wait for its end or choose another folder"
                    ) from None
            await asyncio.sleep(_POLL_S)


def access_of_running(folder: Path) -> tuple[str, str, str] | None:
    """Endpoint and keys of the server another process runs over this folder; None while it does not answer."""
    try:
        keys = json.loads((folder / "s3.json").read_text())["identities"][0]["credentials"][0]
        ports = json.loads((folder / "ports.json").read_text())
        socket.create_connection(("127.0.0.1", ports["s3"]), timeout=1).close()
        if not weed.has_volumes(ports):
            return None
        return f"http://127.0.0.1:{ports['s3']}", str(keys["accessKey"]), str(keys["secretKey"])
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None
