"""AWS Signature Version 4 for one request, its body in a single chunk. A pure function of values.

May import the standard library only. See "Authenticating Requests (AWS Signature Version 4)" of the Amazon S3 API
reference.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ALGORITHM = "AWS4-HMAC-SHA256"


class Credentials(NamedTuple):
    """Keys to sign with; `token` is empty for long-lived ones. `repr` tells no secret."""

    access_key: str
    secret_key: str
    token: str = ""

    def __repr__(self) -> str:
        return "Credentials(...)"


def quote_path(path: str) -> str:
    """A path as S3 wants it in the URL and in the signature: UTF-8, everything but unreserved characters and `/`
    escaped, once.
    """
    return quote(path, safe="/~")


def sign(
    method: str,
    path: str,
    headers: Mapping[str, str],
    payload: bytes,
    credentials: Credentials,
    region: str,
    wall: float,
    query: Sequence[tuple[str, str]] = (),
    service: str = "s3",
) -> dict[str, str]:
    """All headers of the signed request: those given (`host` among them) and those the signature adds.

    `path` is already quoted; `wall` in seconds since the epoch.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(wall))
    digest = hashlib.sha256(payload).hexdigest()
    signed = {name.lower(): " ".join(value.split()) for name, value in headers.items()}
    signed |= {"x-amz-content-sha256": digest, "x-amz-date": stamp}
    if credentials.token:
        signed["x-amz-security-token"] = credentials.token
    names = ";".join(sorted(signed))
    canonical = "\n".join(
        [
            method,
            path,
            "&".join(f"{quote(key, safe='~')}={quote(value, safe='~')}" for key, value in sorted(query)),
            *(f"{name}:{signed[name]}" for name in sorted(signed)),
            "",
            names,
            digest,
        ]
    )
    scope = f"{stamp[:8]}/{region}/{service}/aws4_request"
    text = "\n".join([ALGORITHM, stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = ("AWS4" + credentials.secret_key).encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.new(key, text.encode(), "sha256").hexdigest()
    credential = f"{credentials.access_key}/{scope}"
    signed["authorization"] = f"{ALGORITHM} Credential={credential},SignedHeaders={names},Signature={signature}"
    return signed
