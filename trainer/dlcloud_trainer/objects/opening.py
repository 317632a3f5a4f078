"""From a URI to an object store.

May import the two stores. Sends nothing, reads only the CA file.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .base import Objects
from .errors import CredentialsMissing, StoreUriInvalid
from .files import FileObjects
from .s3 import S3Objects

BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
IDENTITIES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
)
SIGNING = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def open_objects(
    uri: str, *, endpoint: str = "", region: str = "us-east-1", ca_file: str | None = None, what: str = "checkpoint.uri"
) -> Objects:
    """The store below `s3://bucket/prefix` or `file:///path`; `what` names the field in errors. Raises
    `StoreUriInvalid` or
    `CredentialsMissing`; reaches out only with the first call."""
    parts = urlsplit(uri)
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        return FileObjects(Path(unquote(parts.path)))
    if parts.scheme != "s3" or not BUCKET.fullmatch(parts.netloc):
        raise StoreUriInvalid(f"{what}: {uri!r} is no store; give s3://bucket/prefix or file:///path")
    if endpoint and not _is_endpoint(endpoint):
        shown = "a URL with a password" if "@" in endpoint else repr(endpoint)
        raise StoreUriInvalid(f"objectStore.endpoint: {shown} is not allowed; give http://host:port or https://host")
    if endpoint and not any(os.environ.get(name) for name in IDENTITIES):
        # Without this the client would ask for a cloud's metadata server, and wait for it.
        raise CredentialsMissing(
            f"{what}: no credentials for {endpoint}; name a Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in "
            "objectStore.credentialsSecret"
        )
    for name in SIGNING:
        value = os.environ.get(name, "")
        if value != value.strip() or not value.isprintable():
            raise CredentialsMissing(
                f"{what}: {name} holds white space or a line break; write the Secret again without it (echo -n)"
            )
    key = uri.removeprefix(f"s3://{parts.netloc}").strip("/")  # not parts.path: `?` and `#` may stand in keys
    prefix = f"{key}/" if key else ""
    return S3Objects(parts.netloc, prefix, endpoint=endpoint.rstrip("/"), region=region, ca=_read_ca(ca_file))


def _is_endpoint(endpoint: str) -> bool:
    try:
        parts = urlsplit(endpoint)
        return (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and (parts.port is None or parts.port > 0)
            and "@" not in parts.netloc
            and not any(c.isspace() for c in endpoint)
        )
    except ValueError:
        return False


def _read_ca(ca_file: str | None) -> bytes | None:
    if not ca_file:
        return None
    try:
        ca = Path(ca_file).read_bytes()
    except OSError as error:
        raise StoreUriInvalid(
            f"objectStore.caConfigMap: {ca_file}: {error.strerror}; the ConfigMap needs a key ca.crt"
        ) from None
    if b"-----BEGIN CERTIFICATE-----" not in ca:
        raise StoreUriInvalid(f"objectStore.caConfigMap: {ca_file} holds no PEM certificate; put one in its key ca.crt")
    return ca
