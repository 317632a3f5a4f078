"""Keys of a mounted Secret change while a rank saves: nothing is lost, and nobody but the store notices."""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dlcloud.local import weed
from dlcloud.local.store import EmbeddedStore
from dlcloud.local.volumes import exchange
from dlcloud_trainer.checkpoint.errors import AccessDenied, StoreUnreachable
from dlcloud_trainer.objects import EncryptionRefused, open_objects

from .conftest import Place
from .proxy import Fault, Proxy

Make = Callable[..., Any]


@dataclass
class Server:
    """A SeaweedFS whose users come and go; `shell` runs a line of its own shell."""

    endpoint: str
    bucket: str
    shell: Callable[[str], None]
    admin: Any  # a minio client with all rights

    def allow(self, key: str, secret: str, user: str = "trainer", where: str = "") -> None:
        """Accept these keys; `where` is a prefix of the bucket."""
        place = f"{self.bucket}/{where}/*" if where else self.bucket
        actions = ",".join(f"{action}:{place}" for action in ("Read", "Write", "List"))
        self.shell(f"s3.configure -user={user} -access_key={key} -secret_key={secret} -actions={actions} -apply")

    def refuse(self, key: str, user: str = "trainer") -> None:
        """Accept this key no longer."""
        self.shell(f"s3.configure -user={user} -access_key={key} -delete -apply")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with asyncio.Runner() as runner:
        store = EmbeddedStore(tmp_path_factory.mktemp("users"))
        runner.run(store.start())
        bucket = f"users-{secrets.token_hex(4)}"
        runner.run(store.ensure_bucket(bucket))
        ports = store._ports

        def shell(line: str) -> None:
            addresses = [
                f"-{server}=127.0.0.1:{ports[server]}.{ports[f'{server}.grpc']}" for server in ("master", "filer")
            ]
            command = [weed.find(), "shell", *addresses]
            done = subprocess.run(command, input=f"{line}\nexit\n", capture_output=True, text=True, timeout=60)
            assert done.returncode == 0 and "error" not in done.stderr.lower(), done.stderr

        try:
            yield Server(store.endpoint, bucket, shell, store._client())
        finally:
            runner.run(store.stop())


def keys(name: str) -> dict[str, str]:
    return {"AWS_ACCESS_KEY_ID": f"ID{name}", "AWS_SECRET_ACCESS_KEY": f"secret-{name}"}


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a mounted Secret. The environment holds the keys the pod was started with: they are too old."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    monkeypatch.setenv("DLCLOUD_STORE_CREDENTIALS_DIR", str(folder))
    for name, value in keys("BEFORE").items():
        monkeypatch.setenv(name, value)
    return folder


@pytest.fixture
def place(server: Server) -> Place:
    return Place(f"s3://{server.bucket}/{secrets.token_hex(6)}", server.endpoint)


@pytest.fixture
def through(server: Server, place: Place) -> Iterator[tuple[Proxy, Place]]:
    with Proxy(server.endpoint).running() as proxy:
        yield proxy, Place(place.uri, proxy.endpoint)


def is_manifest(request: Any) -> bool:
    return request.method == "PUT" and "/manifests/" in request.path


def allow(server: Server, name: str) -> None:
    server.allow(f"ID{name}", f"secret-{name}")


def test_a_secret_that_rotates_between_two_saves_is_used_by_the_next_one(
    server: Server, mounted: Path, place: Place, rank: Make
) -> None:
    allow(server, "ONE")
    exchange(mounted, keys("ONE"))
    one = rank(place, 1)
    one.checkpointer.take_over()
    one.save(1)
    allow(server, "TWO")
    exchange(mounted, keys("TWO"))
    server.refuse("IDONE")
    one.save(2)
    assert [commit.step for commit in one.commits] == [1, 2]
    assert one.warnings == []


def test_an_upload_in_progress_goes_on_with_the_keys_that_come_after_a_refusal(
    server: Server, mounted: Path, through: tuple[Proxy, Place], rank: Make
) -> None:
    proxy, place = through
    allow(server, "THREE")
    exchange(mounted, keys("THREE"))
    one = rank(place, 1)
    one.checkpointer.take_over()

    def rotate(_: Any) -> None:
        server.refuse("IDTHREE")
        allow(server, "FOUR")

    proxy.on("PUT", "/attempts/", Fault(after=rotate), times=1)  # the slices are there, the manifest is not
    refused = proxy.on("PUT", "/manifests/", Fault(before=lambda _: None), times=2)
    later = proxy.on("PUT", "/manifests/", Fault(before=lambda _: exchange(mounted, keys("FOUR"))), times=1)
    one.save(1)
    assert (refused.met, later.met) == (2, 1)
    assert [commit.step for commit in one.commits] == [1]
    said = " ".join(text for _, text in one.warnings)
    assert "THREE" not in said and "FOUR" not in said
    answers = [request.status for request in proxy.requests if is_manifest(request)]
    assert answers[:2] == [403, 403] and answers[-1] == 200


def test_a_session_token_that_expired_is_renewed_through_the_files(
    server: Server, mounted: Path, through: tuple[Proxy, Place], rank: Make
) -> None:
    proxy, place = through
    allow(server, "FIVE")
    exchange(mounted, keys("FIVE"))
    one = rank(place, 1)
    one.checkpointer.take_over()
    allow(server, "SIX")
    expired = Fault(status=400, code="ExpiredToken", before=lambda _: exchange(mounted, keys("SIX")))
    met = proxy.on("PUT", "/attempts/", expired, times=1)
    one.save(1)
    assert met.met == 1
    assert one.warnings == []


def test_refused_keys_are_tried_with_the_new_files_at_once(
    server: Server, mounted: Path, through: tuple[Proxy, Place]
) -> None:
    proxy, place = through
    allow(server, "SEVEN")
    exchange(mounted, keys("SEVEN"))
    objects = open_objects(place.uri, endpoint=place.endpoint)
    allow(server, "EIGHT")
    late = Fault(before=lambda _: (exchange(mounted, keys("EIGHT")), server.refuse("IDSEVEN")))
    proxy.on("PUT", "", late, times=1)
    objects.put("x", b"1")
    assert [request.status for request in proxy.requests] == [403, 200]


def test_keys_that_never_worked_are_an_error_and_those_that_did_are_waited_for(
    server: Server, mounted: Path, place: Place
) -> None:
    allow(server, "NINE")
    exchange(mounted, {**keys("NINE"), "AWS_SECRET_ACCESS_KEY": "not-the-secret"})
    objects = open_objects(place.uri, endpoint=place.endpoint)
    with pytest.raises(AccessDenied, match="SignatureDoesNotMatch"):
        objects.put("x", b"1")
    exchange(mounted, keys("NINE"))
    objects.put("x", b"1")
    server.refuse("IDNINE")
    with pytest.raises(StoreUnreachable, match=r"no longer accepts .*; waiting for new ones from the Secret") as caught:
        objects.put("x", b"1")
    assert "NINE" not in str(caught.value)


def test_rights_on_the_tenants_prefix_are_enough_and_another_tenants_is_refused(
    server: Server, mounted: Path, rank: Make
) -> None:
    server.allow("IDTENANT", "secret-TENANT", user="tenant", where="tenant-a")
    exchange(mounted, keys("TENANT"))
    own = Place(f"s3://{server.bucket}/tenant-a/default/job/uid/", server.endpoint)
    for round, expected in ((1, None), (2, 3)):  # keep_last 1: retention lists and deletes as well
        one = rank(own, round, keep_last=1)
        restored = one.checkpointer.take_over()
        assert (restored and restored.step) == expected
        for step in range(round * 3 - 2, round * 3 + 1):
            one.save(step)
        assert one.warnings == []
    other = Place(f"s3://{server.bucket}/tenant-b/default/job/uid/", server.endpoint)
    with pytest.raises(AccessDenied, match=r"refused to get tenant-b/default/job/uid/head\.json \(AccessDenied\)"):
        rank(other, 1).checkpointer.take_over()


def test_a_store_that_says_403_of_what_is_missing_can_be_used_with_a_right_to_list(
    server: Server, mounted: Path, through: tuple[Proxy, Place], rank: Make
) -> None:
    proxy, place = through
    allow(server, "TEN")
    exchange(mounted, keys("TEN"))
    met = proxy.on("GET", "head.json", Fault(status=403, code="AccessDenied"), times=1)
    one = rank(place, 1)
    assert one.checkpointer.take_over() is None
    assert met.met == 1
    one.save(1)
    proxy.on("GET", "head.json", Fault(status=403, code="AccessDenied"))
    with pytest.raises(AccessDenied):  # it is there: this is no missing object
        rank(place, 2).checkpointer.take_over()


def test_a_server_encrypts_what_is_saved_and_says_so(server: Server, mounted: Path, place: Place, rank: Make) -> None:
    allow(server, "ELEVEN")
    exchange(mounted, keys("ELEVEN"))
    one = rank(place, 1, encryption="SSE-S3")
    one.checkpointer.take_over()
    one.save(1)
    assert encryptions(server, place) == {"AES256"}
    assert rank(place, 2, encryption="SSE-S3").checkpointer.take_over().step == 1
    assert rank(place, 3).checkpointer.take_over().step == 1  # reading needs nothing


def test_a_server_without_a_key_service_is_named_at_the_start(
    server: Server, mounted: Path, place: Place, rank: Make
) -> None:
    allow(server, "TWELVE")
    exchange(mounted, keys("TWELVE"))
    with pytest.raises(StoreUnreachable, match=r"it may not offer objectStore.encryption: SSE-KMS with key 'k'"):
        rank(place, 1, encryption="SSE-KMS", kms_key_id="k").checkpointer.take_over()


def test_a_key_of_ones_own_encrypts_over_https(
    server: Server, mounted: Path, tls_place: tuple[Place, Path], s3_server: Any, s3_place: Place, rank: Make
) -> None:
    if s3_server.kind == "minio":
        pytest.skip("MinIO refuses SSE-C behind a proxy that ends TLS")
    place, ca = tls_place
    own = base64.b64encode(os.urandom(32)).decode()
    admin = {"AWS_ACCESS_KEY_ID": s3_server.access_key, "AWS_SECRET_ACCESS_KEY": s3_server.secret_key}
    exchange(mounted, {**admin, "AWS_SSE_CUSTOMER_KEY_BASE64": own})
    one = rank(place, 1, ca_file=str(ca), encryption="SSE-C")
    one.checkpointer.take_over()
    one.save(1)
    assert rank(place, 2, ca_file=str(ca), encryption="SSE-C").checkpointer.take_over().step == 1
    with pytest.raises(EncryptionRefused, match="it was written with another encryption"):
        open_objects(s3_place.uri, endpoint=s3_place.endpoint).get("head.json")


def encryptions(server: Server, place: Place) -> set[str | None]:
    """What the server says of each object below a place."""
    prefix = place.uri.removeprefix(f"s3://{server.bucket}/")
    keys = [one.object_name for one in server.admin.list_objects(server.bucket, f"{prefix}/", recursive=True)]
    assert {"attempts", "manifests", "head.json"} <= {key.removeprefix(f"{prefix}/").split("/")[0] for key in keys}
    return {server.admin.stat_object(server.bucket, key).metadata.get("X-Amz-Server-Side-Encryption") for key in keys}
