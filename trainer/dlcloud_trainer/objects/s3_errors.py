"""From the words of the S3 client to our errors. Pure.

May import the standard library and errors. Must never quote the client's text: servers answer a wrong signature with
the access key
and the text that was signed.
"""

from __future__ import annotations

import re

from .errors import (
    AccessDenied,
    BucketMissing,
    ConditionalWritesMissing,
    CredentialsMissing,
    ObjectMissing,
    StoreFull,
    StoreUnreachable,
    StoreUnusable,
)

FULL = {"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"}
RETRYABLE_STATUS = {408, 409, 425, 429, 500, 502, 503, 504}
CLOCK = {"RequestTimeTooSkewed", "RequestExpired", "ExpiredToken"}
METADATA_HOSTS = ("169.254.169.254", "169.254.170.2", "fd00:ec2::254")


def translate(error: BaseException, *, bucket: str, where: str, key: str) -> Exception:
    """The error to raise instead of one of obstore's; `where` is the endpoint as the user knows it."""
    text = str(error)
    code = _first(r"<Code>\s*([A-Za-z0-9.]{1,64})\s*</Code>", text)
    status = int(_first(r"status code: (\d{3})", text) or _first(r"status: (\d{3})", text) or 0)
    kind = type(error).__name__
    if any(host in text for host in METADATA_HOSTS):
        return CredentialsMissing(
            f"bucket {bucket!r} at {where}: no credentials; name a Secret with AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY in objectStore.credentialsSecret, or give the pod an identity of its own"
        )
    if code == "NoSuchBucket":
        return BucketMissing(f"bucket {bucket!r} does not exist at {where}; create it, or correct the URI")
    if code == "InvalidBucketName":
        return BucketMissing(f"{where} accepts no bucket named {bucket!r}; correct the URI")
    if code in CLOCK:
        return StoreUnreachable(
            f"bucket {bucket!r} at {where}: refused as {code}; check this machine's clock and the age of the "
            "credentials"
        )
    if status == 501 or code == "NotImplemented":
        return ConditionalWritesMissing(
            f"bucket {bucket!r} at {where} does not offer what checkpoints need (501); use a store with conditional "
            "writes"
        )
    if code in FULL or status == 507:
        return StoreFull(f"bucket {bucket!r} at {where} is full ({code or status}); free space or raise its quota")
    if status in (401, 403) or kind in ("PermissionDeniedError", "UnauthenticatedError"):
        return AccessDenied(
            f"bucket {bucket!r} at {where} refused access ({code or status or 'no reason given'}); check the keys in "
            "objectStore.credentialsSecret and their right to get, put, delete and list objects"
        )
    if isinstance(error, FileNotFoundError):
        return ObjectMissing(f"{key} does not exist in bucket {bucket!r} at {where}")
    if status in (301, 307, 308):
        return StoreUnusable(f"bucket {bucket!r} is not in this region of {where}; correct objectStore.region")
    if status and status not in RETRYABLE_STATUS:
        return StoreUnusable(f"bucket {bucket!r} at {where} answered {status} {code or ''}".rstrip() + f" for {key}")
    return StoreUnreachable(f"object store {where} {_why(text, status)}; check objectStore.endpoint and the network")


def _why(text: str, status: int) -> str:
    lowered = text.lower()
    if status:
        return f"answers {status}"
    if "certificate" in lowered or "unknownissuer" in lowered:
        return "shows a certificate that is not trusted (name its CA in objectStore.caConfigMap)"
    if "dns error" in lowered or "failed to lookup" in lowered:
        return "has a host name that does not resolve"
    if "connection refused" in lowered:
        return "refuses connections"
    if "timedout" in lowered or "timed out" in lowered or "timeout" in lowered.replace("retry_timeout", ""):
        return "does not answer in time"
    return "is not reachable"


def _first(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text)
    return found.group(1) if found else None
