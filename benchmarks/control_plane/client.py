"""A lean client of the API server for measuring: dicts, many requests at once, watches with their time of arrival.

May import aiohttp and benchmarks.common. It never retries: a request that fails ends the measurement.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import time
from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from typing import Any

import aiohttp

from benchmarks.control_plane.plane import Plane
from benchmarks.control_plane.waiting import until

AT_ONCE = 64
_SERIES = re.compile(r"^apiserver_request_total\{(.*)\} (\S+)$")
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class RequestFailed(Exception):
    """The API server refused a request; the message holds its answer."""


class Client:
    """The administrator's requests; `async with` closes it."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._room = asyncio.Semaphore(AT_ONCE)

    async def __aenter__(self) -> Client:
        context = ssl.create_default_context(cafile=str(self._plane.ca))
        self._session = aiohttp.ClientSession(
            self._plane.url,
            connector=aiohttp.TCPConnector(ssl=context, limit=0),
            headers={"Authorization": f"Bearer {self._plane.token}"},
            timeout=aiohttp.ClientTimeout(total=None),
            read_bufsize=2**20,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def request(self, method: str, path: str, body: Any = None, **params: str) -> Any:
        """The answer's JSON (or text). Raises RequestFailed."""
        data = None if body is None else json.dumps(body)
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Content-Type": kind} if data else {}
        async with (
            self._room,
            self._session.request(method, path, data=data, params=params, headers=headers) as answer,
        ):
            text = await answer.text()
            if answer.status >= 400:
                raise RequestFailed(f"{method} {path}: {answer.status} {text[:400]}")
            return json.loads(text) if "json" in answer.content_type else text

    async def create(self, path: str, body: Any) -> Any:
        """One object more; one that exists already is left alone."""
        try:
            return await self.request("POST", path, body)
        except RequestFailed as failure:
            if ": 409 " not in str(failure):
                raise
            return None

    async def exists(self, path: str, limit_s: float = 30.0) -> None:
        """Waits until a GET of it succeeds. Raises TimeoutError."""

        async def answers() -> bool:
            try:
                await self.request("GET", path)
            except RequestFailed:
                return False
            return True

        await until(answers, limit_s, f"{path} on the API server")

    async def create_all(self, path: str, bodies: Iterable[Any]) -> None:
        """All of them, at most 64 at a time."""
        async with asyncio.TaskGroup() as group:
            for body in bodies:
                group.create_task(self.request("POST", path, body))

    async def watch(self, path: str, since: str) -> AsyncIterator[tuple[float, dict[str, Any]]]:
        """Events after the resource version `since`, each with the CLOCK_MONOTONIC at which it was read; never ends.

        The API server ends the watch of a client that does not keep up: then it goes on where it was.
        """
        while True:
            query = {"watch": "true", "resourceVersion": since, "timeoutSeconds": "7200"}
            async with self._session.get(path, params=query) as answer:
                if answer.status >= 400:
                    raise RequestFailed(f"watch {path}: {answer.status} {await answer.text()}")
                rest = b""
                async for chunk in answer.content.iter_any():
                    arrived = time.monotonic()
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        event = json.loads(line)
                        if event["type"] == "ERROR":
                            raise RequestFailed(f"watch {path}: {event['object']}")
                        since = event["object"]["metadata"]["resourceVersion"]
                        yield arrived, event

    async def version(self, path: str) -> str:
        """The resource version of a list now: where a watch can begin."""
        answer = await self.request("GET", path, limit="1")
        return str(answer["metadata"]["resourceVersion"])

    async def writes(self) -> dict[tuple[str, str], int]:
        """Writes that the API server has answered, by (verb, resource), as its own metrics count them."""
        counts: dict[tuple[str, str], int] = {}
        for line in (await self.request("GET", "/metrics")).splitlines():
            found = _SERIES.match(line)
            if not found:
                continue
            labels = dict(_LABEL.findall(found[1]))
            if labels["verb"] not in ("POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"):
                continue
            resource = "/".join(part for part in (labels["resource"], labels["subresource"]) if part)
            key = labels["verb"], f"{resource}.{labels['group']}".rstrip(".")
            counts[key] = counts.get(key, 0) + round(float(found[2]))
        return counts

    async def events(self, namespace: str, since: datetime) -> dict[str, int]:
        """Event objects made since then, by the controller that reported them."""
        counts: dict[str, int] = {}
        for event in (await self.request("GET", f"/api/v1/namespaces/{namespace}/events"))["items"]:
            if datetime.fromisoformat(event["metadata"]["creationTimestamp"]) >= since.replace(microsecond=0):
                who = event.get("reportingComponent") or event["source"].get("component", "unknown")
                counts[who] = counts.get(who, 0) + 1
        return counts


def difference(after: dict[tuple[str, str], int], before: dict[tuple[str, str], int]) -> dict[tuple[str, str], int]:
    """What came in between."""
    return {key: count - before.get(key, 0) for key, count in after.items() if count > before.get(key, 0)}
