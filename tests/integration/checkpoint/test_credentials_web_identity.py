"""A rank without keys of its own borrows them from a token service: asked in time, renewed, and named when it fails."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from dlcloud_trainer.checkpoint.errors import AccessDenied, CredentialsMissing, StoreUnreachable, StoreUnusable
from dlcloud_trainer.objects import open_objects

from .conftest import Place
from .proxy import Fault, Proxy

Make = Callable[..., Any]
TOKEN, ROLE = "header.a-very-secret-identity.signature", "arn:aws:iam::123456789012:role/trainer"
LENT = """<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
<AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>{key}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey>
<SessionToken></SessionToken><Expiration>{end}</Expiration></Credentials></AssumeRoleWithWebIdentityResult>
</AssumeRoleWithWebIdentityResponse>"""
REFUSED = "<ErrorResponse><Error><Code>{code}</Code><Message>not {token}</Message></Error></ErrorResponse>"


@dataclass
class TokenService:
    """Lends the store's keys for `life_s` seconds to whoever shows a token; with a `code` it refuses."""

    store: Any
    endpoint: str = ""
    life_s: float = 3600.0
    code: str = ""
    status: int = 200
    asked: list[dict[str, list[str]]] = field(default_factory=list)

    def answer(self, body: str) -> tuple[int, str]:
        self.asked.append(parse_qs(body))
        if self.code:
            return self.status, REFUSED.format(code=self.code, token=self.asked[-1]["WebIdentityToken"][0])
        end = (datetime.now(UTC) + timedelta(seconds=self.life_s)).isoformat(timespec="seconds").replace("+00:00", "Z")
        return 200, LENT.format(key=self.store.access_key, secret=self.store.secret_key, end=end)


@pytest.fixture
def service(s3_server: Any) -> Iterator[TokenService]:
    made = TokenService(s3_server)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status, text = made.answer(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield made
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.fixture
def token_file(service: TokenService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The pod's identity, and an environment that names nothing else."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "DLCLOUD_STORE_CREDENTIALS_DIR"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "token"
    path.write_text(f"{TOKEN}\n")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(path))
    monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", service.endpoint)
    monkeypatch.setenv("DLCLOUD_POD", "mnist-0-1")
    return path


@pytest.fixture
def place(s3_server: Any, s3_bucket: str, tmp_path: Path) -> Place:
    return Place(f"s3://{s3_bucket}/identity/{tmp_path.name}", s3_server.endpoint)


def test_a_rank_with_a_web_identity_and_no_secret_saves(
    service: TokenService, token_file: Path, place: Place, rank: Make
) -> None:
    one = rank(place, 1)
    assert service.asked == []  # not before the first request
    one.checkpointer.take_over()
    one.save(1)
    assert service.asked == [
        {
            "Action": ["AssumeRoleWithWebIdentity"],
            "Version": ["2011-06-15"],
            "WebIdentityToken": [TOKEN],
            "RoleArn": [ROLE],
            "RoleSessionName": ["mnist-0-1"],
        }
    ]


def test_keys_are_renewed_before_they_end_with_the_token_of_that_moment(
    service: TokenService, token_file: Path, place: Place
) -> None:
    service.life_s = 0.0  # as good as over: each request asks
    objects = open_objects(place.uri, endpoint=place.endpoint)
    objects.put("x", b"1")
    token_file.write_text("the-next-token")
    service.life_s = 3600.0
    objects.put("x", b"2")
    objects.put("x", b"3")
    assert [asked["WebIdentityToken"] for asked in service.asked] == [[TOKEN], ["the-next-token"]]


def test_keys_that_the_store_calls_expired_are_asked_for_again_at_once(
    service: TokenService, token_file: Path, place: Place, proxy: Proxy
) -> None:
    objects = open_objects(place.uri, endpoint=proxy.endpoint)
    objects.put("x", b"1")
    proxy.on("PUT", "", Fault(status=400, code="ExpiredToken"), times=1)
    # The stand-in lends the same keys again.
    with pytest.raises(StoreUnreachable, match=r"no longer accepts the keys in use .* from the token service"):
        objects.put("x", b"2")
    objects.put("x", b"2")
    assert len(service.asked) == 2


def said(place: Place, kind: type[StoreUnusable]) -> str:
    with pytest.raises(kind) as caught:
        open_objects(place.uri, endpoint=place.endpoint).put("x", b"1")
    assert TOKEN not in str(caught.value) and caught.value.__suppress_context__ | (caught.value.__context__ is None)
    return str(caught.value)


def test_a_refused_identity_names_role_and_token(service: TokenService, token_file: Path, place: Place) -> None:
    service.code, service.status = "AccessDenied", 403
    message = said(place, AccessDenied)
    assert service.endpoint in message and "(AccessDenied); check AWS_ROLE_ARN" in message


def test_a_token_that_is_too_old_is_worth_another_try(service: TokenService, token_file: Path, place: Place) -> None:
    service.code, service.status = "ExpiredTokenException", 400
    assert f"the web identity token in {token_file} is too old" in said(place, StoreUnreachable)


def test_a_token_service_in_trouble_is_worth_another_try(service: TokenService, token_file: Path, place: Place) -> None:
    service.code, service.status = "InternalFailure", 500
    assert "answers InternalFailure; it is asked again" in said(place, StoreUnreachable)


def test_a_token_service_that_is_not_there_is_named(
    service: TokenService, token_file: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", nobody)
    assert f"the token service {nobody} is not reachable (Connection refused)" in said(place, StoreUnreachable)


def test_what_is_no_token_service_is_named(
    service: TokenService, token_file: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "answer", lambda body: (200, "<html>welcome</html>"))
    assert "did not answer as a token service; correct AWS_ENDPOINT_URL_STS" in said(place, StoreUnusable)


def test_a_missing_token_file_is_named(service: TokenService, token_file: Path, place: Place) -> None:
    token_file.unlink()
    assert f"AWS_WEB_IDENTITY_TOKEN_FILE: {token_file} is missing or empty" in said(place, CredentialsMissing)
