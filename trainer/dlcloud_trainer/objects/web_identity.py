"""Keys lent by a security token service (STS) to whoever shows the pod's web identity token.

May import the standard library, credentials and errors. Written for what obstore's own client does not do: a service
at http://, a CA of one's own, errors that name the setting. Must never put a token, a key or the service's words into a
message.
"""

from __future__ import annotations

import http.client
import re
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode, urlsplit
from xml.etree import ElementTree

from .credentials import Keys, read_value
from .errors import AccessDenied, CredentialsMissing, StoreUnreachable, StoreUnusable

TOKEN_FILE, ROLE, SESSION, STS = (
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_ROLE_SESSION_NAME",
    "AWS_ENDPOINT_URL_STS",
)
ANSWER_S = 4.0
ANSWER_BYTES = 64 * 1024
EARLY_S = 300.0  # keys are renewed this long before their end, or when two thirds of their life are over
UNKNOWN_LIFE_S = 900.0  # of keys whose end the service does not tell
AGAIN_S = 10.0  # between two tries to replace keys that are refused, or to renew keys that still last


@dataclass(frozen=True)
class Lent:
    """Keys and when they end, in seconds since the epoch."""

    keys: Keys
    ends_at: float


@dataclass(frozen=True)
class Role:
    """What is asked for, and where. `arn` may be empty for a service that takes the rights from the token."""

    token_file: Path = field(repr=False)
    arn: str
    session: str
    endpoint: str


class WebIdentityKeys:
    """Keys for a role; asked for with the first `get`, renewed before they end. The token's file is read each time:
    it rotates too."""

    def __init__(self, role: Role, ca: bytes | None, what: str, now: Callable[[], float] = time.time) -> None:
        self.rotates_in = f"the token service {role.endpoint}"
        self._role, self._ca, self._what, self._now = role, ca, what, now
        self._lock = threading.Lock()
        self._lent: Lent | None = None
        self._renew_at, self._replaced_at = 0.0, float("-inf")

    def get(self) -> Keys:
        with self._lock:
            now, lent = self._now(), self._lent
            if lent is None or now >= self._renew_at:
                try:
                    lent = self._renew()
                except StoreUnusable:
                    if lent is None or now >= lent.ends_at:
                        raise
                    self._renew_at = now + AGAIN_S
            return lent.keys

    def replace(self, refused: Keys) -> bool:
        with self._lock:
            if self._lent is not None and self._lent.keys != refused:
                return True
            if self._now() - self._replaced_at < AGAIN_S:
                return False  # a right is missing rather than a key: the service is not asked at every request
            self._replaced_at = self._now()
            return self._renew().keys != refused

    def _renew(self) -> Lent:
        now = self._now()
        lent = self._lent = assume_role(self._role, self._ca, self._what, now)
        life_s = max(0.0, lent.ends_at - now)
        self._renew_at = lent.ends_at - min(EARLY_S, life_s / 3)
        return lent


def assume_role(role: Role, ca: bytes | None, what: str, now: float) -> Lent:
    """One AssumeRoleWithWebIdentity. Raises `CredentialsMissing`, `AccessDenied`, `StoreUnreachable`."""
    token = read_value(role.token_file, what)
    if not token:
        raise CredentialsMissing(f"{what}: {TOKEN_FILE}: {role.token_file} is missing or empty")
    query = {"Action": "AssumeRoleWithWebIdentity", "Version": "2011-06-15", "WebIdentityToken": token}
    if role.arn:
        query |= {"RoleArn": role.arn, "RoleSessionName": role.session}
    status, answer = _post(role.endpoint, urlencode(query), ca, what)
    if status != 200:
        found = re.search(rb"<Code>\s*([A-Za-z0-9.]{1,64})\s*</Code>", answer)
        code = found[1].decode() if found else str(status)
        if status >= 500 or status in (408, 429) or code == "Throttling":
            raise StoreUnreachable(f"{what}: the token service {role.endpoint} answers {code}; it is asked again")
        if code == "ExpiredTokenException":
            raise StoreUnreachable(
                f"{what}: the token service {role.endpoint} says that the web identity token in {role.token_file} is "
                "too old; it is read again when it was renewed"
            )
        raise AccessDenied(
            f"{what}: the token service {role.endpoint} refused ({code}); check {ROLE} and that it trusts the issuer, "
            f"audience and subject of the token in {role.token_file}"
        )
    return _parse(answer, role, what, now)


def _parse(answer: bytes, role: Role, what: str, now: float) -> Lent:
    try:
        fields = {one.tag.rpartition("}")[2]: (one.text or "").strip() for one in ElementTree.fromstring(answer).iter()}
        keys = Keys(fields["AccessKeyId"], fields["SecretAccessKey"], fields["SessionToken"])
    except (ElementTree.ParseError, KeyError):
        raise StoreUnusable(f"{what}: {role.endpoint} did not answer as a token service; correct {STS}") from None
    try:
        ends_at = datetime.fromisoformat(fields.get("Expiration", "")).replace(tzinfo=UTC).timestamp()
    except ValueError:
        ends_at = now + UNKNOWN_LIFE_S
    return Lent(keys, ends_at)


def _post(endpoint: str, body: str, ca: bytes | None, what: str) -> tuple[int, bytes]:
    """In the body, not the URL: servers and proxies log URLs, and the token is as good as a key."""
    parts = urlsplit(endpoint)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl.create_default_context()
        if ca is not None:
            context.load_verify_locations(cadata=ca.decode("ascii", "replace"))
        connection = http.client.HTTPSConnection(parts.netloc, timeout=ANSWER_S, context=context)
    else:
        connection = http.client.HTTPConnection(parts.netloc, timeout=ANSWER_S)
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Connection": "close"}
    try:
        connection.request("POST", parts.path or "/", body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read(ANSWER_BYTES)
    except ssl.SSLCertVerificationError:
        why = "shows a certificate that is not trusted (name its CA in objectStore.caConfigMap)"
    except TimeoutError:
        why = "does not answer in time"
    except OSError as error:
        why = f"is not reachable ({error.strerror or type(error).__name__})"
    except http.client.HTTPException as error:
        why = f"does not speak HTTP ({type(error).__name__})"
    finally:
        connection.close()
    raise StoreUnreachable(f"{what}: the token service {endpoint} {why}; check {STS} and the network")
