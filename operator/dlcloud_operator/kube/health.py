"""The port for probes and Prometheus: /metrics, /healthz, /readyz. Plain HTTP, and nothing in it is a secret.

May import aiohttp, the engine's connections and this package's metrics. Checks are given; none is known here.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping

from aiohttp import web

from dlcloud_operator.engine.observer import QueueState
from dlcloud_operator.engine.rendezvous.connections import Connections
from dlcloud_operator.engine.rendezvous.http_log import http_logger
from dlcloud_operator.engine.rendezvous.limits import ServerLimits

from .metrics import Busy, Metrics

log = logging.getLogger(__name__)
http_log = http_logger(f"{__name__}.http")

# Kubelet, Prometheus and a person: who asks more than that is shown out.
_LIMITS = ServerLimits(connections=64, head_s=5.0, body_s=1.0, poll_s=20.0, idle_s=30.0)
_STUCK_S = 180.0  # a pass is ended after 120 s: longer means that this does not work any more

# "" when all is well, else one sentence that says what is not.
Check = Callable[[], str]


def queue_moves(state: Callable[[], QueueState | None], limit_s: float = _STUCK_S) -> Check:
    """No pass over a job takes longer than `limit_s`. `state` is None while there is no queue."""

    def check() -> str:
        now = state()
        if now is None or now.oldest_busy_s < limit_s:
            return ""
        return f"a pass over a job takes {now.oldest_busy_s:.0f} s already"

    return check


def lives(task: Callable[[], asyncio.Task[None] | None], what: str) -> Check:
    """A task has not ended. `task` is None before it is started."""

    def check() -> str:
        one = task()
        return f"{what} has ended" if one is not None and one.done() else ""

    return check


class HealthServer:
    """Answers 200 when every check is content, else 503 and the sentences of those that are not."""

    def __init__(self, metrics: Metrics, live: Mapping[str, Check], ready: Mapping[str, Check]) -> None:
        """`live`: a process that fails these must be started again; `ready`: it is not of use yet."""
        self._metrics = metrics
        self._checks = {"/healthz": live, "/readyz": ready}
        self._http: web.Server | None = None
        self._connections: Connections | None = None

    async def start(self, host: str, port: int) -> str:
        """Listen and return the base URL; port 0 takes a free one. Raises OSError when the address cannot be had."""
        self._http = web.Server(
            self._handle,
            handler_cancellation=True,
            access_log=None,
            logger=http_log,
            lingering_time=1.0,
            auto_decompress=False,
            keepalive_timeout=_LIMITS.idle_s,
        )
        self._connections = Connections(self._http, _LIMITS)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.create_server((host, port), family=family, dualstack_ipv6=host == "::")
        self._connections.start(sock, None)
        return f"http://{f'[{host}]' if ':' in host else host}:{sock.getsockname()[1]}"

    async def stop(self) -> None:
        """Close everything; does nothing before `start`."""
        if self._http is None or self._connections is None:
            return
        await self._connections.stop_accepting()
        await self._http.shutdown(_LIMITS.stop_s)
        self._connections.abort_all()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        assert self._connections is not None
        connection = self._connections.begin(request.protocol)
        if connection is None:
            raise ConnectionResetError("the connection was closed meanwhile")
        try:
            return await self._answer(request)
        except Exception:
            log.exception("a request failed")
            return _text(500, "the request failed inside the operator")
        finally:
            self._connections.end(connection)

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        if request.method not in ("GET", "HEAD"):
            return _text(405, "ask with GET", Allow="GET, HEAD")
        if request.path == "/metrics":
            return await self._exposition(request)
        checks = self._checks.get(request.path)
        if checks is None:
            return _text(404, "there is nothing here but /metrics, /healthz and /readyz")
        wrong = [f"{name}: {sentence}" for name, check in checks.items() if (sentence := check())]
        return _text(503, "\n".join(wrong)) if wrong else _text(200, "ok")

    async def _exposition(self, request: web.BaseRequest) -> web.Response:
        compressed = "gzip" in request.headers.get("Accept-Encoding", "")
        try:
            body, content_type = await self._metrics.exposition(request.headers.get("Accept", ""), compressed)
        except Busy as error:
            return _text(503, str(error), Retry_After="5")
        headers = {"Content-Type": content_type, **({"Content-Encoding": "gzip"} if compressed else {})}
        return web.Response(body=body, headers={**headers, "Vary": "Accept-Encoding"})


def _text(status: int, text: str, **headers: str) -> web.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.Response(status=status, text=f"{text}\n", headers={"Cache-Control": "no-store", **named})
