"""A store that cannot be used is named within 10 s, with what to do, and without a secret."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dlcloud_trainer.checkpoint.errors import (
    AccessDenied,
    BucketMissing,
    CredentialsMissing,
    StoreFull,
    StoreReadOnly,
    StoreUnreachable,
    StoreUnusable,
    StoreUriInvalid,
)
from dlcloud_trainer.objects.files import FileObjects

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
        assert os.environ.get(name, "-") not in message.replace(name, "")
    return message


def test_a_wrong_secret_is_named(s3_place: Any, rank: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret-of-anybody")
    message = refused(rank(s3_place, 1).checkpointer, AccessDenied)
    assert s3_place.endpoint in message and "objectStore.credentialsSecret" in message


def test_an_unknown_key_is_named(s3_place: Any, rank: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "UNKNOWNKEYOFNOBODY")
    assert "InvalidAccessKeyId" in refused(rank(s3_place, 1).checkpointer, AccessDenied)


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


def test_a_server_of_another_protocol_is_named(s3_place: Any, rank: Make) -> None:
    s3_place.endpoint = s3_place.endpoint.replace("http://", "https://")
    assert s3_place.endpoint in refused(rank(s3_place, 1).checkpointer, StoreUnreachable)


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
    assert "objectStore.caConfigMap" in refused(rank(place, 1).checkpointer, StoreUnreachable)


def test_a_store_with_a_ca_of_its_own_works(tls_place: Any, rank: Make) -> None:
    place, ca_file = tls_place
    one = rank(place, 1, ca_file=str(ca_file))
    one.checkpointer.take_over()
    one.save(1)
    assert rank(place, 2, ca_file=str(ca_file)).checkpointer.take_over().step == 1
