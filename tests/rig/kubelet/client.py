"""The kubelet's own requests to an API server, on an event loop: JSON in, JSON out, and watches.

May import aiohttp and PyYAML. Nothing of the operator's client: a test must not judge a client by itself.
"""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import yaml

from ..client import KubeError

T = TypeVar("T")
Object = dict[str, Any]

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"


def path(resource: str, namespace: str = "", name: str = "", part: str = "") -> str:
    """The address of a collection or an object; `resource` is `pods`, or `GROUP/VERSION/RESOURCE`."""
    group, _, plural = resource.rpartition("/")
    root = f"/apis/{group}" if group else "/api/v1"
    middle = f"/namespaces/{namespace}" if namespace else ""
    return "/".join([f"{root}{middle}/{plural}", *(one for one in (name, part) if one)])


@dataclass(frozen=True)
class Access:
    """A server's address and what a kubeconfig says of the way to it."""

    address: str
    token: str
    context: ssl.SSLContext | None

    @classmethod
    def of(cls, kubeconfig: Path) -> Access:
        """The current context of a kubeconfig with a token or a client certificate."""
        document = yaml.safe_load(kubeconfig.read_text(encoding="utf-8"))
        current = _named(document["contexts"], document["current-context"])["context"]
        cluster = _named(document["clusters"], current["cluster"])["cluster"]
        user = _named(document["users"], current["user"])["user"]
        context = None
        if cluster["server"].startswith("https:"):
            context = ssl.create_default_context(cadata=_pem(cluster, "certificate-authority") or None)
            if cluster.get("insecure-skip-tls-verify"):
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            if certificate := _pem(user, "client-certificate"):
                with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
                    file.write(certificate + _pem(user, "client-key"))
                    file.flush()
                    context.load_cert_chain(file.name)
        return cls(cluster["server"].rstrip("/"), str(user.get("token") or ""), context)


class AsyncClient:
    """One session on one event loop. Every refusal is a KubeError; no answer is aiohttp's or the system's error."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=64, ssl=access.context if access.context is not None else True),
            headers={"Authorization": f"Bearer {access.token}"} if access.token else {},
        )

    async def ask(
        self, method: str, where: str, body: Any = None, content_type: str = "application/json", **params: Any
    ) -> Object:
        """One request; `params` go into the query."""
        async with self._session.request(
            method,
            self._access.address + where,
            data=None if body is None else json.dumps(body),
            params={key: str(value) for key, value in params.items()},
            headers={"Content-Type": content_type},
            timeout=aiohttp.ClientTimeout(total=30),
        ) as answer:
            text = await answer.read()
            if answer.status >= 300:
                raise _refusal(answer.status, text)
            document = json.loads(text) if text else {}
            return document if isinstance(document, dict) else {"text": document}

    async def watch(self, where: str, version: str, **params: Any) -> AsyncIterator[Object]:
        """The events after `version`, until the server ends the watch (after 60 s at most)."""
        query = {"watch": "1", "resourceVersion": version, "timeoutSeconds": "60", "allowWatchBookmarks": "true"}
        query |= {key: str(value) for key, value in params.items()}
        limit = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=90)
        async with self._session.get(self._access.address + where, params=query, timeout=limit) as answer:
            if answer.status >= 300:
                raise _refusal(answer.status, await answer.read())
            rest = b""
            async for chunk in answer.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield json.loads(line)

    async def close(self) -> None:
        await self._session.close()


class LoopThread:
    """An event loop on a thread of its own, for synchronous tests."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T], limit_s: float = 90.0) -> T:
        """What `work` returns or raises; TimeoutError after `limit_s`."""
        future = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result(limit_s)
        except TimeoutError:
            future.cancel()
            raise

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call `function` on the loop, soon."""
        self.loop.call_soon_threadsafe(function, *arguments)

    def close(self) -> None:
        async def end() -> None:
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.run(end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


def _named(entries: list[Object], name: str) -> Object:
    return next(entry for entry in entries if entry["name"] == name)


def _pem(entry: Mapping[str, Any], key: str) -> str:
    if data := entry.get(f"{key}-data"):
        return base64.b64decode(data).decode()
    return Path(entry[key]).read_text(encoding="utf-8") if entry.get(key) else ""


def _refusal(status: int, text: bytes) -> KubeError:
    try:
        document = json.loads(text)
        return KubeError(status, str(document.get("reason") or ""), str(document.get("message") or ""))
    except (ValueError, AttributeError):
        return KubeError(status, "", text[:300].decode(errors="replace"))
