"""Where a pod's output goes: addresses, encryption, and a folder as a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dlcloud_trainer.agent.log_store import (
    FolderStore,
    NotKept,
    Place,
    customer_key,
    encryption_headers,
    find_place,
    open_store,
)


def at_aws(host: str, path: str) -> Place:
    return Place(f"https://{host}{path}", path, host)


KMS = {"x-amz-server-side-encryption": "aws:kms"}


@pytest.mark.parametrize(
    ("bucket", "endpoint", "region", "place"),
    [
        ("b", "http://h:9000", "r", Place("http://h:9000/b/", "/b/", "h:9000")),
        ("b", "http://h:9000/", "r", Place("http://h:9000/b/", "/b/", "h:9000")),
        ("b", "https://h/s3", "r", Place("https://h/s3/b/", "/s3/b/", "h")),
        ("b", "", "eu-west-1", at_aws("b.s3.eu-west-1.amazonaws.com", "/")),
        ("b", "", "cn-north-1", at_aws("b.s3.cn-north-1.amazonaws.com.cn", "/")),
        ("b.c", "", "us-east-1", at_aws("s3.us-east-1.amazonaws.com", "/b.c/")),
    ],
)
def test_the_address_of_a_bucket(bucket: str, endpoint: str, region: str, place: Place) -> None:
    assert find_place(bucket, endpoint, region) == place


@pytest.mark.parametrize("endpoint", ["h:9000", "ftp://h", "http://user:hidden@h"])
def test_an_endpoint_that_is_none_is_refused_without_its_password(endpoint: str) -> None:
    with pytest.raises(NotKept) as caught:
        find_place("b", endpoint, "r")
    assert "objectStore.endpoint" in str(caught.value)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("encryption", "headers"),
    [
        (None, {}),
        ({}, {}),
        ({"type": ""}, {}),
        ({"type": "SSE-S3"}, {"x-amz-server-side-encryption": "AES256"}),
        ({"type": "SSE-KMS"}, KMS),
        ({"type": "SSE-KMS", "kmsKeyId": "k"}, {**KMS, "x-amz-server-side-encryption-aws-kms-key-id": "k"}),
    ],
)
def test_encryption_is_asked_for_in_every_put(encryption: object, headers: dict[str, str]) -> None:
    assert encryption_headers(encryption) == headers


def test_a_key_of_the_users_own_goes_along_over_https_only(tmp_path: Path) -> None:
    (tmp_path / "AWS_SSE_CUSTOMER_KEY_BASE64").write_text("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n")
    env = {"DLCLOUD_STORE_CREDENTIALS_DIR": str(tmp_path), "AWS_SSE_CUSTOMER_KEY_BASE64": "older"}
    name = "x-amz-server-side-encryption-customer"
    assert encryption_headers({"type": "SSE-C"}, customer_key(env)) == {
        f"{name}-algorithm": "AES256",
        f"{name}-key": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        f"{name}-key-md5": "cLyPS3KoaSFGi/joRB3OUQ==",
    }
    job: dict[str, Any] = {"checkpoint": {"uri": "s3://b/x"}, "objectStore": {"encryption": {"type": "SSE-C"}}}
    job["objectStore"]["endpoint"] = "http://s3:9000"
    with pytest.raises(NotKept, match="in the clear"):
        open_store(job, env)


@pytest.mark.parametrize(("kind", "key"), [("SSE-C", ""), ("SSE-C", "hidden, no base64"), ("of a newer operator", "")])
def test_rather_than_unencrypted_nothing_is_written(kind: str, key: str) -> None:
    with pytest.raises(NotKept) as caught:
        encryption_headers({"type": kind}, key)
    assert "hidden" not in str(caught.value)


def test_a_folder_gets_the_file_whole_and_nothing_else(tmp_path: Path) -> None:
    job: dict[str, Any] = {"checkpoint": {"uri": f"file://{tmp_path}/with%20space/job/"}}
    store = open_store(job, {"DLCLOUD_POD": "job-0-1"})
    assert isinstance(store, FolderStore)
    for data in (b"one", b"one two"):
        store.put("logs/job-0-1/000000.log", data)
        folder = tmp_path / "with space" / "job" / "logs" / "job-0-1"
        assert [file.name for file in folder.iterdir()] == ["000000.log"]
        assert (folder / "000000.log").read_bytes() == data


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotKept, match="file/job/logs"):
        open_store({"checkpoint": {"uri": f"file://{tmp_path}/file/job/"}}, {}).put("logs/p/000000.log", b"")


@pytest.mark.parametrize("uri", ["", "nonsense", "s3:///x", "file://host/x"])
def test_a_uri_that_is_no_store_is_refused(uri: str) -> None:
    with pytest.raises(NotKept, match=r"checkpoint\.uri"):
        open_store({"checkpoint": {"uri": uri}}, {})


def test_a_ca_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("no certificate")
    with pytest.raises(NotKept, match="caConfigMap"):
        open_store({"checkpoint": {"uri": "s3://b/p/"}}, {"DLCLOUD_STORE_CA_FILE": str(tmp_path / "ca.crt")})
