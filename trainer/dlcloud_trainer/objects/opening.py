"""From a URI to an object store, and from the environment to the keys for it.

May import the two stores and the sources of keys. Sends nothing, reads only the CA file and mounted keys.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from .base import Objects
from .credentials import ACCESS_KEY, CUSTOMER_KEY, FOLDER, KeySource, MountedKeys, StaticKeys, read_value
from .encryption import Encryption, parse_encryption
from .errors import CredentialsMissing, StoreUriInvalid
from .files import FileObjects
from .s3 import S3Objects
from .web_identity import ROLE, SESSION, STS, TOKEN_FILE, Role, WebIdentityKeys

BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
# What obstore's own client looks for: a cloud's metadata service for containers, or no signature at all.
LEFT_TO_THE_CLIENT = (
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
)


def open_objects(
    uri: str,
    *,
    endpoint: str = "",
    region: str = "us-east-1",
    ca_file: str | None = None,
    encryption: str = "",
    kms_key_id: str = "",
    what: str = "checkpoint.uri",
) -> Objects:
    """The store below `s3://bucket/prefix` or `file:///path`; `what` names the field in errors. `encryption` is empty,
    `SSE-S3`, `SSE-KMS` or `SSE-C`. Raises `StoreUriInvalid` or `CredentialsMissing`; reaches out only with the first
    call."""
    parts = urlsplit(uri)
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        return FileObjects(Path(unquote(parts.path)))
    if parts.scheme != "s3" or not BUCKET.fullmatch(parts.netloc):
        raise StoreUriInvalid(f"{what}: {uri!r} is no store; give s3://bucket/prefix or file:///path")
    if endpoint and not _is_endpoint(endpoint):
        shown = "a URL with a password" if "@" in endpoint else repr(endpoint)
        raise StoreUriInvalid(f"objectStore.endpoint: {shown} is not allowed; give http://host:port or https://host")
    ca = _read_ca(ca_file)
    keys = find_keys(os.environ, region=region, ca=ca, what=what)
    if isinstance(keys, MountedKeys):
        keys.get()  # files only: a Secret that cannot be right is known before the first request
    elif keys is None and endpoint and not any(os.environ.get(name) for name in LEFT_TO_THE_CLIENT):
        # Without this the client would ask for a cloud's metadata server, and wait for it.
        raise CredentialsMissing(
            f"{what}: no credentials for {endpoint}; name a Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in "
            "objectStore.credentialsSecret, or give the pod a web identity (AWS_WEB_IDENTITY_TOKEN_FILE, AWS_ROLE_ARN)"
        )
    key = uri.removeprefix(f"s3://{parts.netloc}").strip("/")  # not parts.path: `?` and `#` may stand in keys
    return S3Objects(
        parts.netloc,
        f"{key}/" if key else "",
        endpoint=endpoint.rstrip("/"),
        region=region,
        ca=ca,
        keys=keys,
        encryption=_encryption(encryption, kms_key_id, endpoint, os.environ),
    )


def find_keys(environ: Mapping[str, str], *, region: str, ca: bytes | None, what: str) -> KeySource | None:
    """The first source the environment names: mounted files, static keys, web identity; None when it names none of
    these. Raises `CredentialsMissing` for keys that cannot be right."""
    if folder := environ.get(FOLDER):
        return MountedKeys(Path(folder), what)
    if environ.get(ACCESS_KEY):
        return StaticKeys(environ, what)
    if token_file := environ.get(TOKEN_FILE):
        given = environ.get(STS, "").rstrip("/")
        if given and not _is_endpoint(given):
            raise StoreUriInvalid(f"{STS}: it is no address; give http://host:port or https://host")
        arn = environ.get(ROLE, "")
        if not arn and not given:
            raise CredentialsMissing(f"{what}: {ROLE} is missing beside {TOKEN_FILE}; give the role the pod may assume")
        domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
        session = environ.get(SESSION) or environ.get("DLCLOUD_POD") or "dlcloud"
        role = Role(Path(token_file), arn, session[:64], given or f"https://sts.{region}.{domain}")
        return WebIdentityKeys(role, ca, what)
    return None


def _encryption(kind: str, kms_key_id: str, endpoint: str, environ: Mapping[str, str]) -> Encryption | None:
    folder = environ.get(FOLDER)
    mounted = read_value(Path(folder) / CUSTOMER_KEY, "objectStore.encryption") if folder and kind == "SSE-C" else ""
    return parse_encryption(kind, kms_key_id, mounted or environ.get(CUSTOMER_KEY, ""), endpoint)


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
