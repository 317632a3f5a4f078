"""Where the keys for the object store come from: files that rotate, the environment, or the pod's own identity.

May import the standard library only. Must never put a key, a token or a server's answer into an error's text.
"""

from __future__ import annotations

import calendar
import json
import os
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode
from xml.etree import ElementTree

from .sigv4 import Credentials

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

NAMES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
LIMIT_S = 10.0
EARLY_S = 300.0  # borrowed keys are renewed this long before their end
_LIFE_S = 900.0  # of keys whose end nobody told
_ANSWER_BYTES = 64 * 1024
_CONTAINER_HOST = "http://169.254.170.2"


class NoCredentials(Exception):
    """There is nothing to sign with; the text says what was looked at."""


class CredentialSource:
    """The keys of this moment, for one request: ask again for the next."""

    def __init__(self, env: Mapping[str, str], region: str, tls: ssl.SSLContext | None) -> None:
        self._env, self._region, self._tls = env, region, tls
        self._borrowed: Credentials | None = None
        self._renew_at = 0.0  # seconds since the epoch

    def get(self) -> Credentials:
        """Raises NoCredentials."""
        folder = self._env.get("DLCLOUD_STORE_CREDENTIALS_DIR")
        found = read_folder(Path(folder)) if folder else None
        if found is None:
            found = _from_values({name: self._env.get(name, "") for name in NAMES})
        if found is not None:
            return found
        if self._borrowed is None or time.time() >= self._renew_at:
            self._borrowed, ends = self._borrow()
            self._renew_at = max(ends - EARLY_S, time.time() + 1)
        return self._borrowed

    def forget(self) -> None:
        """The store refused them: borrowed keys are asked for anew."""
        self._borrowed = None

    def _borrow(self) -> tuple[Credentials, float]:
        env = self._env
        # MinIO takes the rights from the token itself: a service of one's own may need no role.
        if env.get("AWS_WEB_IDENTITY_TOKEN_FILE") and (env.get("AWS_ROLE_ARN") or env.get("AWS_ENDPOINT_URL_STS")):
            return self._assume_role()
        full, relative = (env.get(f"AWS_CONTAINER_CREDENTIALS_{kind}_URI") for kind in ("FULL", "RELATIVE"))
        if full or relative:
            return self._ask_container(full or f"{_CONTAINER_HOST}{relative}")
        raise NoCredentials("no credentials: neither a Secret's AWS_ACCESS_KEY_ID nor an identity of the pod's own")

    def _assume_role(self) -> tuple[Credentials, float]:
        env = self._env
        query = {
            "Action": "AssumeRoleWithWebIdentity",
            "Version": "2011-06-15",
            "WebIdentityToken": _read_text(env["AWS_WEB_IDENTITY_TOKEN_FILE"]),
        }
        if env.get("AWS_ROLE_ARN"):
            session = env.get("AWS_ROLE_SESSION_NAME") or env.get("DLCLOUD_POD") or "dlcloud"
            query.update(RoleArn=env["AWS_ROLE_ARN"], RoleSessionName=session[:64])
        domain = "amazonaws.com.cn" if self._region.startswith("cn-") else "amazonaws.com"
        endpoint = env.get("AWS_ENDPOINT_URL_STS") or f"https://sts.{self._region}.{domain}"
        # In the body: servers and proxies log URLs, and the token is as good as a key.
        answer = self._fetch(f"{endpoint.rstrip('/')}/", {}, urlencode(query).encode())
        try:
            tree = ElementTree.fromstring(answer)
            fields = {element.tag.rpartition("}")[2]: element.text or "" for element in tree.iter()}
            keys = Credentials(fields["AccessKeyId"], fields["SecretAccessKey"], fields["SessionToken"])
        except (ElementTree.ParseError, KeyError):
            raise NoCredentials("the token service's answer holds no credentials") from None
        return keys, _end(fields.get("Expiration", ""))

    def _ask_container(self, url: str) -> tuple[Credentials, float]:
        file, token = (self._env.get(f"AWS_CONTAINER_AUTHORIZATION_TOKEN{kind}") for kind in ("_FILE", ""))
        token = _read_text(file) if file else token
        answer = self._fetch(url, {"Authorization": token} if token else {})
        try:
            fields = json.loads(answer)
            keys = Credentials(fields["AccessKeyId"], fields["SecretAccessKey"], fields.get("Token") or "")
        except (ValueError, KeyError, TypeError):
            raise NoCredentials("the pod identity's answer holds no credentials") from None
        return keys, _end(str(fields.get("Expiration", "")))

    def _fetch(self, url: str, headers: dict[str, str], body: bytes | None = None) -> bytes:
        handlers = [urllib.request.HTTPSHandler(context=self._tls)] if self._tls is not None else []
        request = urllib.request.Request(url, body, headers)
        try:
            with urllib.request.build_opener(*handlers).open(request, timeout=LIMIT_S) as answer:
                return bytes(answer.read(_ANSWER_BYTES))
        except urllib.error.HTTPError as error:
            error.close()
            raise NoCredentials(f"the pod's identity was refused ({error.code})") from None
        except OSError as error:
            raise NoCredentials(f"no answer about the pod's identity ({type(error).__name__})") from None


def read_folder(folder: Path) -> Credentials | None:
    """The keys in a mounted Secret, None when it has none.

    The kubelet exchanges the whole Secret by turning the link `..data`: read through it only once, key and secret are
    of one version.
    """
    for _ in range(2):
        version = folder / "..data"
        base = Path(os.path.realpath(version)) if version.is_symlink() else folder
        values = {name: _read_text(base / name, missing_is_empty=True) for name in NAMES}
        if base.is_dir():  # else it was exchanged and removed while it was read
            return _from_values(values)
    return None


def _from_values(values: Mapping[str, str]) -> Credentials | None:
    access, secret, token = (values[name].strip() for name in NAMES)
    return Credentials(access, secret, token) if access and secret else None


def _read_text(path: Path | str, missing_is_empty: bool = False) -> str:
    try:
        return Path(path).read_text("utf-8").strip()
    except FileNotFoundError:
        if missing_is_empty:
            return ""
        raise NoCredentials(f"no credentials: {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise NoCredentials(f"no credentials: cannot read {path}: {reason}") from None


def _end(text: str) -> float:
    """Seconds since the epoch of an RFC 3339 time in UTC."""
    try:
        return float(calendar.timegm(time.strptime(text[:19], "%Y-%m-%dT%H:%M:%S")))
    except ValueError:
        return time.time() + _LIFE_S
