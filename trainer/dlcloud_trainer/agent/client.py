"""One kept-alive HTTP connection to the rendezvous server.

May import the standard library only. Reads the token anew for every request. When to ask again is decided in `links`.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .settings import SettingsError, read_token

if TYPE_CHECKING:
    import ssl

    from .settings import Settings

CONNECT_LIMIT_S = 5.0
MAX_BODY_BYTES = 4 * 1024 * 1024


class LinkError(Exception):
    """The operator could not be reached, or its answer not be understood; the text says why."""


class Client:
    """Requests of this pod, one at a time; a connection the server closed is opened again by itself."""

    def __init__(self, settings: Settings, limit_s: float) -> None:
        """`limit_s`: how long an answer may take. Raises SettingsError for an unusable DLCLOUD_CA."""
        parts = urlsplit(settings.url)
        try:
            self._host, self._port = parts.hostname or "", parts.port
        except ValueError:
            raise SettingsError(f"DLCLOUD_RENDEZVOUS_URL: {settings.url!r} has no usable port") from None
        self._base = parts.path + settings.path
        self._token_file, self._limit_s = settings.token_file, limit_s
        self._tls = _tls(settings.ca) if parts.scheme == "https" else None
        self._connection: http.client.HTTPConnection | None = None

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Status and body of the answer. Raises LinkError."""
        try:
            headers = {"Authorization": "Bearer " + read_token(self._token_file)}
        except SettingsError as error:
            raise LinkError(str(error)) from None
        if body is not None:
            headers["Content-Type"] = "application/json"
        kept = self._connection is not None
        try:
            return self._once(method, path, body, headers)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError) as error:
            self.close()
            if not kept:  # a kept connection may just have idled out: one new attempt is free
                raise LinkError(self._unreachable(error)) from None
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise LinkError(self._unreachable(error)) from None
        try:
            return self._once(method, path, body, headers)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise LinkError(self._unreachable(error)) from None

    def close(self) -> None:
        """Drop the connection; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _once(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = self._connect()
        self._connection.request(method, self._base + path, body, headers)
        response = self._connection.getresponse()
        data = response.read(MAX_BODY_BYTES + 1)
        if len(data) > MAX_BODY_BYTES:
            raise http.client.HTTPException(f"the answer is longer than {MAX_BODY_BYTES} bytes")
        if response.will_close:
            self.close()
        return response.status, data

    def _unreachable(self, error: BaseException) -> str:
        return f"cannot reach the operator at {self._host}:{self._port or 'default port'}: {_reason(error)}"

    def _connect(self) -> http.client.HTTPConnection:
        if self._tls is not None:
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                self._host, self._port, timeout=CONNECT_LIMIT_S, context=self._tls
            )
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=CONNECT_LIMIT_S)
        connection.connect()
        connection.sock.settimeout(self._limit_s)
        # A vanished node sends no reset: without probes a long poll would wait on it for its whole limit.
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (("TCP_KEEPIDLE", 5), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, option):
                with contextlib.suppress(OSError):
                    connection.sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
        return connection


def _tls(ca: str) -> ssl.SSLContext:
    try:
        import ssl
    except ImportError:
        raise SettingsError("DLCLOUD_RENDEZVOUS_URL is https, and this image's python3 has no ssl module") from None
    try:
        return ssl.create_default_context(cadata=ca or None)
    except (ssl.SSLError, ValueError):
        raise SettingsError("DLCLOUD_CA: not a certificate in PEM form") from None


def _reason(error: BaseException) -> str:
    if isinstance(error, (socket.timeout, TimeoutError)):
        return "no answer in time"
    if isinstance(error, http.client.RemoteDisconnected):
        return "the server closed the connection"
    return str(error) or type(error).__name__
