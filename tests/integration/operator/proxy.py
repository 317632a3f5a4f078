"""A proxy between one operator and the API server: it counts, answers in the server's place, and strikes between calls.

Plain HTTP towards the operator, whatever the kubeconfig says towards the server. Runs on a thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import yaml
from aiohttp import web

from ...rig.kubelet.client import Access, LoopThread

_HOP = {"host", "connection", "content-length", "transfer-encoding", "keep-alive"}
WRITES = ("POST", "PUT", "PATCH", "DELETE")


@dataclass
class Call:
    """One request; `status` is 0 until it was answered, and -1 when its answer never came."""

    method: str
    path: str
    query: str
    body: bytes
    at: float = field(default_factory=time.monotonic)
    status: int = 0

    @property
    def is_write(self) -> bool:
        return self.method in WRITES

    @property
    def is_lease(self) -> bool:
        return "/leases" in self.path

    @property
    def is_watch(self) -> bool:
        return "watch=" in self.query

    def __str__(self) -> str:
        return f"{self.method} {self.path} -> {self.status}"


Matches = Callable[[Call], bool]


@dataclass
class _Rule:
    matches: Matches
    times: int
    answer: tuple[int, Any] | None = None
    before: Callable[[], None] | None = None
    after: Callable[[], None] | None = None
    between: Callable[[], None] | None = None
    gate: asyncio.Event | None = None


class Proxy:
    """`with Proxy(kubeconfig, folder) as proxy:`; give the operator `proxy.kubeconfig(...)`."""

    def __init__(self, kubeconfig: Path) -> None:
        self.calls: list[Call] = []
        self._access = Access.of(kubeconfig)
        self._rules: list[_Rule] = []
        self._waiting = 0
        self._streams: set[asyncio.Task[Any]] = set()

    def __enter__(self) -> Self:
        self._thread = LoopThread("proxy")
        self._thread.run(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.run(self._stop())
        self._thread.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def kubeconfig(self, source: Path) -> Path:
        """A copy of a kubeconfig that leads through this proxy, beside it."""
        document = yaml.safe_load(source.read_text(encoding="utf-8"))
        for entry in document["clusters"]:
            entry["cluster"] = {"server": self.url}
        target = source.with_name(f"{source.name}-through-{self._port}")
        target.touch(mode=0o600)
        target.write_text(yaml.safe_dump(document))
        return target

    # --- what goes wrong ---

    def answer(self, matches: Matches, status: int, body: Any = None, times: int = 1_000_000) -> Callable[[], None]:
        """Answer such requests in the server's place; the result ends that."""
        told = (
            body if body is not None else {"kind": "Status", "code": status, "reason": "", "message": f"no: {status}"}
        )
        return self._add(_Rule(matches, times, answer=(status, told)))

    def strike(
        self,
        matches: Matches,
        *,
        before: Callable[[], None] | None = None,
        after: Callable[[], None] | None = None,
    ) -> Callable[[], None]:
        """At the next such request call `before` instead of passing it on, or `after` once the server has answered.

        After `before` the request is dropped; after `after` its answer is kept back for ever.
        """
        return self._add(_Rule(matches, 1, before=before, after=after))

    def interrupt(self, matches: Matches, between: Callable[[], None]) -> Callable[[], None]:
        """At the next such request: pass it on, call `between` when the server has answered, then give the answer."""
        return self._add(_Rule(matches, 1, between=between))

    def hold(self, matches: Matches, times: int = 1) -> Callable[[], None]:
        """Keep the next such requests waiting until the result is called; then they go on to the server."""
        gate = asyncio.Event()
        drop = self._add(_Rule(matches, times, gate=gate))

        def release() -> None:
            drop()
            self._thread.call(gate.set)

        return release

    def waiting(self) -> int:
        """How many requests are held."""
        return self._waiting

    def cut_watches(self) -> None:
        """Every watch under way breaks off."""
        for task in list(self._streams):
            self._thread.call(task.cancel)

    def writes(self, matches: Matches = lambda _: True) -> list[Call]:
        """The writes so far, the lease's own left out."""
        return [call for call in list(self.calls) if call.is_write and not call.is_lease and matches(call)]

    # --- inside ---

    def _add(self, rule: _Rule) -> Callable[[], None]:
        self._rules.append(rule)

        def remove() -> None:
            with contextlib.suppress(ValueError):
                self._rules.remove(rule)

        return remove

    async def _start(self) -> None:
        connector = aiohttp.TCPConnector(limit=0, ssl=self._access.context if self._access.context else True)
        self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        app = web.Application(client_max_size=16 << 20)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        await self._session.close()
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        call = Call(request.method, request.path, request.query_string, await request.read())
        self.calls.append(call)
        rule = next((one for one in self._rules if one.times > 0 and one.matches(call)), None)
        if rule is not None:
            rule.times -= 1
            if rule.answer is not None:
                call.status = rule.answer[0]
                return _response(*rule.answer)
            if rule.before is not None:
                call.status = -1
                await asyncio.to_thread(rule.before)
                return await self._never()
            if rule.gate is not None:
                self._waiting += 1
                try:
                    await rule.gate.wait()
                finally:
                    self._waiting -= 1
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        url = self._access.address + request.raw_path
        try:
            async with self._session.request(
                request.method, url, data=call.body or None, headers=headers, timeout=aiohttp.ClientTimeout(total=None)
            ) as answer:
                if call.is_watch and answer.status == 200:
                    call.status = 200
                    return await self._stream(request, answer)
                content = await answer.read()
                call.status = answer.status
                if rule is not None and rule.after is not None:
                    await asyncio.to_thread(rule.after)
                    return await self._never()
                if rule is not None and rule.between is not None:
                    await asyncio.to_thread(rule.between)
                kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP}
                return web.Response(status=answer.status, body=content, headers=kept)
        except (aiohttp.ClientError, OSError) as error:
            call.status = call.status or 502
            # As when the server itself is away: the connection ends without a word.
            if request.transport is not None:
                request.transport.abort()
            raise web.HTTPBadGateway(text=str(error)) from None

    async def _stream(self, request: web.Request, answer: aiohttp.ClientResponse) -> web.StreamResponse:
        stream = web.StreamResponse(status=200, headers={"Content-Type": "application/json"})
        stream.enable_chunked_encoding()
        await stream.prepare(request)
        task = asyncio.ensure_future(self._copy(stream, answer))
        self._streams.add(task)
        try:
            await task
        except asyncio.CancelledError:
            if request.transport is not None:
                request.transport.abort()
            if not task.cancelled():
                task.cancel()
                raise
        except (aiohttp.ClientError, OSError):
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._streams.discard(task)
        return stream

    async def _copy(self, stream: web.StreamResponse, answer: aiohttp.ClientResponse) -> None:
        async for chunk in answer.content.iter_any():
            await stream.write(chunk)

    async def _never(self) -> web.StreamResponse:
        """The one who asked is dead, or will be."""
        await asyncio.sleep(3600)
        raise web.HTTPGatewayTimeout


def about(word: str, *methods: str) -> Matches:
    """Requests with `word` (a regular expression) in their path or body, of these methods or of any."""
    pattern = re.compile(word)

    def matches(call: Call) -> bool:
        if methods and call.method not in methods:
            return False
        return bool(pattern.search(call.path) or pattern.search(call.body.decode(errors="replace")))

    return matches


def nth_write(number: int, matches: Matches) -> Matches:
    """The `number`-th write (from 1) that matches, the lease's left out."""
    seen = 0

    def found(call: Call) -> bool:
        nonlocal seen
        if not call.is_write or call.is_lease or not matches(call):
            return False
        seen += 1
        return seen == number

    return found


def gone() -> dict[str, Any]:
    """The body of a 410: the watch or list asked for a version that is compacted."""
    message = "The resourceVersion for the provided watch is too old."
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410, "reason": "Expired"} | {
        "message": message
    }


def _response(status: int, body: Any) -> web.Response:
    return web.Response(status=status, body=json.dumps(body).encode(), content_type="application/json")
