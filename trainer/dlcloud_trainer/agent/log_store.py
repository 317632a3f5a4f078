"""Where a pod's output is kept: below the job's prefix in a bucket or in a folder. Writes objects, and nothing else.

May import the standard library only. Imported by the keeper's own thread once there is something to write: the agent's
start does not pay for it. No error's text holds a key or what was signed.
"""

from __future__ import annotations

import base64
import hashlib
import re
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

from .credentials import CredentialSource, NoCredentials
from .sigv4 import quote_path, sign

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

LIMIT_S = 10.0  # without a sign of life from the server
_TEMPORARY = ".dlcloud-"  # what the listing of a folder leaves out
_CODE = re.compile(rb"<Code>([A-Za-z]{1,64})</Code>")
_ANSWER_BYTES = 64 * 1024
_CONTENT_TYPE = "text/plain; charset=utf-8"


class NotKept(Exception):
    """An object could not be written; the text says why."""


class LogStore(Protocol):
    """Takes whole objects."""

    def put(self, key: str, data: bytes) -> None:
        """Write `data` under the prefix, whatever is there. Raises NotKept."""


class Place(NamedTuple):
    """A bucket behind a URL: what keys are appended to."""

    url: str  # with scheme and host, and a slash at its end
    path: str  # of the URL, quoted
    host: str


def open_store(job: Mapping[str, Any], env: Mapping[str, str]) -> LogStore:
    """The store of a job's own prefix. `job` as in the assignment. Raises NotKept for one that cannot be."""
    uri = str((job.get("checkpoint") or {}).get("uri") or "")
    parts = urlsplit(uri)
    if parts.scheme == "file" and not parts.netloc and parts.path.startswith("/"):
        return FolderStore(Path(unquote(parts.path)), env.get("DLCLOUD_POD", "pod"))
    if parts.scheme != "s3" or not parts.netloc:
        raise NotKept(f"checkpoint.uri: {uri!r} is no store")
    return S3Store(uri, job.get("objectStore") or {}, env)


class FolderStore:
    """Objects as files below a folder."""

    def __init__(self, root: Path, writer: str) -> None:
        self._root, self._writer = root, writer

    def put(self, key: str, data: bytes) -> None:
        """Write a file beside and rename it: a reader sees the old or the new content, never half of it."""
        path = self._root / key
        temporary = path.parent / (_TEMPORARY + self._writer)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(data)
            temporary.replace(path)
        except OSError as error:
            raise NotKept(f"{path}: {error.strerror or type(error).__name__}") from None


class S3Store:
    """Objects of a bucket, each a signed PUT."""

    def __init__(self, uri: str, settings: Mapping[str, Any], env: Mapping[str, str]) -> None:
        """`settings`: the assignment's objectStore. Raises NotKept for an unusable address or CA."""
        bucket, _, key = uri[len("s3://") :].partition("/")
        self._prefix = key.strip("/") + "/" if key.strip("/") else ""
        self._region = str(settings.get("region") or env.get("AWS_REGION") or "us-east-1")
        endpoint = str(settings.get("endpoint") or env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL") or "")
        self._place = find_place(bucket, endpoint, self._region)
        if self._place.url.startswith("http://") and (settings.get("encryption") or {}).get("type") == "SSE-C":
            raise NotKept("objectStore.encryption: SSE-C would send its key in the clear; give an https:// endpoint")
        self._headers = {"host": self._place.host, "content-type": _CONTENT_TYPE}
        self._headers.update(encryption_headers(settings.get("encryption"), customer_key(env)))
        tls = _tls(env.get("DLCLOUD_STORE_CA_FILE", ""))
        self._credentials = CredentialSource(env, self._region, tls)
        self._signed = env.get("AWS_SKIP_SIGNATURE", "").lower() not in ("1", "true", "yes", "on")
        handlers = [urllib.request.HTTPSHandler(context=tls)] if tls is not None else []
        self._opener = urllib.request.build_opener(*handlers)

    def put(self, key: str, data: bytes) -> None:
        """One PUT of the whole object."""
        try:
            self._send(quote_path(self._prefix + key), data)
        except urllib.error.HTTPError as error:
            with error:
                code = _CODE.search(error.read(_ANSWER_BYTES))
            if error.code in (400, 401, 403):
                self._credentials.forget()
            said = " " + code[1].decode() if code else ""
            raise NotKept(f"{self._place.host} answers {error.code}{said} to the PUT") from None
        except NoCredentials as error:
            raise NotKept(str(error)) from None
        except urllib.error.URLError as error:
            raise NotKept(f"cannot reach {self._place.host}: {_reason(error.reason)}") from None
        except (OSError, ValueError) as error:
            raise NotKept(f"cannot reach {self._place.host}: {_reason(error)}") from None
        except Exception as error:  # http.client has errors that are no OSError; a text of theirs may quote the request
            raise NotKept(f"cannot reach {self._place.host}: {type(error).__name__}") from None

    def _send(self, quoted: str, data: bytes) -> None:
        headers = dict(self._headers)
        if self._signed:
            keys = self._credentials.get()
            headers = sign("PUT", self._place.path + quoted, headers, data, keys, self._region, time.time())
        request = urllib.request.Request(self._place.url + quoted, data, headers, method="PUT")
        with self._opener.open(request, timeout=LIMIT_S) as answer:
            answer.read(_ANSWER_BYTES)


def find_place(bucket: str, endpoint: str, region: str) -> Place:
    """Path style at an endpoint of one's own, virtual-host style at AWS. Raises NotKept for a wrong endpoint."""
    if not endpoint:
        domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
        if "." not in bucket:
            host = f"{bucket}.s3.{region}.{domain}"
            return Place(f"https://{host}/", "/", host)
        endpoint = f"https://s3.{region}.{domain}"  # no certificate of theirs covers a name with more dots
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.netloc or "@" in parts.netloc:
        raise NotKept("objectStore.endpoint is no URL; give http://host:port or https://host")
    path = f"{quote_path(unquote(parts.path)).rstrip('/')}/{bucket}/"
    return Place(f"{parts.scheme}://{parts.netloc}{path}", path, parts.netloc)


def encryption_headers(encryption: object, own_key: str = "") -> dict[str, str]:
    """What objectStore.encryption asks of every PUT, empty for none. `own_key` (base64) is for SSE-C. Raises NotKept
    when that is no key, and for a way of a newer operator: better no object than one that anybody can read."""
    fields = encryption if isinstance(encryption, dict) else {"type": encryption}
    kind, key = str(fields.get("type") or ""), str(fields.get("kmsKeyId") or "")
    name = "x-amz-server-side-encryption"
    if kind == "SSE-S3":
        return {name: "AES256"}
    if kind == "SSE-KMS":
        return {name: "aws:kms", **({f"{name}-aws-kms-key-id": key} if key else {})}
    if kind == "SSE-C":
        try:
            if not own_key:
                raise NotKept("objectStore.encryption: SSE-C needs AWS_SSE_CUSTOMER_KEY_BASE64 in the Secret")
            digest = hashlib.md5(base64.b64decode(own_key, validate=True), usedforsecurity=False).digest()
        except ValueError:
            raise NotKept("AWS_SSE_CUSTOMER_KEY_BASE64 is not base64") from None
        told = {"algorithm": "AES256", "key": own_key, "key-md5": base64.b64encode(digest).decode()}
        return {f"{name}-customer-{part}": value for part, value in told.items()}
    if kind:
        raise NotKept(f"objectStore.encryption.type: {kind!r} is unknown here; use an image with a newer agent")
    return {}


def customer_key(env: Mapping[str, str]) -> str:
    """The key for SSE-C: from the mounted Secret, else from the environment; empty without one."""
    name, folder = "AWS_SSE_CUSTOMER_KEY_BASE64", env.get("DLCLOUD_STORE_CREDENTIALS_DIR")
    try:
        return Path(folder, name).read_text("utf-8").strip() if folder else env.get(name, "")
    except (OSError, UnicodeDecodeError):
        return env.get(name, "")


def _tls(ca_file: str) -> ssl.SSLContext | None:
    try:
        import ssl
    except ImportError:  # an image's python3 may be built without: plain HTTP still works
        return None
    context = ssl.create_default_context()
    if ca_file:
        try:
            context.load_verify_locations(ca_file)
        except (OSError, ValueError):
            raise NotKept(f"objectStore.caConfigMap: {ca_file} is no certificate in PEM form") from None
    return context


def _reason(error: object) -> str:
    if isinstance(error, TimeoutError) or type(error).__name__ == "timeout":
        return "no answer in time"
    if isinstance(error, str):
        return error
    if isinstance(error, OSError):
        return error.strerror or str(error) or type(error).__name__
    return type(error).__name__
