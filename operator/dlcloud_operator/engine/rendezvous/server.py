"""The HTTP side of the rendezvous (docs/protocol.md, section 2): who asks, whether they may, and within which bounds.

May import aiohttp and the engine's own modules. It decides nothing about jobs, and never logs a token or a header.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime

from aiohttp import web

from dlcloud_operator.core.model import JobKey, JobView, Reports
from dlcloud_operator.engine.clock import utc_now
from dlcloud_operator.engine.observer import SILENT, Observer

from .answers import METHODS, NoVoice, Refusal, json_answer, number, route
from .auth import Authenticator, AuthenticatorUnavailable, PodIdentity, Unauthorized
from .book import Book, News
from .connections import Connection, Connections
from .http_log import http_logger
from .limits import ServerLimits, TokenBucket
from .messages import BadMessage, parse_report

log = logging.getLogger(__name__)
http_log = http_logger(f"{__name__}.http")

_VOICE_S = 0.2  # how soon agents are told to go elsewhere


class RendezvousServer:
    """Hands out instructions by long poll and takes reports, each pod speaking for itself alone."""

    def __init__(
        self,
        authenticator: Authenticator,
        owner_of: Callable[[str, str, str], JobKey | None],
        on_report: Callable[[JobKey], None] = lambda key: None,
        now: Callable[[], datetime] = utc_now,
        limits: ServerLimits | None = None,
        may_speak: Callable[[], bool] = lambda: True,
        observer: Observer = SILENT,
    ) -> None:
        """`owner_of(namespace, pod, uid)` asks the index of pods; `on_report` is called for each report with news.

        While `may_speak()` is false, everybody is answered 503 and shown out, those who wait included; it is asked
        again right before an answer is written. Once it is true, silent agents count from that moment on.
        """
        self._authenticator = authenticator
        self._owner_of = owner_of
        self._listeners = [on_report]
        self._progress_listeners = [on_report]
        self._now = now
        self._limits = limits or ServerLimits()
        self._book = Book(owner_of, now, self._limits.polls_per_pod)
        self._may_speak = may_speak
        self._observer = observer
        self._spoke = may_speak()
        self._listener: asyncio.Task[None] | None = None
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()  # by pod uid, least recently used first
        self._log_bucket = TokenBucket(rate_per_s=5.0, burst=20.0, now_s=0.0)
        self._http: web.Server | None = None
        self._connections: Connections | None = None

    async def start(self, host: str = "127.0.0.1", port: int = 0, ssl_context: ssl.SSLContext | None = None) -> str:
        """Listen and return the base URL; port 0 takes a free one. Raises OSError when the address cannot be had."""
        self._http = web.Server(
            self._handle,
            handler_cancellation=True,  # a client that left must not keep its long poll
            access_log=None,
            logger=http_log,
            lingering_time=1.0,
            auto_decompress=False,  # a few bytes could become many
            keepalive_timeout=self._limits.idle_s,
        )
        self._connections = Connections(self._http, self._limits, self._speaks)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        sock = socket.create_server((host, port), family=family, backlog=1024, dualstack_ipv6=host == "::")
        self._connections.start(sock, ssl_context)
        self._book.open()
        self._listener = asyncio.create_task(self._mind_the_voice(), name="rendezvous-voice")
        name = f"[{host}]" if ":" in host else host
        return f"{'http' if ssl_context is None else 'https'}://{name}:{sock.getsockname()[1]}"

    async def stop(self) -> None:
        """Answer open polls (204; 503 without a voice) and close everything, within a second."""
        if self._http is None or self._connections is None or self._listener is None:
            return
        self._listener.cancel()
        await asyncio.gather(self._listener, return_exceptions=True)
        await self._connections.stop_accepting()
        self._book.close()
        for idle in self._http.connections:
            idle.close()
        await self._http.shutdown(self._limits.stop_s)
        self._connections.abort_all()

    def subscribe(self, notify: Callable[[JobKey], None], progressed: Callable[[JobKey], None] | None = None) -> None:
        """Call `notify`, too, for each report that tells more than that its agent is alive.

        `progressed` is called instead for one that only tells how far the training is.
        """
        self._listeners.append(notify)
        self._progress_listeners.append(progressed or notify)

    def publish(self, job: JobView) -> None:
        """Hand out what `job` decides; it must be as read back from the cluster. An older reading changes nothing."""
        self._book.publish(job)

    def forget(self, key: JobKey) -> None:
        """The job is gone: drop its reports and instructions."""
        self._book.forget(key)

    def reports_for(self, key: JobKey) -> Reports:
        """What the job's agents said last."""
        self._speaks()  # so that nobody is taken for silent since before this server could be spoken to
        return self._book.reports_for(key)

    def num_connections(self) -> int:
        """Clients that are connected."""
        return 0 if self._connections is None else len(self._connections)

    def num_agents(self) -> int:
        """Pods whose agents reported within the last 15 s."""
        return self._book.num_fresh()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        response = await self._respond(request)
        verb = request.path.rpartition("/")[2]
        self._observer.rendezvous_answered(verb if verb in METHODS else "other", response.status)
        return response

    async def _respond(self, request: web.BaseRequest) -> web.StreamResponse:
        assert self._connections is not None
        connection = self._connections.begin(request.protocol)
        if connection is None:
            raise ConnectionResetError("the connection was closed meanwhile")
        connection.apology = False
        try:
            self._require_voice()
            response = await self._answer(request, connection)
            self._require_voice()  # it may have gone while this client waited
            return response
        except NoVoice as refusal:
            connection.apology = True
            return json_answer(503, {"error": str(refusal)}, refusal.headers)
        except Refusal as refusal:
            if self._log_bucket.take(asyncio.get_running_loop().time()):
                log.info("refused %d to %.200r: %s", refusal.status, request.path, refusal)
            return json_answer(refusal.status, {"error": str(refusal)}, refusal.headers)
        except ConnectionError:
            raise
        except Exception:
            log.exception("a request failed")
            return json_answer(500, {"error": "the request failed inside the operator; try again later"})
        finally:
            self._connections.end(connection)

    def _speaks(self) -> bool:
        speaks = self._may_speak()
        if speaks != self._spoke:
            self._spoke = speaks
            if speaks:
                self._book.open()
            else:
                self._hush()
        return speaks

    def _hush(self) -> None:
        """Answer those who wait, and show out those who are silent."""
        self._book.wake()
        if self._connections is not None:
            self._connections.close_idle()

    def _require_voice(self) -> None:
        if not self._speaks():
            raise NoVoice

    async def _mind_the_voice(self) -> None:
        while True:
            self._speaks()
            await asyncio.sleep(_VOICE_S)

    async def _answer(self, request: web.BaseRequest, connection: Connection) -> web.Response:
        key, pod, verb = route(request)
        identity = await self._identify(request)
        if (identity.namespace, identity.pod) != (key.namespace, pod):
            raise Refusal(403, "the token speaks for another pod")
        if self._owner_of(identity.namespace, identity.pod, identity.uid) != key:
            raise Refusal(403, "the token's pod is no living pod of this job")
        connection.proven = True
        if not self._bucket(identity.uid).take(asyncio.get_running_loop().time()):
            raise Refusal(429, "too many requests from this pod", Retry_After="1")
        self._book.note_life()
        if verb == "assignment":
            return await self._assignment(request, key, identity)
        return await self._report(request, key, identity)

    async def _identify(self, request: web.BaseRequest) -> PodIdentity:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        try:
            if scheme.lower() != "bearer" or not token.strip():
                raise Unauthorized("a bearer token is needed")
            return await self._authenticator.identify(token.strip())
        except Unauthorized as error:
            raise Refusal(401, str(error), WWW_Authenticate="Bearer") from None
        except AuthenticatorUnavailable as error:
            raise Refusal(503, str(error), Retry_After="1") from None

    async def _assignment(self, request: web.BaseRequest, key: JobKey, identity: PodIdentity) -> web.Response:
        after = number(request, "after", 0.0)
        wait_s = number(request, "wait", self._limits.poll_s)
        if not after.is_integer():
            raise Refusal(400, f"after: {after} is not a whole number; give the highest round seen, or 0")
        instruction = await self._book.instruction(key, identity.uid, int(after), min(wait_s, self._limits.poll_s))
        return web.Response(status=204) if instruction is None else json_answer(200, instruction)

    async def _report(self, request: web.BaseRequest, key: JobKey, identity: PodIdentity) -> web.Response:
        body = await self._body(request)
        try:
            heard = parse_report(body, identity.uid, self._now())
        except BadMessage as error:
            raise Refusal(400, str(error)) from None
        # Looked up again: the body may have taken seconds, and the pod may be gone since.
        if self._owner_of(identity.namespace, identity.pod, identity.uid) != key:
            raise Refusal(403, "the token's pod is no living pod of this job")
        self._require_voice()
        news = self._book.record(key, identity, heard)
        if news is not News.NOTHING:
            for notify in self._listeners if news is News.MORE else self._progress_listeners:
                notify(key)
        return json_answer(200, {})

    async def _body(self, request: web.BaseRequest) -> bytes:
        limit = self._limits.body_bytes
        if request.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise Refusal(415, "send the report without compression")
        if (request.content_length or 0) > limit:
            raise Refusal(413, f"the body has {request.content_length} bytes; {limit} are allowed", Connection="close")
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.body_s):
                async for chunk in request.content.iter_any():
                    body += chunk
                    if len(body) > limit:
                        raise Refusal(413, f"the body has more than {limit} bytes", Connection="close")
        except TimeoutError:
            raise Refusal(408, f"the body took longer than {self._limits.body_s:g} s", Connection="close") from None
        except web.RequestPayloadError:
            raise Refusal(400, "the body is cut off or badly framed", Connection="close") from None
        return bytes(body)

    def _bucket(self, pod_uid: str) -> TokenBucket:
        bucket = self._buckets.get(pod_uid)
        if bucket is None:
            now_s = asyncio.get_running_loop().time()
            bucket = TokenBucket(self._limits.requests_per_s, self._limits.requests_burst, now_s)
            self._buckets[pod_uid] = bucket
            if len(self._buckets) > self._limits.connections:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(pod_uid)
        return bucket
