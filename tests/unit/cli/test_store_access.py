"""What of the user's environment a local run's pods get, and that none of it shows."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from dlcloud.objects import Access, StoreError, open_reader
from dlcloud.store import LOCAL_SECRET, given_access, secrets_of, with_store
from dlcloud_operator.api import TrainingJob

KEYS = {
    "AWS_ACCESS_KEY_ID": "an-access-key",
    "AWS_SECRET_ACCESS_KEY": "a-secret-key",
    "AWS_SESSION_TOKEN": "a-session-token",
    "AWS_SSE_CUSTOMER_KEY_BASE64": base64.b64encode(bytes(32)).decode(),
}


def job(encryption: dict[str, Any] | None) -> TrainingJob:
    spec = {"workload": "cnn", "data": {"uri": "builtin://digits"}, "objectStore": {"encryption": encryption}}
    return TrainingJob.model_validate({"metadata": {"name": "a"}, "spec": spec})


def test_the_pods_get_every_key_of_the_users_own_server() -> None:
    assert secrets_of(given_access("https://s3:9000", "eu-1", KEYS)) == {LOCAL_SECRET: KEYS}


def test_no_key_shows_in_a_repr() -> None:
    shown = repr(given_access("https://s3:9000", "eu-1", KEYS))
    assert not [name for name, value in KEYS.items() if value in shown]


def test_encryption_is_kept_on_the_users_own_server() -> None:
    asked = job({"type": "SSE-KMS", "kmsKeyId": "k"})
    found = with_store(asked, given_access("https://s3", "eu-1", KEYS)).spec.object_store.encryption
    assert found == asked.spec.object_store.encryption


@pytest.mark.parametrize("kind", ["SSE-S3", "SSE-KMS", "SSE-C"])
def test_the_embedded_server_encrypts_with_its_own_keys(kind: str) -> None:
    access = Access("http://127.0.0.1:8333", "a", "b")
    found = with_store(job({"type": kind}), access, embedded=True).spec.object_store.encryption
    assert found is not None and found.type == "SSE-S3"
    assert with_store(job(None), access, embedded=True).spec.object_store.encryption is None


def test_a_customer_key_that_is_none_is_named_and_not_repeated() -> None:
    reader = open_reader("s3://bucket/x/", Access("https://127.0.0.1:1", "a", "b", customer_key="not-a-key"))
    with pytest.raises(StoreError, match="AWS_SSE_CUSTOMER_KEY_BASE64 is not 32 bytes") as caught:
        reader.read("head.json")
    assert "not-a-key" not in str(caught.value)
