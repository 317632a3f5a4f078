"""From the words of the S3 client to our errors. Pure.

May import the standard library and errors. Must never quote the client's text: servers answer a wrong signature with
the access key
and the text that was signed. Of an answer only its status, its code and a region's name are repeated.
"""

from __future__ import annotations

import re

from .errors import (
    AccessDenied,
    BucketMissing,
    ConditionalWritesMissing,
    CredentialsMissing,
    EncryptionRefused,
    NotAnObjectStore,
    ObjectMissing,
    StoreFull,
    StoreUnreachable,
    StoreUnusable,
    StoreUriInvalid,
)

FULL = {
    "EntityTooLarge.QuotaExceeded",
    "InsufficientCapacity",
    "InsufficientStorage",
    "QuotaExceeded",
    "XMinioAdminBucketQuotaExceeded",
    "XMinioStorageFull",
}
DENIED = {"AccessDenied", "AllAccessDisabled", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"}
KEYS_REFUSED = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidToken",
    "InvalidTokenId",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
ENCRYPTION = ("encrypt", "kms", "customer provided key")
RETRYABLE_STATUS = {408, 409, 425, 429, 500, 502, 503, 504}
CLOCK = {"RequestTimeTooSkewed", "RequestExpired"}
EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}
ELSEWHERE = {"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "InvalidRegion"}
METADATA_HOSTS = ("169.254.169.254", "169.254.170.2", "fd00:ec2::254")
# What the client says of an answer that no S3 server gives: a web page, another program's API.
FOREIGN = (
    "etag header missing",
    "invalid list response",
    "invalid deleteobjects response",
    "invalidxml",
    "header missing from response",
)
RIGHTS = {"GET": "get", "HEAD": "get", "PUT": "put", "DELETE": "delete", "POST": "delete"}


def translate(error: BaseException, *, bucket: str, where: str, key: str) -> Exception:
    """The error to raise instead of one of obstore's; `where` is the endpoint as the user knows it."""
    text = str(error)
    code, status = _code(text), _status(text)
    kind = type(error).__name__
    place = f"bucket {bucket!r} at {where}"
    if any(host in text for host in METADATA_HOSTS):
        return CredentialsMissing(
            f"{place}: no credentials; name a Secret with AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY in objectStore.credentialsSecret, or give the pod an identity of its own"
        )
    if code == "NoSuchBucket":
        return BucketMissing(f"bucket {bucket!r} does not exist at {where}; create it, or correct the URI")
    if code == "InvalidBucketName":
        return BucketMissing(f"{where} accepts no bucket named {bucket!r}; correct the URI")
    if code in EXPIRED:
        return StoreUnreachable(
            f"{place}: the session token has expired ({code}); renew the Secret named by objectStore.credentialsSecret"
        )
    if code in CLOCK:
        return StoreUnreachable(f"{place}: refused as {code}; set this machine's clock")
    if status == 501 or code == "NotImplemented":
        return ConditionalWritesMissing(
            f"{place} does not offer what checkpoints need (501); use a store with conditional writes"
        )
    if code in FULL or status == 507:
        return StoreFull(f"{place} is full ({code or status}); free space or raise its quota")
    if _is_elsewhere(text, code, status):
        known = _first(r"<Region>\s*([a-z0-9-]{1,32})\s*</Region>", text)
        return StoreUriInvalid(
            f"objectStore.region: {place} is in another region; "
            + (f"write region: {known}" if known else "write the bucket's own")
        )
    if code in DENIED or status in (401, 403) or kind in ("PermissionDeniedError", "UnauthenticatedError"):
        reason = code or f"{status or 'no status'} without an S3 error code, so perhaps by a proxy on the way"
        return AccessDenied(f"{place} refused {_asked(text, key)} ({reason}); {_keys(code)}")
    if isinstance(error, FileNotFoundError) and (code or _method(text) in ("", "GET", "HEAD", "DELETE")):
        return ObjectMissing(f"{key} does not exist in bucket {bucket!r} at {where}")
    return _other(text, status, code, where, f"{place} answered {status} {code or ''}".rstrip() + f" for {key}")


def is_key_refusal(error: BaseException, found: Exception) -> bool:
    """Whether other keys might be accepted; `found` is the error's translation."""
    return isinstance(found, AccessDenied) or _code(str(error)) in KEYS_REFUSED


def waits_for_keys(error: BaseException, found: Exception, *, bucket: str, where: str, source: str) -> Exception:
    """`found`, or that keys which worked are refused where they rotate: new ones may be on their way from `source`."""
    code = _code(str(error))
    if code not in KEYS_REFUSED:
        return found  # a right is missing, not a key
    return StoreUnreachable(
        f"bucket {bucket!r} at {where} no longer accepts the keys in use ({code}); waiting for new ones from {source}"
    )


def about_encryption(error: BaseException, found: Exception, asked: object, *, where: str, key: str) -> Exception:
    """`found`, or that the server does not encrypt as `asked` (None: nothing), or does not decrypt like this."""
    text, method = str(error), _method(str(error))
    said = (_first(r"<Message>([^<]{1,512})</Message>", text) or "").lower()
    code, status = _code(text) or "", _status(text)
    speaks_of_it = (
        code.lower().startswith("kms") or "encryption" in code.lower() or any(word in said for word in ENCRYPTION)
    )
    if method == "GET" and speaks_of_it and code != "AccessDenied":
        return EncryptionRefused(
            f"objectStore.encryption: {where} does not hand out {key} ({code or status}): it was written with another "
            "encryption; give type: SSE-C and the key of then, or leave SSE-C out"
        )
    if method != "PUT" or asked is None or isinstance(found, AccessDenied | BucketMissing | StoreFull):
        return found
    if speaks_of_it:
        return EncryptionRefused(
            f"objectStore.encryption: {where} refused {asked} ({code or status}); give what it offers, name a key it "
            "knows in kmsKeyId, or leave encryption out"
        )
    if status == 500:  # SeaweedFS without a key service says no more
        return StoreUnreachable(f"{found}; it may not offer objectStore.encryption: {asked}")
    return found


def not_s3(where: str) -> NotAnObjectStore:
    """What answers at `where` is something else."""
    return NotAnObjectStore(
        f"objectStore.endpoint: what answers at {where} is no S3 server; give the address of the S3 API, not that of a "
        "web page or a console"
    )


def _other(text: str, status: int, code: str | None, where: str, answered: str) -> Exception:
    lowered = text.lower()
    if "http request to an https server" in lowered or "plain http request was sent to https port" in lowered:
        return StoreUriInvalid(f"objectStore.endpoint: {where} speaks https; write {_swapped(where)}")
    if "invalidcontenttype" in lowered or "corrupt message" in lowered:
        return StoreUriInvalid(f"objectStore.endpoint: {where} does not speak https; write {_swapped(where)}")
    if not code and (status in (400, 404, 405) or any(words in lowered for words in FOREIGN)):
        return not_s3(where)
    if status and status not in RETRYABLE_STATUS:
        return StoreUnusable(answered)
    if status == 500:  # SeaweedFS answers a full disk so, and says no more
        return StoreUnreachable(f"object store {where} answers 500; look at the server's log and its free disk space")
    if status in (429, 503):
        return StoreUnreachable(f"object store {where} answers {status}; it is overloaded or starting, look at its log")
    return StoreUnreachable(f"object store {where} {_why(lowered, status)}")


def _is_elsewhere(text: str, code: str | None, status: int) -> bool:
    if code == "AuthorizationHeaderMalformed":  # also said of other mistakes in that header
        return "region" in text.lower()
    return code in ELSEWHERE or status in (301, 302, 307, 308) or "received redirect without location" in text.lower()


def _asked(text: str, key: str) -> str:
    """`to put head.json`: which right is missing."""
    if "list-type=2" in text:
        return f"to list objects below {key}" if key else "to list objects"
    if "DeleteObjects request failed" in text:
        return f"to delete {key}"
    method = _method(text)
    return f"to {RIGHTS[method]} {key}" if method in RIGHTS else "access"


def _keys(code: str | None) -> str:
    if code == "SignatureDoesNotMatch":
        return "correct AWS_SECRET_ACCESS_KEY in objectStore.credentialsSecret"
    if code in KEYS_REFUSED:
        return "correct the keys in objectStore.credentialsSecret"
    # Who may not list all buckets is not told that one is missing (SeaweedFS, and S3 where policies say so).
    return (
        "check the keys in objectStore.credentialsSecret; they need the rights to get, put, delete and list objects, "
        "and there may be no such bucket"
    )


def _code(text: str) -> str | None:
    return _first(r"<Code>\s*([A-Za-z0-9.:]{1,64})\s*</Code>", text) or _first(r"\(code: ([A-Za-z0-9.]{1,64})\)", text)


def _status(text: str) -> int:
    return int(_first(r"status code: (\d{3})", text) or _first(r"status: (\d{3})", text) or 0)


def _method(text: str) -> str:
    return _first(r"Error performing ([A-Z]{3,6}) ", text) or ""


def _swapped(where: str) -> str:
    scheme, _, rest = where.partition("://")
    return f"{'http' if scheme == 'https' else 'https'}://{rest}"


def _why(lowered: str, status: int) -> str:
    check = "check objectStore.endpoint and the network"
    if status:
        return f"answers {status}; {check}"
    if "notvalidforname" in lowered or "not valid for name" in lowered:
        return "shows a certificate made for another host; write the host of the certificate in objectStore.endpoint"
    if "certificate" in lowered and "expired" in lowered:
        return "shows a certificate that has expired; renew it on the server"
    if "certificate" in lowered or "unknownissuer" in lowered:
        return "shows a certificate that is not trusted; name its CA in objectStore.caConfigMap"
    if "dns error" in lowered or "failed to lookup" in lowered:
        return f"has a host name that does not resolve; {check}"
    if "connection refused" in lowered:
        return f"refuses connections; {check}"
    if "timedout" in lowered or "timed out" in lowered or "timeout" in lowered.replace("retry_timeout", ""):
        return f"does not answer in time; {check}"
    if "incompletemessage" in lowered or "connection reset" in lowered or "unexpected eof" in lowered:
        return f"breaks connections off; {check}, and look at the server's log"
    return f"is not reachable; {check}"


def _first(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text)
    return found.group(1) if found else None
