"""How the object store of a job in a cluster is reached from this machine.

May import this package, and minio to delete. Keys come from the job's Secret where the user may read it, else from the
user's environment; they are never printed.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from dlcloud_operator.api import ObjectStore

from ..objects import Access
from ..store import CUSTOMER_KEY
from .errors import JobsError, Unreachable
from .kube import KubeApi
from .kube_errors import KubeError

ENDPOINT_VARIABLE = "AWS_ENDPOINT_URL"
_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@contextlib.contextmanager
def store_access(
    api: KubeApi, namespace: str, store: ObjectStore, endpoint: str, environ: Mapping[str, str]
) -> Iterator[Access]:
    """Access to the job's store while the context lasts; `endpoint` wins over the manifest's. Raises JobsError."""
    given = endpoint or environ.get(ENDPOINT_VARIABLE, "")
    address = given or store.endpoint or f"https://s3.{store.region}.amazonaws.com"
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        raise JobsError(f"--endpoint: {address!r} is not an S3 server's address; give http://host:port or https://host")
    _must_resolve(api, address, given, namespace)
    keys = _keys(api, namespace, store, environ)
    with contextlib.ExitStack() as files:
        ca_file = files.enter_context(_ca_file(api, namespace, store.ca_config_map, environ))
        yield Access(
            endpoint=f"{parts.scheme}://{parts.netloc}",
            access_key=keys["AWS_ACCESS_KEY_ID"],
            secret_key=keys["AWS_SECRET_ACCESS_KEY"],
            session_token=keys.get("AWS_SESSION_TOKEN", ""),
            customer_key=keys.get(CUSTOMER_KEY, ""),
            region=store.region,
            ca_file=ca_file,
        )


def forwarding(address: str, namespace: str, alias: str = "") -> str:
    """What to do about an address that only the cluster's own DNS knows; a bare name is one of the job's namespace.

    `alias`: the externalName of the Service of this name, if it has one: only what is behind it can be forwarded.
    """
    parts = urlsplit(address)
    host = alias if "svc" in alias.split(".") else parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    local = port if port >= 1024 else port + 9000
    labels = host.split(".")
    in_cluster = len(labels) == 1 or "svc" in labels or "cluster" in labels
    if not in_cluster:
        return f"correct the name, or give --endpoint URL (or {ENDPOINT_VARIABLE}) with an address known here"
    where = f"-n {labels[1] if len(labels) > 1 and labels[1] not in ('svc', 'cluster') else namespace} "
    return (
        f"it is an address inside the cluster; in another shell: kubectl port-forward {where}svc/{labels[0]} "
        f"{local}:{port}, and here: --endpoint {parts.scheme}://127.0.0.1:{local} (or export {ENDPOINT_VARIABLE}=...)"
    )


def _must_resolve(api: KubeApi, address: str, given: str, namespace: str) -> None:
    host = urlsplit(address).hostname or ""
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError):
        what = "--endpoint" if given else "spec.objectStore.endpoint"
        advice = forwarding(address, namespace, _alias(api, host, namespace))
        raise Unreachable(f"{what}: the name {host} does not resolve on this machine; {advice}") from None


def _alias(api: KubeApi, host: str, namespace: str) -> str:
    """What the job's namespace has behind a bare name, where that is another name; "" otherwise, or if unknown."""
    if "." in host:
        return ""
    try:
        service = api.get(f"/api/v1/namespaces/{namespace}/services/{host}")
    except KubeError:
        return ""
    return str((service.get("spec") or {}).get("externalName") or "")


def _keys(api: KubeApi, namespace: str, store: ObjectStore, environ: Mapping[str, str]) -> Mapping[str, str]:
    """From the Secret if there is one and the user may read it, else from the environment. Raises JobsError."""
    name, why = store.credentials_secret, "the job names no credentialsSecret: its pods have an identity of their own"
    if name:
        try:
            found = secret_data(api.get(f"/api/v1/namespaces/{namespace}/secrets/{name}"))
        except KubeError as error:
            if error.status not in (403, 404):
                raise
            what = "you may not read it" if error.status == 403 else "it does not exist"
            why = f"Secret {name} of namespace {namespace}: {what}"
        else:
            missing = [key for key in _KEYS if not found.get(key)]
            if not missing:
                return found
            why = f"Secret {name} of namespace {namespace}: has no {' and no '.join(missing)}"
    if all(environ.get(key) for key in _KEYS):
        return environ
    raise JobsError(
        f"no keys for the object store: {why}; have the right to get this Secret, or export {' and '.join(_KEYS)}"
        if name
        else f"no keys for the object store: {why}; export {' and '.join(_KEYS)} of your own"
    )


def secret_data(secret: Any) -> dict[str, str]:
    """The decoded values of a Secret."""
    values: dict[str, str] = {}
    for key, value in (secret.get("data") or {}).items():
        with contextlib.suppress(binascii.Error, ValueError):
            values[key] = base64.b64decode(value, validate=True).decode("utf-8")
    return values


@contextlib.contextmanager
def _ca_file(api: KubeApi, namespace: str, config_map: str, environ: Mapping[str, str]) -> Iterator[str]:
    """A file with the CA: the user's own, else the job's ConfigMap as a file while the context lasts."""
    own = environ.get("AWS_CA_BUNDLE", "")
    if own or not config_map:
        yield own
        return
    try:
        text = (api.get(f"/api/v1/namespaces/{namespace}/configmaps/{config_map}").get("data") or {}).get("ca.crt", "")
    except KubeError as error:
        if error.status not in (403, 404):
            raise
        what = "you may not read it" if error.status == 403 else "it does not exist"
        raise JobsError(
            f"ConfigMap {config_map} of namespace {namespace} with the CA of the object store: {what}; have the right "
            "to get it, or set AWS_CA_BUNDLE to a file with the CA"
        ) from None
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise JobsError(
            f"ConfigMap {config_map} of namespace {namespace} has no PEM certificate in ca.crt; put it there, or set "
            "AWS_CA_BUNDLE to a file with the CA"
        )
    with tempfile.TemporaryDirectory(prefix="dlcloud-ca-") as folder:
        file = Path(folder) / "ca.crt"
        file.write_text(text, encoding="utf-8")
        yield str(file)
