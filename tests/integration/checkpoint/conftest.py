"""Both object stores, a driver for checkpointers, and an HTTP proxy that can lose, hold and refuse what passes."""

from __future__ import annotations

import http.client
import ipaddress
import secrets
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import torch
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

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


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """The other side hung up: part of the tests."""


@contextmanager
def running(upstream: str, tls: ssl.SSLContext | None = None) -> Iterator[Proxy]:
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

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    made.endpoint = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@pytest.fixture
def proxy(s3_server: Any) -> Iterator[Proxy]:
    with running(urlsplit(s3_server.endpoint).netloc) as made:
        yield made


@pytest.fixture
def through_proxy(s3_place: Place, proxy: Proxy) -> Place:
    return Place(s3_place.uri, proxy.endpoint)


@pytest.fixture
def tls_place(s3_server: Any, s3_place: Place, tmp_path: Path) -> Iterator[tuple[Place, Path]]:
    """The S3 server behind https, and the file of the CA that vouches for it."""
    ca_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")])
    now = datetime.now(UTC)

    def certificate(name: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        builder = x509.CertificateBuilder(ca_name, name, key.public_key(), x509.random_serial_number())
        return builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))

    ca = certificate(ca_name, ca_key).add_extension(x509.BasicConstraints(True, None), critical=True)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    own = certificate(x509.Name([]), server_key).add_extension(names, critical=True)
    pem = serialization.Encoding.PEM
    (tmp_path / "ca.crt").write_bytes(ca.sign(ca_key, hashes.SHA256()).public_bytes(pem))
    (tmp_path / "tls.crt").write_bytes(own.sign(ca_key, hashes.SHA256()).public_bytes(pem))
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (tmp_path / "tls.key").write_bytes(server_key.private_bytes(pem, *plain))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    with running(urlsplit(s3_server.endpoint).netloc, context) as made:
        yield Place(s3_place.uri, made.endpoint), tmp_path / "ca.crt"
