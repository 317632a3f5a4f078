"""Both object stores, a driver for checkpointers, and an HTTP proxy that can lose, hold and refuse what passes."""

from __future__ import annotations

import http.client
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch

from dlcloud_trainer.checkpoint import Checkpointer, CheckpointSettings, Committed
from dlcloud_trainer.objects import Objects, open_objects


@pytest.fixture
def credentials(s3_server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)


@dataclass
class Place:
    """A prefix of its own on one of the stores."""

    uri: str
    endpoint: str = ""

    def below(self, name: str) -> Place:
        return Place(f"{self.uri}/{name}", self.endpoint)

    def objects(self) -> Objects:
        return open_objects(self.uri, endpoint=self.endpoint)


@pytest.fixture
def s3_place(s3_server: Any, s3_bucket: str, credentials: None) -> Place:
    return Place(f"s3://{s3_bucket}/jobs/{secrets.token_hex(6)}", s3_server.endpoint)


@pytest.fixture(params=["file", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "file":
        return Place(f"file://{tmp_path}/ckpt")
    found: Place = request.getfixturevalue("s3_place")
    return found


@dataclass
class Rank:
    """A rank 0 of one round: its checkpointer and all it said."""

    checkpointer: Checkpointer
    commits: list[Committed] = field(default_factory=list)
    warnings: list[tuple[str, str]] = field(default_factory=list)

    def save(self, step: int, *, metric: float | None = None, value: float | None = None) -> None:
        """Save a small state that tells its step, and wait for the commit."""
        tensors = {"model/w": torch.full((100,), float(step if value is None else value)), "step": torch.tensor(step)}
        assert self.checkpointer.save(tensors, {"step": step}, step=step, samples=step * 32, metric=metric, wait=True)
        self.checkpointer.flush(30)


@pytest.fixture
def rank() -> Iterator[Callable[..., Rank]]:
    made: list[Rank] = []

    def make(place: Place, round: int = 1, **settings: Any) -> Rank:
        values: dict[str, Any] = {"nonce": f"nonce-{round}", "keep_best": 0, "upload_limit_s": 20.0} | settings
        said = CheckpointSettings(uri=place.uri, endpoint=place.endpoint, round=round, **values)
        commits: list[Committed] = []
        warnings: list[tuple[str, str]] = []
        checkpointer = Checkpointer(
            said, on_commit=commits.append, on_warning=lambda reason, text: warnings.append((reason, text))
        )
        made.append(Rank(checkpointer, commits, warnings))
        return made[-1]

    yield make
    for one in made:
        one.checkpointer.close()


@dataclass
class Proxy:
    """Forwards to the S3 server; `rule(method, path)` is asked before each request is forwarded and says what
    happens: "" pass,
    "lose reply" forward and hang up, "refuse" hang up at once, "503" answer so without forwarding."""

    endpoint: str
    rule: Callable[[str, str], str] = lambda method, path: ""
    seen: list[tuple[str, str]] = field(default_factory=list)


@pytest.fixture
def proxy(s3_server: Any) -> Iterator[Proxy]:
    upstream = urlsplit(s3_server.endpoint).netloc
    made = Proxy("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            made.seen.append((self.command, self.path))
            what = made.rule(self.command, self.path)
            if what == "refuse":
                self.close_connection = True
                return
            if what == "503":
                self.answer(503, [], b"")
                return
            connection = http.client.HTTPConnection(upstream, timeout=60)
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body)
            reply = connection.getresponse()
            content = reply.read()
            connection.close()
            if what == "lose reply":
                self.close_connection = True
                return
            self.answer(reply.status, reply.getheaders(), content)

        def answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
            self.send_response_only(status)
            for name, value in headers:
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_DELETE = do_POST = forward  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:  # the other side hung up: part of the tests
            pass

    server = Server(("127.0.0.1", 0), Handler)
    made.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield made
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.fixture
def through_proxy(s3_place: Place, proxy: Proxy) -> Place:
    return Place(s3_place.uri, proxy.endpoint)
