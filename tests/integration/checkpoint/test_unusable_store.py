"""A store that cannot be used is named at the start of a round, within 10 s, with what to do, and without a secret."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import secrets
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from dlcloud.local.store import EmbeddedStore
from dlcloud_trainer.checkpoint.errors import (
    AccessDenied,
    BucketMissing,
    ConditionalWritesMissing,
    CredentialsMissing,
    StoreFull,
    StoreReadOnly,
    StoreUnreachable,
    StoreUnusable,
    StoreUriInvalid,
)
from dlcloud_trainer.objects.files import FileObjects

from ...servers.minio import MinioMissing, MinioServer
from .conftest import Place
from .proxy import Fault, Proxy

Make = Callable[..., Any]
LIMIT_S = 10.0


def refused(checkpointer: Any, kind: type[StoreUnusable]) -> str:
    began = time.monotonic()
    with pytest.raises(kind) as caught:
        checkpointer.take_over()
    assert time.monotonic() - began < LIMIT_S
    assert caught.value.__cause__ is None and (caught.value.__suppress_context__ or caught.value.__context__ is None)
    message = str(caught.value)
    assert "\n" not in message
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert os.environ.get(name, "(not set)") not in message.replace(name, "")
    return message


def test_a_wrong_secret_is_named(s3_place: Any, rank: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret-of-anybody")
    message = refused(rank(s3_place, 1).checkpointer, AccessDenied)
    assert s3_place.endpoint in message and "objectStore.credentialsSecret" in message


def test_an_unknown_key_is_named(s3_place: Any, rank: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "UNKNOWNKEYOFNOBODY")
    message = refused(rank(s3_place, 1).checkpointer, AccessDenied)
    assert "(InvalidAccessKeyId); correct the keys in objectStore.credentialsSecret" in message


def test_a_missing_bucket_is_named(s3_place: Any, rank: Make) -> None:
    s3_place.uri = "s3://no-such-bucket-here/x"
    message = refused(rank(s3_place, 1).checkpointer, BucketMissing)
    assert (
        message == f"bucket 'no-such-bucket-here' does not exist at {s3_place.endpoint}; create it, or correct the URI"
    )


def test_a_server_that_refuses_connections_is_named(s3_place: Any, rank: Make) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        s3_place.endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
    message = refused(rank(s3_place, 1).checkpointer, StoreUnreachable)
    assert (
        message == f"object store {s3_place.endpoint} refuses connections; check objectStore.endpoint and the network"
    )


def test_a_server_that_never_answers_is_named(s3_place: Any, rank: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        s3_place.endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        message = refused(rank(s3_place, 1).checkpointer, StoreUnreachable)
    assert "does not answer in time" in message


def test_https_to_a_server_that_speaks_http_is_named(s3_place: Any, rank: Make) -> None:
    right = s3_place.endpoint
    s3_place.endpoint = right.replace("http://", "https://")
    message = refused(rank(s3_place, 1).checkpointer, StoreUriInvalid)
    assert message == f"objectStore.endpoint: {s3_place.endpoint} does not speak https; write {right}"


def test_http_to_a_server_that_speaks_https_is_named(tls_place: Any, rank: Make) -> None:
    place, _ = tls_place
    right = place.endpoint
    place.endpoint = right.replace("https://", "http://")
    message = refused(rank(place, 1).checkpointer, StoreUnusable)
    assert place.endpoint in message and "objectStore.endpoint" in message


def test_a_host_that_does_not_exist_is_named(s3_place: Any, rank: Make) -> None:
    s3_place.endpoint = "http://no-such-host.invalid:9000"
    assert "does not resolve" in refused(rank(s3_place, 1).checkpointer, StoreUnreachable)


def test_missing_credentials_are_named(s3_place: Any, rank: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert "credentialsSecret" in refused(rank(s3_place, 1).checkpointer, CredentialsMissing)


def test_a_uri_without_a_scheme_is_named(s3_place: Any, rank: Make) -> None:
    s3_place.uri = "checkpoints/mine"
    assert refused(rank(s3_place, 1).checkpointer, StoreUriInvalid).startswith("checkpoint.uri: 'checkpoints/mine'")


def test_a_prefix_that_is_a_file_is_named(tmp_path: Path, s3_place: Any, rank: Make) -> None:
    (tmp_path / "file").write_text("x")
    s3_place.uri, s3_place.endpoint = f"file://{tmp_path}/file/below", ""
    assert "meets a file where a folder should be" in refused(rank(s3_place, 1).checkpointer, StoreUnusable)


def test_a_place_where_no_folder_can_be_made_is_named(s3_place: Any, rank: Make) -> None:
    s3_place.uri, s3_place.endpoint = "file:///proc/self/ckpt", ""
    assert "give a folder that can be written" in refused(rank(s3_place, 1).checkpointer, StoreUnusable)


@pytest.fixture
def nobody() -> Iterator[None]:
    """Root may write everywhere: for this test be somebody else."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield
    if root:
        os.seteuid(0)


@pytest.fixture
def locked_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_folder_without_permission_is_named(locked_folder: Path, rank: Make, s3_place: Any, nobody: None) -> None:
    s3_place.uri, s3_place.endpoint = f"file://{locked_folder}/ckpt", ""
    message = refused(rank(s3_place, 1).checkpointer, AccessDenied)
    assert f"permission denied for uid {os.geteuid()}" in message


def test_a_read_only_file_system_is_named(tmp_path: Path) -> None:
    error = FileObjects(tmp_path)._translate(OSError(errno.EROFS, "Read-only file system"), tmp_path / "head.json")
    assert isinstance(error, StoreReadOnly)
    assert str(error) == f"{tmp_path} is on a read-only file system; give a folder that can be written"


def test_a_full_disk_is_named() -> None:
    with pytest.raises(StoreFull, match="no space left"):
        FileObjects(Path("/dev"))._guard("full", lambda path: path.write_bytes(b"x" * 100_000))


def test_a_certificate_nobody_vouches_for_is_named(tls_place: Any, rank: Make) -> None:
    place, _ = tls_place
    message = refused(rank(place, 1).checkpointer, StoreUnreachable)
    assert "shows a certificate that is not trusted; name its CA in objectStore.caConfigMap" in message


def test_a_certificate_of_another_host_is_named(tls_place: Any, rank: Make) -> None:
    place, ca_file = tls_place
    place.endpoint = place.endpoint.replace("127.0.0.1", "localhost")
    message = refused(rank(place, 1, ca_file=str(ca_file)).checkpointer, StoreUnreachable)
    assert "shows a certificate made for another host; write the host of the certificate" in message


def test_another_ca_than_the_servers_is_named(tls_place: Any, rank: Make, tmp_path: Path) -> None:
    place, _ = tls_place
    other = certificate_of_nobody(tmp_path / "other.crt")
    message = refused(rank(place, 1, ca_file=str(other)).checkpointer, StoreUnreachable)
    assert "name its CA in objectStore.caConfigMap" in message


def certificate_of_nobody(path: Path) -> Path:
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "other CA")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    made = builder.add_extension(x509.BasicConstraints(True, None), critical=True).sign(key, hashes.SHA256())
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return path


def test_a_store_with_a_ca_of_its_own_works(tls_place: Any, rank: Make) -> None:
    place, ca_file = tls_place
    one = rank(place, 1, ca_file=str(ca_file))
    one.checkpointer.take_over()
    one.save(1)
    assert rank(place, 2, ca_file=str(ca_file)).checkpointer.take_over().step == 1


RIGHTS = {
    "read only": ("readonly", ["Read", "List"], ["s3:GetObject", "s3:ListBucket"], "refused to put "),
    "write only": ("writeonly", ["Write"], ["s3:PutObject", "s3:DeleteObject"], "refused to get "),
    "no list": ("nolist", ["Read", "Write"], ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"], "refused to list "),
    "another bucket": ("other", ["Read:other", "Write:other", "List:other"], [], "refused to get "),
}


@dataclass
class Limited:
    """A server whose users have the rights of `RIGHTS`; each user's secret is `<name>-secret`."""

    place: Any
    keys: tuple[str, str]
    folder: Path


@pytest.fixture(scope="module")
def limited_server(s3_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Limited]:
    folder = tmp_path_factory.mktemp("limited")
    with asyncio.Runner() as runner:
        store: Any
        if s3_server.kind == "minio":
            store = MinioServer(folder)
            runner.run(store.start())
            for user, _, actions, _ in RIGHTS.values():
                add_minio_user(store, user, actions, folder)
        else:
            store = EmbeddedStore(folder)
            keys = {"accessKey": "admin", "secretKey": "admin-secret"}
            people = [{"name": "admin", "credentials": [keys], "actions": ["Admin", "Read", "Write", "List"]}]
            for user, actions, *_ in RIGHTS.values():
                keys = {"accessKey": user, "secretKey": f"{user}-secret"}
                people.append({"name": user, "credentials": [keys], "actions": actions})
            anybody = [f"{action}:open" for action in ("Read", "Write", "List")]
            people.append({"name": "anonymous", "actions": anybody})
            (folder / "s3.json").write_text(json.dumps({"identities": people}))
            runner.run(store.start())
        for bucket in ("bucket", "open"):
            runner.run(store.ensure_bucket(bucket))
        if s3_server.kind == "minio":
            open_to_all(store)
        yield Limited(Place("s3://bucket/jobs", store.endpoint), (store.access_key, store.secret_key), folder)
        runner.run(store.stop())


def add_minio_user(store: MinioServer, user: str, actions: list[str], folder: Path) -> None:
    from minio import MinioAdmin
    from minio.credentials import StaticProvider

    address = store.endpoint.removeprefix("http://")
    admin = MinioAdmin(endpoint=address, credentials=StaticProvider(store.access_key, store.secret_key), secure=False)
    admin.user_add(user, f"{user}-secret")
    if actions:
        rights = {"Effect": "Allow", "Action": actions, "Resource": ["arn:aws:s3:::bucket", "arn:aws:s3:::bucket/*"]}
        policy = folder / f"{user}.json"
        policy.write_text(json.dumps({"Version": "2012-10-17", "Statement": [rights]}))
        admin.policy_add(user, str(policy))
        admin.attach_policy([user], user=user)


def open_to_all(store: MinioServer) -> None:
    """The bucket `open` needs no keys."""
    actions = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:ListBucket"]
    rights = {
        "Effect": "Allow",
        "Principal": {"AWS": ["*"]},
        "Action": actions,
        "Resource": ["arn:aws:s3:::open", "arn:aws:s3:::open/*"],
    }
    store.client().set_bucket_policy("open", json.dumps({"Version": "2012-10-17", "Statement": [rights]}))


@pytest.mark.parametrize("resumed", [False, True], ids=["first round", "later round"])
@pytest.mark.parametrize("what", RIGHTS)
def test_rights_that_do_not_suffice_are_named_at_the_start(
    limited_server: Limited, rank: Make, monkeypatch: pytest.MonkeyPatch, what: str, resumed: bool
) -> None:
    def be(access_key: str, secret_key: str) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret_key)

    user, _, _, said = RIGHTS[what]
    place = limited_server.place.below(secrets.token_hex(4))
    if resumed:
        be(*limited_server.keys)
        one = rank(place, 1)
        one.checkpointer.take_over()
        one.save(1)
    be(user, f"{user}-secret")
    message = refused(rank(place, 2).checkpointer, AccessDenied)
    assert said in message, message
    assert "(AccessDenied); check the keys in objectStore.credentialsSecret; they need the rights to" in message


FORBIDDEN = {"PUT": "refused to put ", "GET": "refused to list objects below ", "DELETE": "refused to delete "}


@pytest.mark.parametrize("method", FORBIDDEN)
def test_a_right_that_only_the_slices_lack_is_named_at_the_start_of_a_later_round(
    through_proxy: Any, s3_place: Any, proxy: Any, rank: Make, method: str
) -> None:
    rank(s3_place, 1).checkpointer.take_over()
    path = r"list-type=2.*attempts/" if method == "GET" else "/attempts/"
    proxy.on(method, path, Fault(status=403, code="AccessDenied"))
    message = refused(rank(through_proxy, 2).checkpointer, AccessDenied)
    assert FORBIDDEN[method] in message and "/attempts/000002-probe" in message


def test_the_proof_of_rights_leaves_nothing_behind(place: Any, rank: Make) -> None:
    rank(place, 1).checkpointer.take_over()
    rank(place, 2).checkpointer.take_over()
    assert place.objects().list() == ["head.json"]


def test_the_start_of_a_later_round_takes_few_requests(
    through_proxy: Any, s3_place: Any, proxy: Any, rank: Make
) -> None:
    one = rank(s3_place, 1)
    one.checkpointer.take_over()
    one.save(1)
    proxy.forget()
    rank(through_proxy, 2).checkpointer.take_over()
    assert len(proxy.seen) <= 7, proxy.seen  # head twice, manifest, slice; put, list and delete beside them


@pytest.mark.parametrize("status", [200, 302, 403, 404, 405])
def test_a_web_page_in_place_of_a_store_is_named(s3_place: Any, rank: Make, status: int) -> None:
    with web_page(status) as s3_place.endpoint:
        message = refused(rank(s3_place, 1).checkpointer, StoreUnusable)
    assert s3_place.endpoint in message
    assert {
        302: "objectStore.region: bucket",
        403: "without an S3 error code, so perhaps by a proxy on the way",
    }.get(status, "is no S3 server; give the address of the S3 API, not that of a web page or a console") in message


@contextmanager
def web_page(status: int) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            page = b"<!doctype html><html><body>Welcome</body></html>"
            self.send_response_only(status)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        do_GET = do_PUT = do_DELETE = do_POST = answer  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


@pytest.mark.parametrize("server", ["master", "filer", "volume"])
def test_another_server_of_the_same_store_is_named(
    limited_server: Limited, rank: Make, monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    """SeaweedFS' own web servers stand beside its S3 port, and answer much as S3 does."""
    ports = limited_server.folder / "ports.json"
    if not ports.exists():
        pytest.skip("SeaweedFS alone has them")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", limited_server.keys[0])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", limited_server.keys[1])
    endpoint = f"http://127.0.0.1:{json.loads(ports.read_text())[server]}"
    message = refused(rank(Place("s3://bucket/jobs", endpoint), 1).checkpointer, StoreUnusable)
    assert f"what answers at {endpoint} is no S3 server" in message


def test_a_wrong_region_is_named_where_the_server_checks_it(
    tmp_path: Path, rank: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    with asyncio.Runner() as runner:
        store = MinioServer(tmp_path, {"MINIO_REGION": "eu-central-1"})
        try:
            runner.run(store.start())
        except MinioMissing as missing:
            pytest.skip(str(missing))
        try:
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", store.access_key)
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", store.secret_key)
            place = Place("s3://bucket/job", store.endpoint)
            (tmp_path / "data" / "bucket").mkdir()  # asking for it in a region takes MinIO a minute
            message = refused(rank(place, 1).checkpointer, StoreUriInvalid)
            assert message.startswith("objectStore.region: ") and message.endswith("; write region: eu-central-1")
            rank(place, 1, region="eu-central-1").checkpointer.take_over()
        finally:
            runner.run(store.stop())


@pytest.mark.parametrize("header", ["If-None-Match", "If-Match"])
def test_a_store_that_ignores_conditions_is_refused_at_the_start(
    limited_server: Limited, rank: Make, monkeypatch: pytest.MonkeyPatch, header: str
) -> None:
    """Without signatures: they would cover the header that the proxy strips."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    with Proxy(limited_server.place.endpoint).running() as proxy:
        place = Place(f"s3://open/{secrets.token_hex(4)}", proxy.endpoint)
        rank(place.below("kept"), 1).checkpointer.take_over()
        proxy.on("PUT", "", Fault(without=(header,)))
        message = refused(rank(place.below("ignored"), 1).checkpointer, ConditionalWritesMissing)
        assert f"does not keep {header} conditions" in message
        assert place.objects().list("ignored") == []
