"""Signatures against the examples AWS has published for Signature Version 4 (Amazon S3 API reference, "Signature
Calculations for the Authorization Header: Transferring Payload in a Single Chunk")."""

from __future__ import annotations

import pytest

from dlcloud_trainer.agent.sigv4 import Credentials, quote_path, sign

KEYS = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
WALL = 1369353600.0  # 2013-05-24T00:00:00Z
HOST = {"host": "examplebucket.s3.amazonaws.com"}


@pytest.mark.parametrize(
    ("method", "path", "headers", "payload", "query", "signature"),
    [
        (
            "PUT",
            quote_path("/test$file.text"),
            {"Date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"},
            b"Welcome to Amazon S3.",
            [],
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
        (
            "GET",
            "/test.txt",
            {"Range": "bytes=0-9"},
            b"",
            [],
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            "GET",
            "/",
            {},
            b"",
            [("lifecycle", "")],
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        ),
        (
            "GET",
            "/",
            {},
            b"",
            [("prefix", "J"), ("max-keys", "2")],
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ],
)
def test_the_signature_is_that_of_the_published_example(
    method: str, path: str, headers: dict[str, str], payload: bytes, query: list[tuple[str, str]], signature: str
) -> None:
    signed = sign(method, path, {**HOST, **headers}, payload, KEYS, "us-east-1", WALL, query)
    assert signed["authorization"].endswith(f",Signature={signature}")
    assert f"Credential={KEYS.access_key}/20130524/us-east-1/s3/aws4_request," in signed["authorization"]
    assert signed["x-amz-date"] == "20130524T000000Z"


def test_a_session_token_is_sent_and_signed() -> None:
    signed = sign("PUT", "/k", HOST, b"", KEYS._replace(token="a-token"), "us-east-1", WALL)
    assert signed["x-amz-security-token"] == "a-token"
    assert "SignedHeaders=host;x-amz-content-sha256;x-amz-date;x-amz-security-token," in signed["authorization"]


def test_every_given_header_is_signed() -> None:
    signed = sign("PUT", "/k", {**HOST, "X-Amz-Server-Side-Encryption": "AES256"}, b"", KEYS, "us-east-1", WALL)
    assert "x-amz-date;x-amz-server-side-encryption," in signed["authorization"]
    assert signed["x-amz-server-side-encryption"] == "AES256"


def test_a_path_is_quoted_once_and_its_slashes_stay() -> None:
    assert quote_path("a b/ü+%25~*'()?#&=/c") == "a%20b/%C3%BC%2B%2525~%2A%27%28%29%3F%23%26%3D/c"


def test_credentials_do_not_show_their_secret() -> None:
    shown = repr(KEYS._replace(token="a-token"))
    assert KEYS.secret_key not in shown
    assert "a-token" not in shown
