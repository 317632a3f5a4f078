"""What an API server, or the way to it, answers instead of success: one class, and sentences for the user.

May import the standard library and urllib3. No message ever holds a token: none quotes a header.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dlcloud_operator.api import GROUP

from .errors import JobsError, Unreachable

PLURAL = "trainingjobs"
CRD_NAME = f"{PLURAL}.{GROUP}"
CRD_COMMAND = "python3 -m dlcloud_operator.api.crd --out - | kubectl apply --server-side -f -"
_FORBIDDEN = re.compile(
    r'User "(?P<user>[^"]*)" cannot (?P<verb>[a-z]+) resource "(?P<resource>[^"]+)" in API group "(?P<group>[^"]*)"'
    r'(?: in the namespace "(?P<namespace>[^"]+)")?'
)


class KubeError(JobsError):
    """A request failed. `status` is the HTTP status, 0 when no answer came."""

    def __init__(
        self, message: str, status: int = 0, reason: str = "", details: Mapping[str, Any] | None = None, said: str = ""
    ):
        super().__init__(message)
        self.said = said  # the server's own words
        self.status = status
        self.reason = reason
        self.details = details or {}


class KubeUnreachable(KubeError, Unreachable):
    """No answer, one that asks to come again, or credentials that are refused."""


@dataclass(frozen=True)
class Server:
    """Whom a message is about."""

    address: str
    context: str
    user: str

    def __str__(self) -> str:
        return f"the API server {self.address} (context {self.context})"


def refused(server: Server, status: int, body: bytes) -> KubeError:
    """The error for an answer that is no success."""
    answer = _status_of(body)
    reason, said = str(answer.get("reason") or ""), str(answer.get("message") or "").strip()
    details = answer.get("details") if isinstance(answer.get("details"), Mapping) else {}
    if status == 401:
        text = f"{server} does not accept the credentials of user {server.user!r} (401): they are wrong or expired; "
        text += "log in to the cluster again, or get a new kubeconfig"
    elif status == 403:
        text = _forbidden(server, said)
    elif status == 404 and not answer:
        text = (
            f"{server} knows no TrainingJobs: the CRD {CRD_NAME} is not installed; an administrator installs it with: "
            f"{CRD_COMMAND}"
        )
    elif status in (400, 409, 422) and said:
        text = said
    else:
        text = f"{server} answered {status}{': ' + said if said else ''}"
        text += "; try again in a moment" if status == 429 or status >= 500 else ""
    kind = KubeUnreachable if status in (401, 429) or status >= 500 else KubeError
    return kind(text, status, reason, details, said)


def field_errors(error: KubeError) -> list[tuple[str, str]]:
    """Of a refused object: each field's path and what the server says about it."""
    found = []
    for cause in error.details.get("causes") or []:
        field, message = str(cause.get("field") or ""), str(cause.get("message") or "")
        # The server repeats: `Invalid value: 0: spec.workers.count in body should be ...`
        message = re.sub(rf"^(Invalid value: .*?: )?{re.escape(field)} in body ", r"\1", message) if field else message
        found.append((field if field != "<nil>" else "", message))
    return list(dict.fromkeys(found))


def unreachable(server: Server, error: Exception) -> KubeError:
    """The error for a connection that failed; `error` is urllib3's or the system's."""
    from urllib3 import exceptions

    text = str(error)
    if isinstance(error, exceptions.NameResolutionError) or "Name or service not known" in text:
        why = "its host name does not resolve"
    elif isinstance(error, exceptions.ProxyError):
        why = "the proxy of the kubeconfig, or of HTTPS_PROXY, does not let us through"
    elif isinstance(error, exceptions.SSLError):
        return KubeUnreachable(f"{server}: {_tls(text)}")
    elif "Connection refused" in text:
        why = "it refuses connections"
    elif isinstance(error, exceptions.TimeoutError) or "timed out" in text:
        why = "no answer in time"
    elif isinstance(error, exceptions.LocationParseError | exceptions.LocationValueError):
        why = "that is no address"
    else:
        why = next((word for word in ("No route to host", "Network is unreachable") if word in text), "it hung up")
    return KubeUnreachable(f"{server} cannot be reached: {why}; is the cluster up, and is this the context you mean?")


def _tls(text: str) -> str:
    found = re.search(r"certificate verify failed: ([^(\[\]]+)", text)
    if found:
        return (
            f"its certificate is not accepted: {found[1].strip()}; correct certificate-authority in the kubeconfig, or "
            "get a new one"
        )
    return "the TLS handshake failed; correct the server's address (https or http) or the client certificate"


def _status_of(body: bytes) -> Mapping[str, Any]:
    """The server's Status object, empty when the body is none."""
    try:
        answer = json.loads(body)
    except ValueError:
        return {}
    return answer if isinstance(answer, Mapping) and answer.get("kind") == "Status" else {}


def _forbidden(server: Server, said: str) -> str:
    found = _FORBIDDEN.search(said)
    if found is None:
        return f"{server} forbids it (403): {said or 'no reason given'}; ask an administrator"
    where = f"in namespace {found['namespace']}" if found["namespace"] else "in the whole cluster"
    who = "a user it does not know (no credentials were sent)" if "anonymous" in found["user"] else repr(found["user"])
    role = "Role" if found["namespace"] else "ClusterRole"
    return (
        f"{server} does not let {who} {found['verb']} {found['resource']} {where} (403); ask an administrator for a "
        f"{role} with apiGroups [{found['group']!r}], resources [{found['resource']!r}], verbs [{found['verb']!r}]"
    )
