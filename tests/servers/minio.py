"""A real MinIO for the tests: one server over one folder, on a free port of 127.0.0.1, dead when this process is.

May import the standard library, minio's client and `dlcloud.local.processes`. It has the face of
`dlcloud.local.store.EmbeddedStore`; the program is the one that $MINIO names, else `minio` on the PATH, else the one
that `tests/servers/build_minio.sh` made.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import secrets
import shutil
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from dlcloud.local.processes import Supervised

READY_S = 60.0
STOP_S = 5.0
TRIES = 4


class MinioMissing(Exception):
    """There is no MinIO to start; the message says how to get one."""


def find() -> str:
    """The `minio` program; raises `MinioMissing`."""
    if named := os.environ.get("MINIO"):
        if os.access(named, os.X_OK):
            return named
        raise MinioMissing(f"MINIO: {named!r} is no program; give the path of one, or unset it")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    built = cache / "dlcloud" / "bin" / "minio"
    found = shutil.which("minio") or (str(built) if os.access(built, os.X_OK) else None)
    if found is None:
        raise MinioMissing("there is no MinIO; `make test-minio` builds one, or name one: MINIO=/path/to/minio")
    return found


class MinioServer:
    """`async with MinioServer(folder) as server: ...`; `environment` is added to the server's (MINIO_* settings)."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self._folder = folder.resolve()
        self._environment = dict(environment or {})
        self._port = 0
        self._process: Supervised | None = None
        self.access_key, self.secret_key = secrets.token_hex(10).upper(), secrets.token_urlsafe(30)

    @property
    def endpoint(self) -> str:
        """URL of the server; valid once started, and the same after another start."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def log(self) -> Path:
        """The server's own log."""
        return self._folder / "minio.log"

    @property
    def pid(self) -> int:
        """Of the process that supervises the server."""
        assert self._process is not None
        return self._process.pid

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Return when the server serves; raises `MinioMissing`, and RuntimeError with the end of its log."""
        program = find()
        (self._folder / "data").mkdir(mode=0o700, parents=True, exist_ok=True)
        for _ in range(TRIES):
            port = self._port or free_port()
            self._process = Supervised.start(
                [program, "server", "--quiet", "--address", f"127.0.0.1:{port}", "data"],
                env={
                    "PATH": os.defpath,
                    "HOME": str(self._folder),
                    "MINIO_ROOT_USER": self.access_key,
                    "MINIO_ROOT_PASSWORD": self.secret_key,
                    "MINIO_BROWSER": "off",
                    "MINIO_UPDATE": "off",
                    **self._environment,
                },
                cwd=self._folder,
                log=self.log,
            )
            until = time.monotonic() + READY_S
            while not self._process.ended and time.monotonic() < until:
                if await asyncio.to_thread(answers, port):
                    self._port = port
                    return
                await asyncio.sleep(0.02)
            await self.stop()
            if self._port:
                break
        raise RuntimeError(f"MinIO did not start; the end of {self.log}:\n{self.log.read_text()[-2000:]}")

    async def stop(self) -> None:
        """Stop the server; what was stored stays in the folder."""
        if self._process is not None:
            await self._process.stop(STOP_S)
            self._process = None

    async def ensure_bucket(self, name: str) -> None:
        """Make a bucket unless it exists."""

        def ensure() -> None:
            if not self.client().bucket_exists(name):
                self.client().make_bucket(name)

        await asyncio.to_thread(ensure)

    def client(self) -> Any:
        """A `minio.Minio` with the rights of the root user."""
        from minio import Minio

        address = self.endpoint.removeprefix("http://")
        return Minio(address, access_key=self.access_key, secret_key=self.secret_key, secure=False, region="us-east-1")


def answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/minio/health/ready")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
