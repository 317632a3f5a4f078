"""A real MinIO: temporary keys, web identity against a real issuer, a tenant's policy, encryption by a key service."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from dlcloud.local.volumes import exchange
from dlcloud_trainer.checkpoint.errors import AccessDenied
from dlcloud_trainer.objects import EncryptionRefused, open_objects

from ...servers.minio import MinioMissing, MinioServer
from .conftest import Place
from .proxy import Fault, Proxy

Make = Callable[..., Any]
BUCKET, TENANT, CLIENT = "tenants", "tenant-a", "dlcloud"
POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Action": ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"],
            "Resource": [f"arn:aws:s3:::{BUCKET}/{TENANT}/*"],
        },
        {
            "Effect": "Allow",
            "Action": ["s3:ListBucket"],
            "Resource": [f"arn:aws:s3:::{BUCKET}"],
            "Condition": {"StringLike": {"s3:prefix": [f"{TENANT}/*"]}},
        },
    ],
}


class Issuer:
    """Issues identity tokens, and shows at `url` what they are checked with (OpenID Connect)."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(self._key.public_key()))
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                pages = {
                    "/.well-known/openid-configuration": {"issuer": issuer.url, "jwks_uri": f"{issuer.url}/keys"},
                    "/keys": {"keys": [{**public, "kid": "1", "use": "sig", "alg": "RS256"}]},
                }
                text = json.dumps(pages.get(self.path, {})).encode()
                self.send_response(200 if self.path in pages else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=partial(self.server.serve_forever, 0.02), daemon=True).start()

    def token(self, life_s: float = 3600.0) -> str:
        now = int(time.time())
        claims = {"iss": self.url, "aud": CLIENT, "azp": CLIENT, "sub": "trainer", "policy": TENANT, "iat": now}
        return jwt.encode({**claims, "exp": now + int(life_s)}, self._key, "RS256", {"kid": "1"})


@dataclass
class Minio:
    server: MinioServer
    issuer: Issuer
    user: tuple[str, str]  # of the tenant

    @property
    def endpoint(self) -> str:
        return self.server.endpoint


@pytest.fixture(scope="module")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Minio]:
    issuer = Issuer()
    environment = {
        "MINIO_IDENTITY_OPENID_CONFIG_URL": f"{issuer.url}/.well-known/openid-configuration",
        "MINIO_IDENTITY_OPENID_CLIENT_ID": CLIENT,
        "MINIO_KMS_SECRET_KEY": f"first-key:{base64.b64encode(os.urandom(32)).decode()}",
    }
    server = MinioServer(tmp_path_factory.mktemp("minio"), environment)
    with asyncio.Runner() as runner:
        try:
            runner.run(server.start())
        except MinioMissing as missing:
            pytest.skip(str(missing))
        try:
            runner.run(server.ensure_bucket(BUCKET))
            yield Minio(server, issuer, make_tenant(server))
        finally:
            runner.run(server.stop())
            issuer.server.shutdown()
            issuer.server.server_close()


def make_tenant(server: MinioServer) -> tuple[str, str]:
    from minio import MinioAdmin
    from minio.credentials import StaticProvider
    from minio.error import MinioAdminException

    address, root = server.endpoint.removeprefix("http://"), StaticProvider(server.access_key, server.secret_key)
    admin = MinioAdmin(endpoint=address, credentials=root, secure=False)
    user = secrets.token_hex(8), secrets.token_hex(16)
    until = time.monotonic() + 20
    while True:
        # While it starts the server reads its users and policies once more, and forgets what came just before.
        try:
            admin.policy_add(policy_name=TENANT, policy=POLICY)
            admin.user_add(access_key=user[0], secret_key=user[1])
            admin.attach_policy(policies=[TENANT], user=user[0])
            break
        except MinioAdminException:
            assert time.monotonic() < until, "the server keeps no policy"
            time.sleep(0.1)
    return user


def borrow(minio: Minio) -> dict[str, str]:
    """Keys of the tenant that live 15 minutes (MinIO lends none for less), as a Secret holds them."""
    from minio.credentials import AssumeRoleProvider

    access_key, secret_key = minio.user
    lent = AssumeRoleProvider(
        sts_endpoint=minio.endpoint, access_key=access_key, secret_key=secret_key, duration_seconds=900
    ).retrieve()
    return {
        "AWS_ACCESS_KEY_ID": lent.access_key,
        "AWS_SECRET_ACCESS_KEY": lent.secret_key,
        "AWS_SESSION_TOKEN": lent.session_token or "",
    }


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "credentials"
    folder.mkdir()
    monkeypatch.setenv("DLCLOUD_STORE_CREDENTIALS_DIR", str(folder))
    return folder


@pytest.fixture
def place(minio: Minio) -> Place:
    return Place(f"s3://{BUCKET}/{TENANT}/default/job/{secrets.token_hex(6)}/", minio.endpoint)


def test_temporary_keys_that_expired_are_followed_by_those_in_the_files(
    minio: Minio, mounted: Path, place: Place, rank: Make
) -> None:
    exchange(mounted, borrow(minio))
    with Proxy(minio.endpoint).running() as proxy:
        one = rank(Place(place.uri, proxy.endpoint), 1)
        one.checkpointer.take_over()
        renew = Fault(status=400, code="ExpiredToken", before=lambda _: exchange(mounted, borrow(minio)))
        met = proxy.on("PUT", "/manifests/", renew, times=1)
        one.save(1)
    assert met.met == 1 and one.warnings == []
    assert [commit.step for commit in one.commits] == [1]


def test_a_policy_for_the_tenants_prefix_is_enough_and_another_tenants_is_refused(
    minio: Minio, mounted: Path, place: Place, rank: Make
) -> None:
    exchange(mounted, {"AWS_ACCESS_KEY_ID": minio.user[0], "AWS_SECRET_ACCESS_KEY": minio.user[1]})
    for round, expected in ((1, None), (2, 3)):
        one = rank(place, round, keep_last=1)
        restored = one.checkpointer.take_over()
        assert (restored and restored.step) == expected
        for step in range(round * 3 - 2, round * 3 + 1):
            one.save(step)
        assert one.warnings == []
    other = Place(f"s3://{BUCKET}/tenant-b/default/job/uid/", minio.endpoint)
    with pytest.raises(AccessDenied, match=r"refused to get tenant-b/default/job/uid/head\.json \(AccessDenied\)"):
        rank(other, 1).checkpointer.take_over()


@pytest.fixture
def identity(minio: Minio, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "token"
    path.write_text(minio.issuer.token())
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "DLCLOUD_STORE_CREDENTIALS_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(path))
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", minio.endpoint)
    return path


def test_a_web_identity_saves_and_its_expired_keys_are_renewed(
    minio: Minio, identity: Path, place: Place, rank: Make
) -> None:
    with Proxy(minio.endpoint).running() as proxy:
        one = rank(Place(place.uri, proxy.endpoint), 1)
        one.checkpointer.take_over()
        identity.write_text(minio.issuer.token())
        met = proxy.on("PUT", "/manifests/", Fault(status=400, code="ExpiredToken"), times=1)
        one.save(1)
        manifests = [one.status for one in proxy.requests if one.method == "PUT" and "/manifests/" in one.path]
        assert manifests == [400, 200]
    assert met.met == 1 and one.warnings == []
    assert [commit.step for commit in one.commits] == [1]


def test_a_token_of_another_issuer_is_refused(minio: Minio, identity: Path, place: Place) -> None:
    stranger = Issuer()
    identity.write_text(stranger.token())
    with pytest.raises(AccessDenied, match=r"the token service .* refused \(\w+\)"):
        open_objects(place.uri, endpoint=place.endpoint).put("x", b"1")
    stranger.server.shutdown()
    stranger.server.server_close()


@pytest.mark.parametrize(
    ("kind", "key", "shown"),
    [("SSE-S3", "", "AES256"), ("SSE-KMS", "", "aws:kms"), ("SSE-KMS", "first-key", "aws:kms")],
)
def test_objects_are_encrypted_as_asked(
    kind: str, key: str, shown: str, minio: Minio, mounted: Path, place: Place, rank: Make
) -> None:
    exchange(mounted, {"AWS_ACCESS_KEY_ID": minio.user[0], "AWS_SECRET_ACCESS_KEY": minio.user[1]})
    one = rank(place, 1, encryption=kind, kms_key_id=key)
    one.checkpointer.take_over()
    one.save(1)
    one.save(2)
    assert rank(place, 2, encryption=kind, kms_key_id=key).checkpointer.take_over().step == 2
    client, prefix = minio.server.client(), place.uri.removeprefix(f"s3://{BUCKET}/")
    keys = [found.object_name for found in client.list_objects(BUCKET, prefix, recursive=True)]
    assert len(keys) >= 5
    assert {client.stat_object(BUCKET, name).metadata.get("X-Amz-Server-Side-Encryption") for name in keys} == {shown}


def test_a_key_the_server_does_not_know_is_named(minio: Minio, mounted: Path, place: Place, rank: Make) -> None:
    exchange(mounted, {"AWS_ACCESS_KEY_ID": minio.user[0], "AWS_SECRET_ACCESS_KEY": minio.user[1]})
    with pytest.raises(EncryptionRefused, match="refused SSE-KMS with key 'no-such-key'"):
        rank(place, 1, encryption="SSE-KMS", kms_key_id="no-such-key").checkpointer.take_over()
