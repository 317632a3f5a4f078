"""The S3 client's words become our errors, and never carry a secret."""

from __future__ import annotations

import pytest
from obstore.exceptions import GenericError, PermissionDeniedError

from dlcloud_trainer.objects import (
    AccessDenied,
    BucketMissing,
    ConditionalWritesMissing,
    CredentialsMissing,
    NotAnObjectStore,
    ObjectMissing,
    StoreFull,
    StoreUnreachable,
    StoreUnusable,
    StoreUriInvalid,
    open_objects,
)
from dlcloud_trainer.objects.s3_errors import translate

SECRET = "AKIAVERYSECRETKEY"


def answer(status: str, code: str, method: str = "PUT", more: str = "") -> str:
    return (
        f"Generic S3 error: Error performing {method} http://store:9000/b/k{more} in 1ms - "
        f"Server returned non-2xx status code: {status}: <Error><Code>{code}</Code>"
        f"<AWSAccessKeyId>{SECRET}</AWSAccessKeyId><StringToSign>{SECRET}</StringToSign></Error>"
    )


def page(status: str, method: str = "PUT") -> str:
    """What a server that is none answers."""
    return (
        f"Error performing {method} http://store:9000/b/k in 1ms - Server returned non-2xx status code: {status}: "
        f"<!doctype html><html>{SECRET}</html>"
    )


def elsewhere(region: str) -> str:
    text = answer("400 Bad Request", "AuthorizationHeaderMalformed", "GET")
    return text.replace("</Error>", f"<Message>the region is wrong</Message><Region>{region}</Region></Error>")


DENIED = PermissionDeniedError(answer("403 Forbidden", "AccessDenied"))
LISTED = GenericError(answer("403 Forbidden", "AccessDenied", "GET", "?list-type=2&prefix=x"))
CASES: list[tuple[Exception, type[Exception], str]] = [
    (
        PermissionDeniedError(answer("403 Forbidden", "SignatureDoesNotMatch")),
        AccessDenied,
        "(SignatureDoesNotMatch); correct AWS_SECRET_ACCESS_KEY in objectStore.credentialsSecret",
    ),
    (GenericError(answer("403 Forbidden", "InvalidAccessKeyId")), AccessDenied, "correct the keys in objectStore"),
    (DENIED, AccessDenied, "bucket 'b' at http://store:9000 refused to put k (AccessDenied); check the keys in"),
    (LISTED, AccessDenied, "refused to list objects below k (AccessDenied)"),
    (GenericError(answer("403 Forbidden", "AccessDenied", "DELETE")), AccessDenied, "refused to delete k ("),
    (
        GenericError(f"DeleteObjects request failed for key k: {SECRET} (code: AccessDenied)"),
        AccessDenied,
        "refused to delete k (AccessDenied)",
    ),
    (GenericError(answer("401 Unauthorized", "X")), AccessDenied, "refused to put k (X)"),
    (
        PermissionDeniedError(page("403 Forbidden")),
        AccessDenied,
        "(403 without an S3 error code, so perhaps by a proxy",
    ),
    (FileNotFoundError(answer("404 Not Found", "NoSuchBucket")), BucketMissing, "'b' does not exist at http://store"),
    (FileNotFoundError(answer("404 Not Found", "NoSuchKey")), ObjectMissing, "k does not exist"),
    (FileNotFoundError(page("404 Not Found", "GET")), ObjectMissing, "k does not exist"),
    (FileNotFoundError(page("404 Not Found")), NotAnObjectStore, "what answers at http://store:9000 is no S3 server"),
    (GenericError(page("405 Method Not Allowed")), NotAnObjectStore, "give the address of the S3 API"),
    (GenericError("ETag Header missing from response"), NotAnObjectStore, "is no S3 server"),
    (GenericError(f"Got invalid list response: {SECRET}"), NotAnObjectStore, "is no S3 server"),
    (GenericError(answer("400 Bad Request", "InvalidBucketName")), BucketMissing, "accepts no bucket named 'b'"),
    (GenericError(answer("403 Forbidden", "RequestTimeTooSkewed")), StoreUnreachable, "set this machine's clock"),
    (GenericError(answer("400 Bad Request", "ExpiredToken")), StoreUnreachable, "the session token has expired"),
    (GenericError(answer("403 Forbidden", "QuotaExceeded")), StoreFull, "is full"),
    (GenericError(answer("507 Insufficient Storage", "XMinioStorageFull")), StoreFull, "is full (XMinioStorageFull)"),
    (GenericError(answer("501 Not Implemented", "NotImplemented")), ConditionalWritesMissing, "501"),
    (GenericError(answer("503 Slow Down", "SlowDown")), StoreUnreachable, "answers 503; it is overloaded or starting"),
    (GenericError(answer("500 Internal Server Error", "InternalError")), StoreUnreachable, "its free disk space"),
    (GenericError(answer("409 Conflict", "ConditionalRequestConflict")), StoreUnreachable, "answers 409"),
    (GenericError(answer("301 Moved", "PermanentRedirect")), StoreUriInvalid, "objectStore.region: bucket 'b'"),
    (GenericError(elsewhere("eu-central-1")), StoreUriInvalid, "is in another region; write region: eu-central-1"),
    (GenericError(answer("400 Bad Request", "Odd")), StoreUnusable, "answered 400 Odd for k"),
    (
        GenericError(f"{page('400 Bad Request')} Client sent an HTTP request to an HTTPS server."),
        StoreUriInvalid,
        "objectStore.endpoint: http://store:9000 speaks https; write https://store:9000",
    ),
    (GenericError(f"InvalidMessage(InvalidContentType) {SECRET}"), StoreUriInvalid, "does not speak https; write"),
    (GenericError(f"... dns error: failed to lookup {SECRET}"), StoreUnreachable, "does not resolve"),
    (GenericError(f"Connection refused {SECRET}"), StoreUnreachable, "refuses connections"),
    (GenericError(f"invalid peer certificate: UnknownIssuer {SECRET}"), StoreUnreachable, "caConfigMap"),
    (GenericError(f"invalid peer certificate: NotValidForName {SECRET}"), StoreUnreachable, "made for another host"),
    (GenericError(f"invalid peer certificate: Expired {SECRET}"), StoreUnreachable, "has expired; renew it"),
    (GenericError(f"operation timed out {SECRET}"), StoreUnreachable, "does not answer in time"),
    (GenericError(f"hyper::Error(IncompleteMessage) {SECRET}"), StoreUnreachable, "breaks connections off"),
    (GenericError(f"retry_timeout: 5s {SECRET}"), StoreUnreachable, "is not reachable"),
    (GenericError("PUT http://169.254.169.254/latest/api/token failed"), CredentialsMissing, "credentialsSecret"),
]


@pytest.mark.parametrize(("given", "kind", "said"), CASES)
def test_an_answer_becomes_its_error_and_keeps_the_secret(given: Exception, kind: type[Exception], said: str) -> None:
    error = translate(given, bucket="b", where="http://store:9000", key="k")
    assert type(error) is kind
    assert said in str(error)
    assert SECRET not in str(error)


@pytest.mark.parametrize(
    ("uri", "endpoint", "said"),
    [
        ("mnist", "", "checkpoint.uri: 'mnist' is no store; give s3://bucket/prefix or file:///path"),
        ("file://host/path", "", "is no store"),
        ("s3://B/x", "", "is no store"),
        ("gs://bucket/x", "", "is no store"),
        ("s3://bucket", "127.0.0.1:9000", "objectStore.endpoint: '127.0.0.1:9000' is not allowed; give http://"),
        ("s3://bucket", "http://", "objectStore.endpoint: 'http://' is not allowed"),
        ("s3://bucket", "http://host:99999", "is not allowed"),
        ("s3://bucket", f"http://user:{SECRET}@host", "a URL with a password is not allowed"),
    ],
)
def test_a_uri_that_cannot_be_right_is_named(uri: str, endpoint: str, said: str) -> None:
    with pytest.raises(StoreUriInvalid) as refused:
        open_objects(uri, endpoint=endpoint)
    assert said in str(refused.value)
    assert SECRET not in str(refused.value)


def test_missing_credentials_are_named_without_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    with pytest.raises(CredentialsMissing, match="credentialsSecret"):
        open_objects("s3://bucket/x", endpoint="http://127.0.0.1:1")


def test_a_line_break_in_a_secret_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"{SECRET}\n")
    with pytest.raises(CredentialsMissing, match="AWS_SECRET_ACCESS_KEY holds white space") as refused:
        open_objects("s3://bucket/x", endpoint="http://127.0.0.1:1")
    assert SECRET not in str(refused.value)


def test_a_missing_ca_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    with pytest.raises(StoreUriInvalid, match=r"objectStore.caConfigMap: .*ca.crt"):
        open_objects("s3://bucket/x", endpoint="https://host", ca_file=f"{tmp_path}/ca.crt")
