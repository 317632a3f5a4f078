"""Both object stores, a driver for checkpointers, and the proxy between them."""

from __future__ import annotations

import ipaddress
import secrets
import ssl
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dlcloud_trainer.checkpoint import Checkpointer, CheckpointSettings, Committed
from dlcloud_trainer.objects import Objects, open_objects

from .proxy import Proxy
from .ranks import RankProcess


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


@pytest.fixture
def proxy(s3_server: Any) -> Iterator[Proxy]:
    with Proxy(s3_server.endpoint).running() as made:
        yield made


@pytest.fixture
def through_proxy(s3_place: Place, proxy: Proxy) -> Place:
    return Place(s3_place.uri, proxy.endpoint)


@pytest.fixture
def rank_process(tmp_path: Path, credentials: None) -> Iterator[Callable[..., RankProcess]]:
    """Starts `RankProcess`es: `rank_process(place, 1, steps=(1, 2), keep_last=3)`; they end with the test."""
    made: list[RankProcess] = []

    def make(place: Place, round: int = 1, *, steps: Sequence[int] = (), **settings: Any) -> RankProcess:
        values: dict[str, Any] = {"nonce": f"nonce-{round}", "keep_best": 0, "upload_limit_s": 20.0} | settings
        settings = {"uri": place.uri, "endpoint": place.endpoint, "round": round} | values
        made.append(RankProcess.start(tmp_path, {"settings": settings, "steps": list(steps)}))
        return made[-1]

    yield make
    for one in made:
        one.end()


@pytest.fixture
def edit_head(tmp_path: Path, credentials: None) -> Callable[[Place, dict[int, bool | None]], None]:
    """Edits a head from another process, as a tool does: `edit_head(place, {1: True, 2: None})` pins step 1 and drops
    step 2."""

    def edit(place: Place, steps: dict[int, bool | None]) -> None:
        one = RankProcess.start(tmp_path, {"settings": {"uri": place.uri, "endpoint": place.endpoint}, "edit": steps})
        assert one.wait() == 0, one.said()

    return edit


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
    with Proxy(s3_server.endpoint, context).running() as made:
        yield Place(s3_place.uri, made.endpoint), tmp_path / "ca.crt"
