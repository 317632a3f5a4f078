"""The one caller of the API server: dicts in, dicts out, bounded, with retries, by the client of `kubernetes.aio`.

May import aiohttp and its URLs. It knows paths and statuses, nothing of jobs; kopf's watches alone go around it.
"""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from typing import Any, Protocol
from urllib.parse import quote, urlencode

import aiohttp
from yarl import URL

from .connection import Connection, Session

log = logging.getLogger(__name__)

Object = dict[str, Any]

_IN_FLIGHT = 32  # of the 64 allowed: more only wait inside an API server of a few cores, and renewals with them
_PAGE = 500
_CALL_S = 15.0  # one attempt; the API server itself gives up after 60
_PATIENCE_S = 20.0  # all attempts of a call: then the key's own backoff takes over
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.1, 3.0
_TRY_AGAIN = frozenset({429, 500, 502, 503, 504})
# Of a stream: a bookmark comes every minute, so a longer silence is a connection nobody holds any more.
_STREAM = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=90.0)
_JSON = "application/json"
_ACCEPT = "application/json, */*"
_ACCEPT_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1, application/json"
_MERGE = "application/merge-patch+json"
_VERBS = {"GET": "get", "POST": "create", "PUT": "replace", "PATCH": "patch", "DELETE": "delete"}


class ApiObserver(Protocol):
    """Hears of every attempt; status 0: no answer came."""

    def observe_api(self, verb: str, resource: str, status: int, seconds: float) -> None: ...
    def observe_retry(self, verb: str, resource: str) -> None: ...


class _Deaf:
    def observe_api(self, verb: str, resource: str, status: int, seconds: float) -> None: ...
    def observe_retry(self, verb: str, resource: str) -> None: ...


class ApiError(Exception):
    """The API server's refusal in its own words, or (status 0) that it does not answer. `reason` is CamelCase."""

    def __init__(self, status: int, reason: str, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.message = message
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"{self.status or 'not reachable'} {self.reason}: {self.message}".strip()


def path_of(resource: str, namespace: str = "", name: str = "", *, group: str = "", version: str = "v1") -> str:
    """The path of a collection, or of one object: `path_of("pods", "default", "a")`."""
    root = f"/apis/{group}/{version}" if group else f"/api/{version}"
    inside = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
    return f"{root}{inside}/{resource}" + (f"/{quote(name, safe='')}" if name else "")


class KubeApi:
    """Calls, at most `in_flight` under way. Each may raise ApiError, and is repeated: so each must bear that."""

    def __init__(
        self,
        connection: Connection,
        observer: ApiObserver | None = None,
        *,
        in_flight: int = _IN_FLIGHT,
        patience_s: float = _PATIENCE_S,
        call_s: float = _CALL_S,
        random_unit: Callable[[], float] = random.random,
    ) -> None:
        self._connection = connection
        self._observer = observer or _Deaf()
        self._room = asyncio.Semaphore(in_flight)
        self._patience_s = patience_s
        self._timeout = aiohttp.ClientTimeout(total=call_s, sock_connect=min(5.0, call_s))
        self._random_unit = random_unit
        self._before_write: Callable[[], None] = lambda: None
        self.reached = False  # whether the server has answered at all

    def guarded(self, before_write: Callable[[], None]) -> KubeApi:
        """The same caller; `before_write` is called right before each attempt to write, and may end it by raising."""
        other = copy.copy(self)
        other._before_write = before_write
        return other

    async def get(self, path: str, **params: str) -> Object:
        """One object or document."""
        return await self._call("GET", path, params)

    async def items(
        self, path: str, on_version: Callable[[str], None] = lambda _: None, **params: str
    ) -> AsyncIterator[Object]:
        """All objects of a collection, in pages; `on_version` is told the version of the whole before the first."""
        page = {"limit": str(_PAGE), **params}
        while True:
            answer = await self._call("GET", path, page)
            if "continue" not in page:
                on_version(answer["metadata"]["resourceVersion"])
            for item in answer.get("items") or ():
                yield item
            more = (answer.get("metadata") or {}).get("continue")
            if not more:
                return
            page["continue"] = more

    async def stream(self, path: str, **params: str) -> AsyncGenerator[Object, None]:
        """The events of a watch, until the server ends it. Not counted among the calls under way, and not repeated."""
        try:
            session = await self._connection.session()
            async with asyncio.timeout(_CALL_S):
                response = await _send(session, "GET", f"{path}?{urlencode(params)}", None, _JSON, _ACCEPT, _STREAM)
            session.streams.add(response)
            try:
                async with response:
                    if response.status >= 300:
                        raise _refusal(response.status, await response.read(), None)
                    async for line in response.content:
                        yield json.loads(line)
            finally:
                session.streams.discard(response)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            raise ApiError(0, type(error).__name__, str(error) or "the stream was cut off") from error
        except ApiError as error:
            if error.status == 401:
                await self._connection.renew()
            raise

    async def create(self, path: str, body: Mapping[str, Any], *, metadata_only: bool = False) -> Object:
        """Create in the collection `path`. After a lost reply the object may be there: the repeat then says 409.

        `metadata_only`: the answer holds the new object's metadata and nothing else.
        """
        return await self._call("POST", path, {}, body, accept=_ACCEPT_METADATA if metadata_only else _ACCEPT)

    async def replace(self, path: str, body: Mapping[str, Any]) -> Object:
        """Replace an object; with metadata.resourceVersion only that version of it (else 409)."""
        return await self._call("PUT", path, {}, body)

    async def merge(self, path: str, patch: Mapping[str, Any]) -> Object:
        """Merge a patch (RFC 7396); with metadata.resourceVersion only into that version (else 409)."""
        return await self._call("PATCH", path, {}, patch, _MERGE)

    async def delete(self, path: str, *, uid: str = "", grace_s: int | None = None, propagation: str = "") -> None:
        """Delete; with `uid` only the object of this uid (else 409). One that is gone is an ApiError 404."""
        body: Object = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if uid:
            body["preconditions"] = {"uid": uid}
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        if propagation:
            body["propagationPolicy"] = propagation
        await self._call("DELETE", path, {}, body)

    async def close(self) -> None:
        """Close every connection."""
        await self._connection.close()

    async def _call(
        self,
        verb: str,
        path: str,
        params: Mapping[str, str],
        body: Mapping[str, Any] | None = None,
        content_type: str = _JSON,
        accept: str = _ACCEPT,
    ) -> Object:
        url = f"{path}?{urlencode(params)}" if params else path
        give_up_s = time.monotonic() + self._patience_s
        attempt = 0
        renewed = False
        while True:
            attempt += 1
            try:
                async with self._room:
                    if verb != "GET":
                        self._before_write()
                    return await self._once(verb, url, body, content_type, accept)
            except ApiError as error:
                if error.status == 401 and not renewed:
                    renewed = True
                    await self._connection.renew()
                    continue
                pause_s = self._pause_s(error, attempt)
                if pause_s is None or time.monotonic() + pause_s > give_up_s:
                    raise
            log.debug("%s %s: attempt %d failed, next in %.2f s", verb, path, attempt, pause_s)
            self._observer.observe_retry(_VERBS[verb], _resource(url))
            await asyncio.sleep(pause_s)

    async def _once(
        self, verb: str, url: str, body: Mapping[str, Any] | None, content_type: str, accept: str
    ) -> Object:
        began = time.monotonic()
        status = 0
        try:
            session = await self._connection.session()
            response = await _send(session, verb, url, body, content_type, accept, self._timeout)
            text = await response.read()
            status = response.status
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise ApiError(0, type(error).__name__, str(error) or "no answer in time") from error
        finally:
            self._observer.observe_api(_VERBS[verb], _resource(url), status, time.monotonic() - began)
        self.reached = True
        if status < 300:
            return json.loads(text)  # type: ignore[no-any-return]
        raise _refusal(status, text, response.headers.get("Retry-After"))

    def _pause_s(self, error: ApiError, attempt: int) -> float | None:
        """Seconds until the next attempt; None when another one cannot help."""
        if error.status and error.status not in _TRY_AGAIN:
            return None
        grown = min(_MAX_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(attempt - 1, 20))
        return error.retry_after_s + grown * (0.5 + 0.5 * self._random_unit())


async def _send(
    session: Session,
    verb: str,
    url: str,
    body: Mapping[str, Any] | None,
    content_type: str,
    accept: str,
    limits: aiohttp.ClientTimeout,
) -> aiohttp.ClientResponse:
    # Straight to the session of `kubernetes.aio`: what its own `request` does around it costs as much as the rest.
    return await session.http.request(
        verb,
        URL(session.server + url, encoded=True),
        headers={**session.headers, "Accept": accept, "Content-Type": content_type},
        data=None if body is None else json.dumps(body, separators=(",", ":")).encode(),
        timeout=limits,
        **session.options,
    )


def _refusal(status: int, text: bytes, retry_after: str | None) -> ApiError:
    try:
        told = json.loads(text)
        reason, message = str(told.get("reason") or ""), str(told.get("message") or "")
    except (ValueError, AttributeError):
        reason, message = "", text[:200].decode(errors="replace").strip()
    retry_after_s = min(float(retry_after), _MAX_PAUSE_S) if retry_after and retry_after.isdigit() else 0.0
    return ApiError(status, reason, message or f"HTTP {status}", retry_after_s)


def _resource(url: str) -> str:
    """`pods`, `trainingjobs/status`: what a request is about, for the metrics."""
    parts = url.partition("?")[0].strip("/").split("/")
    rest = parts[3:] if parts[0] == "apis" else parts[2:] if parts[0] == "api" else ["other"]
    if rest and rest[0] == "namespaces" and len(rest) > 2:
        rest = rest[2:]
    return "/".join(rest[::2]) if len(rest) > 2 else (rest[0] if rest else "other")
