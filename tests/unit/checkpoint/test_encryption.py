"""What `objectStore.encryption` asks for becomes the S3 client's settings, or a sentence."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from obstore.exceptions import GenericError

from dlcloud_trainer.objects import CredentialsMissing, EncryptionRefused, StoreUnreachable, StoreUriInvalid
from dlcloud_trainer.objects import open_objects as open_any
from dlcloud_trainer.objects.encryption import Encryption, parse_encryption
from dlcloud_trainer.objects.s3_errors import about_encryption, translate

OWN = base64.b64encode(bytes(range(32))).decode()
ANSWER = (
    "Error performing PUT http://s/b/k in 1ms - Server returned non-2xx status code: {status}: <Error>{said}</Error>"
)


@pytest.mark.parametrize(
    ("kind", "kms_key_id", "settings"),
    [
        ("SSE-S3", "", {"server_side_encryption": "AES256"}),
        ("SSE-KMS", "", {"server_side_encryption": "aws:kms"}),
        ("SSE-KMS", "k", {"server_side_encryption": "aws:kms", "sse_kms_key_id": "k"}),
        ("SSE-C", "", {"server_side_encryption": "sse-c", "sse_customer_key_base64": OWN}),
    ],
)
def test_each_type_has_its_settings(kind: str, kms_key_id: str, settings: dict[str, str]) -> None:
    found = parse_encryption(kind, kms_key_id, OWN, "https://s3")
    assert found is not None and found.client_settings() == settings
    assert OWN not in f"{found!r} {found}"


def test_none_is_asked_for_by_default() -> None:
    assert parse_encryption("", "", OWN, "") is None


def test_an_unknown_type_is_named() -> None:
    with pytest.raises(StoreUriInvalid, match="'AES256' is unknown; give SSE-S3, SSE-KMS, SSE-C"):
        parse_encryption("AES256", "", "", "")


@pytest.mark.parametrize("key", ["", "short", OWN[:-4], "!" * 44])
def test_a_customer_key_that_cannot_be_right_is_not_repeated(key: str) -> None:
    with pytest.raises(CredentialsMissing, match="AWS_SSE_CUSTOMER_KEY_BASE64") as caught:
        parse_encryption("SSE-C", "", key, "")
    assert not key or key not in str(caught.value)


def test_a_customer_key_does_not_travel_in_the_clear() -> None:
    with pytest.raises(StoreUriInvalid, match="https://"):
        parse_encryption("SSE-C", "", OWN, "http://s3:9000")


def test_the_mounted_customer_key_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"ACCESS_KEY_ID": "i", "SECRET_ACCESS_KEY": "s", "SSE_CUSTOMER_KEY_BASE64": "mounted"}.items():
        (tmp_path / f"AWS_{name}").write_text(value)
    monkeypatch.setenv("DLCLOUD_STORE_CREDENTIALS_DIR", str(tmp_path))
    monkeypatch.setenv("AWS_SSE_CUSTOMER_KEY_BASE64", OWN)
    with pytest.raises(CredentialsMissing, match="not 32 bytes"):
        open_any("s3://bucket/x", endpoint="https://s3", encryption="SSE-C")


@pytest.mark.parametrize(
    "said",
    [
        "<Code>NotImplemented</Code><Message>Server side encryption specified but KMS is not configured</Message>",
        "<Code>kms:KeyNotFound</Code><Message>key with given key ID does not exist</Message>",
        "<Code>KMS.NotFoundException</Code><Message>Invalid arn</Message>",
        "<Code>InvalidEncryptionAlgorithmError</Code>",
    ],
)
def test_a_server_that_cannot_encrypt_so_is_named(said: str) -> None:
    error = GenericError(ANSWER.format(status="501 Not Implemented", said=said))
    found = translate(error, bucket="b", where="http://s", key="k")
    refused = about_encryption(error, found, Encryption("SSE-KMS", "k1"), where="http://s", key="k")
    assert isinstance(refused, EncryptionRefused)
    assert str(refused).startswith("objectStore.encryption: http://s refused SSE-KMS with key 'k1'")


def test_an_error_without_a_word_about_encryption_stays_and_mentions_it() -> None:
    error = GenericError(ANSWER.format(status="500 Internal Server Error", said="<Code>InternalError</Code>"))
    found = translate(error, bucket="b", where="http://s", key="k")
    hinted = about_encryption(error, found, Encryption("SSE-KMS"), where="http://s", key="k")
    assert isinstance(hinted, StoreUnreachable)
    assert "objectStore.encryption: SSE-KMS" in str(hinted)


def test_other_errors_stay_what_they_are() -> None:
    error = GenericError(ANSWER.format(status="507 Full", said="<Code>XMinioStorageFull</Code>"))
    found = translate(error, bucket="b", where="http://s", key="k")
    assert about_encryption(error, found, Encryption("SSE-S3"), where="http://s", key="k") is found


def test_an_object_that_another_key_encrypts_is_named() -> None:
    said = "<Code>InvalidRequest</Code><Message>The object was stored using a form of Server Side Encryption.</Message>"
    error = GenericError(ANSWER.replace("PUT", "GET").format(status="400 Bad Request", said=said))
    found = translate(error, bucket="b", where="http://s", key="k")
    refused = about_encryption(error, found, None, where="http://s", key="k")
    assert isinstance(refused, EncryptionRefused) and "does not hand out k" in str(refused)
