"""Pods and network policies, listed and then watched; kopf could do it, at several times the cost of each event.

May import this package's api. Each event goes straight into the store; nothing else happens here, nothing is written.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .api import ApiError, KubeApi

log = logging.getLogger(__name__)

Object = Mapping[str, Any]

_SERVER_TIMEOUT_S = 300  # the API server ends a watch then; this one goes on from where it was
_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.1, 10.0


@dataclass(frozen=True)
class Sink:
    """Where the readings of one collection go."""

    resource: str
    changed: Callable[[Object], None]
    gone: Callable[[Object], None]
    listed: Callable[[AsyncIterator[Object], str], Awaitable[None]]  # items, namespace ("": all)
    seen: Callable[[str, str], None]  # resource, type of the event


class _Forgotten(Exception):
    """The server no longer knows the changes since the version asked for."""


class ListWatch:
    """Keeps a store up to date with one collection, of one namespace or all, until `run` is cancelled."""

    def __init__(self, api: KubeApi, path: str, namespace: str, selector: str, sink: Sink) -> None:
        self._api = api
        self._path = path
        self._namespace = namespace
        self._selector = {"labelSelector": selector} if selector else {}
        self._sink = sink
        self._version = ""

    @property
    def resource(self) -> str:
        """What is watched."""
        return self._sink.resource

    async def run(self) -> None:
        """List, watch, and list again whenever the server has forgotten where this watch was. Never raises ApiError."""
        failures = 0
        while True:
            try:
                if not self._version:
                    self._version = await self._list()
                await self._watch()
                failures = 0
            except _Forgotten:
                log.info("%s: the watch is too far behind, everything is listed anew", self._sink.resource)
                self._version = ""
                failures += 1
            except ApiError as error:
                failures += 1
                log.log(
                    logging.WARNING if failures == 3 else logging.DEBUG,
                    "%s are not heard of: %s; trying again",
                    self._sink.resource,
                    error,
                )
            if failures:
                pause_s = min(_MAX_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(failures - 1, 10))
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))

    async def _list(self) -> str:
        """Read everything; the answer is the version to watch from."""
        version: list[str] = []
        items = self._api.items(self._path, on_version=version.append, **self._selector)
        await self._sink.listed(items, self._namespace)
        return version[0]

    async def _watch(self) -> None:
        """Follow the changes until the server ends the stream."""
        params = {
            **self._selector,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(int(_SERVER_TIMEOUT_S * random.uniform(0.8, 1.0))),
        }
        try:
            async with contextlib.aclosing(self._api.stream(self._path, **params)) as events:
                async for event in events:
                    self._take(event)
        except ApiError as error:
            if error.status == 410:
                raise _Forgotten from None
            raise

    def _take(self, event: Mapping[str, Any]) -> None:
        kind, raw = str(event.get("type")), event.get("object") or {}
        self._sink.seen(self._sink.resource, kind)
        if kind == "ERROR":
            if raw.get("code") == 410:
                raise _Forgotten
            raise ApiError(int(raw.get("code") or 0), str(raw.get("reason") or ""), str(raw.get("message") or "error"))
        self._version = raw["metadata"]["resourceVersion"]
        if kind == "DELETED":
            self._sink.gone(raw)
        elif kind in ("ADDED", "MODIFIED"):
            self._sink.changed(raw)
