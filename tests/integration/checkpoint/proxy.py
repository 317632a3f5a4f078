"""An HTTP/1.1 proxy in front of an object store that can lose, hold, cut, slow down and refuse what passes.

May import the standard library only. It never changes a header or a byte unless a fault says so: the signatures of the
requests stay valid, because the client's `Host` is passed on.

    with Proxy(s3_server.endpoint).running() as proxy:
        proxy.on("PUT", "head.json", Fault(reply=0.0), times=1)     # the server commits, the client hears nothing
        proxy.on("GET", "/attempts/", Fault(status=503))            # until further notice
        proxy.clear()
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

CHUNK_BYTES = 1 << 16
UPSTREAM_S = 120.0
HOPS = ("connection", "transfer-encoding", "keep-alive", "expect")


@dataclass
class Request:
    """One request as it passed; `number` counts from 0 for each proxy (or since `forget`)."""

    number: int
    method: str
    path: str  # with the query, percent-encoding removed
    size_bytes: int = 0  # of its body
    status: int = 0  # what the store answered, 0 while it has not


Call = Callable[[Request], Any]


@dataclass(frozen=True)
class Fault:
    """What happens to a request; the fields act in this order. Without any it passes."""

    delay_s: float = 0.0
    before: Call | None = None  # called before a byte was forwarded
    refuse: bool = False  # hang up, nothing is forwarded
    status: int = 0  # answer so, nothing is forwarded
    code: str = ""  # the S3 error code of that answer
    headers: tuple[tuple[str, str], ...] = ()  # of that answer
    without: tuple[str, ...] = ()  # headers the store does not get
    forward: float = 1.0  # part of the body the store gets first; less than 1: then hang up on both sides
    midway: Call | None = None  # called when that part is with the store
    resume: bool = False  # do not hang up there: the store gets the rest after `midway`
    bytes_per_s: float = 0.0  # of the body and of the answer's; 0: as fast as it goes
    after: Call | None = None  # called when the store has answered and the client has not heard it
    reply: float | None = (
        None  # part of the answer's body the client gets, its head says all; 0: hang up without a word
    )
    edit: Callable[[bytes], bytes] | None = None  # the answer's body, another of the same length


PASS = Fault()
REFUSE = Fault(refuse=True)
LOSE_REPLY = Fault(reply=0.0)
WORDS = {"": PASS, "refuse": REFUSE, "lose reply": LOSE_REPLY}


@dataclass
class Rule:
    """A fault for matching requests: the first `skip` of them pass, `times` are met (None: all that follow)."""

    method: str
    path: re.Pattern[str]
    fault: Fault
    skip: int
    times: int | None
    met: int = 0  # requests this fault has hit

    def takes(self, request: Request) -> bool:
        if self.method not in ("", request.method) or not self.path.search(request.path):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None and self.met >= self.times:
            return False
        self.met += 1
        return True


@dataclass
class Proxy:
    """Forwards to `upstream` (a URL, may be changed while it runs). `rule(method, path)` is asked when no `on` rule
    takes a request, and answers a `Fault`, or "" pass, "lose reply", "refuse", or a status like "503"."""

    upstream: str
    tls: ssl.SSLContext | None = None
    rule: Callable[[str, str], str | Fault] = lambda method, path: ""
    requests: list[Request] = field(default_factory=list)
    _rules: list[Rule] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _open: int = 0
    _port: int = 0
    _server: _Server | None = None
    _thread: threading.Thread | None = None

    @property
    def endpoint(self) -> str:
        """Its URL; stays the same over `stop` and `start`."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self._port}"

    @property
    def seen(self) -> list[tuple[str, str]]:
        """Method and path of every request so far."""
        return [(one.method, one.path) for one in self.requests]

    def on(self, method: str, path: str, fault: Fault, *, skip: int = 0, times: int | None = None) -> Rule:
        """Add a rule; `method` "" is any, `path` a regular expression that is searched for. Earlier rules go first."""
        rule = Rule(method, re.compile(path), fault, skip, times)
        with self._changed:
            self._rules.append(rule)
        return rule

    def clear(self) -> None:
        """No rules any more."""
        with self._changed:
            self._rules.clear()
        self.rule = lambda method, path: ""

    def forget(self) -> None:
        """Count from 0 again."""
        with self._changed:
            self.requests.clear()

    def start(self) -> None:
        """Accept connections."""
        if self._server is None:
            self._server = _Server(("127.0.0.1", self._port), _handler(self))
            if self.tls is not None:
                self._server.socket = self.tls.wrap_socket(
                    self._server.socket, server_side=True, do_handshake_on_connect=False
                )
            self._port = self._server.server_address[1]
            serve = self._server.serve_forever
            self._thread = threading.Thread(target=serve, kwargs={"poll_interval": 0.02}, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Refuse new connections and cut the open ones, as a server that went away."""
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server.cut()
            self._thread.join(10)
            self._server = None

    def settle(self, limit_s: float = 30.0) -> None:
        """Wait until no request is under way; raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._open == 0, limit_s):
                raise TimeoutError(f"{self._open} requests are still under way after {limit_s:.0f} s")

    @contextmanager
    def running(self) -> Iterator[Proxy]:
        self.start()
        try:
            yield self
        finally:
            self.stop()

    def _enter(self, method: str, path: str, size_bytes: int) -> tuple[Request, Fault]:
        with self._changed:
            request = Request(len(self.requests), method, path, size_bytes)
            self.requests.append(request)
            self._open += 1
            fault = next((rule.fault for rule in self._rules if rule.takes(request)), None)
        if fault is None:  # outside the lock: the rule may wait
            said = self.rule(method, path)
            fault = said if isinstance(said, Fault) else WORDS.get(said) or Fault(status=int(said))
        return request, fault

    def _leave(self) -> None:
        with self._changed:
            self._open -= 1
            self._changed.notify_all()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *arguments: Any) -> None:
        self._connections: set[socket.socket] = set()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, *_: Any) -> None:
        """One side hung up: part of the tests."""


def _handler(proxy: Proxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def meet(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            request: Request | None = None
            try:
                request, fault = proxy._enter(self.command, unquote(self.path), size)
                if fault.delay_s:
                    time.sleep(fault.delay_s)
                if fault.before:
                    fault.before(request)
                if fault.refuse:
                    self.close_connection = True
                elif fault.status:
                    self.turn_away(request, fault, size)
                else:
                    self.forward(request, fault, size)
            finally:
                if request is not None:
                    proxy._leave()

        def turn_away(self, request: Request, fault: Fault, size: int) -> None:
            for _ in self.body(size, 0.0):
                pass
            text = f"<?xml version='1.0'?><Error><Code>{fault.code}</Code></Error>".encode() if fault.code else b""
            request.status = fault.status
            self.send_response_only(fault.status)
            for name, value in (*fault.headers, ("Content-Length", str(len(text)))):
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(text)

        def forward(self, request: Request, fault: Fault, size: int) -> None:
            parts = urlsplit(proxy.upstream)
            kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
            with closing(kind(parts.netloc, timeout=UPSTREAM_S)) as connection:
                self.close_connection = (
                    True  # unless all goes well: an upstream that fails must not look like an answer
                )
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in (*HOPS, *map(str.lower, fault.without)):
                        connection.putheader(name, value)
                connection.endheaders()
                first = int(size * fault.forward)
                for piece in self.body(first, fault.bytes_per_s):
                    connection.send(piece)
                if fault.midway:
                    fault.midway(request)
                if fault.forward < 1 and not fault.resume:
                    return
                for piece in self.body(size - first, fault.bytes_per_s):
                    connection.send(piece)
                answer = connection.getresponse()
                request.status = answer.status
                self.reply(request, fault, answer)

        def reply(self, request: Request, fault: Fault, answer: http.client.HTTPResponse) -> None:
            length = answer.getheader("Content-Length")
            content = None
            if length is None or fault.edit or fault.after or fault.reply is not None:
                content = answer.read()
                length = length if self.command == "HEAD" and length is not None else str(len(content))
            if fault.after:
                fault.after(request)
            if fault.reply == 0.0:
                return
            self.send_response_only(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in (*HOPS, "content-length"):
                    self.send_header(name, value)
            self.send_header("Content-Length", length)
            self.end_headers()
            if content is None:
                while piece := answer.read(CHUNK_BYTES):
                    self.wfile.write(piece)
                    pace(len(piece), fault.bytes_per_s)
            else:
                content = fault.edit(content) if fault.edit else content
                self.wfile.write(content if fault.reply is None else content[: int(len(content) * fault.reply)])
            self.close_connection = fault.reply is not None or self.headers.get("Connection", "").lower() == "close"

        def body(self, size: int, bytes_per_s: float) -> Iterator[bytes]:
            while size > 0:
                piece = self.rfile.read1(min(size, CHUNK_BYTES))  # type: ignore[attr-defined]
                if not piece:
                    raise ConnectionError("the client hung up in the middle of a body")
                size -= len(piece)
                yield piece
                pace(len(piece), bytes_per_s)

        def log_message(self, *_: Any) -> None:
            pass

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = meet  # noqa: N815

    return Handler


def pace(size_bytes: int, bytes_per_s: float) -> None:
    if bytes_per_s:
        time.sleep(size_bytes / bytes_per_s)
