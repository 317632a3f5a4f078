"""How to reach the API server: in a cluster by the service account, outside by a kubeconfig; both are read again.

May import aiohttp and kubernetes. It never logs a credential, and never writes the user's kubeconfig.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import getproxies

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration

log = logging.getLogger(__name__)

_MAX_AGE_S = 60.0  # a service account token is replaced on disk at 80 % of its life, of an hour by default
_UNLIMITED = 0  # calls are limited where they are made, and watches hold a connection each


class NotConfigured(Exception):
    """There is no usable way to an API server; the message says what is missing."""


class Session(NamedTuple):
    """`options`: further arguments of each request, as the kubeconfig wants them. Whoever reads a response that may
    never end keeps it in `streams` meanwhile: it is closed with the session, which alone would leave its reader waiting
    for ever (aiohttp drops the time limits of the connections it closes)."""

    http: aiohttp.ClientSession
    server: str
    headers: dict[str, str]  # they identify us
    options: dict[str, Any]
    streams: set[aiohttp.ClientResponse]


class Connection:
    """A client of `kubernetes.aio` that is made anew when the credentials on disk change, or when they are refused."""

    def __init__(self, kubeconfig: Path | None = None, monotonic: Callable[[], float] = time.monotonic) -> None:
        """`kubeconfig` None: the service account of the pod this runs in."""
        self._kubeconfig = kubeconfig
        self._monotonic = monotonic
        self._client: ApiClient | None = None
        self._headers: dict[str, str] = {}
        self._streams: set[aiohttp.ClientResponse] = set()
        self._read_at = 0.0
        self._seen: tuple[tuple[str, str], ...] = ()
        self._reading = asyncio.Lock()

    async def client(self) -> tuple[ApiClient, dict[str, str]]:
        """The client and the headers that identify us. Raises NotConfigured."""
        if self._client is None or self._monotonic() - self._read_at >= _MAX_AGE_S:
            await self._refresh(force=self._client is None)
        assert self._client is not None
        return self._client, self._headers

    async def session(self) -> Session:
        """The HTTP session of that client, and what each request of it needs. Raises NotConfigured."""
        client, headers = await self.client()
        rest = client.rest_client
        if rest.pool_manager is None:
            rest.pool_manager = rest._create_pool_manager()
        told = {"proxy": rest.proxy, "proxy_headers": rest.proxy_headers}
        told["server_hostname"] = client.configuration.tls_server_name
        options = {name: value for name, value in told.items() if value}
        return Session(rest.pool_manager, str(client.configuration.host), headers, options, self._streams)

    async def renew(self) -> None:
        """The API server refused the credentials: read them again. Raises NotConfigured."""
        await self._refresh(force=True)

    async def close(self) -> None:
        """Close every connection."""
        if self._client is not None:
            retired, self._client = self._client, None
            await _close(retired, self._streams)

    async def _refresh(self, force: bool) -> None:
        asked_at = self._monotonic()
        async with self._reading:
            if self._client is not None and self._read_at >= asked_at:
                return  # somebody else did it while this one waited
            configuration = Configuration(connection_pool_maxsize=_UNLIMITED)
            # Looking for proxies, netrc and cookies at each request costs more than the request itself.
            configuration.client_session_kwargs = {
                "trust_env": bool(getproxies()),
                "cookie_jar": aiohttp.DummyCookieJar(),
            }
            try:
                await self._load(configuration)
            except (config.ConfigException, OSError, ValueError) as error:
                if self._client is None:
                    raise NotConfigured(self._trouble(error)) from error
                log.warning("the credentials cannot be read again, the old ones stay: %s", error)
                self._read_at = self._monotonic()
                return
            authorization = (await configuration.auth_settings()).get("BearerToken", {}).get("value")
            headers = {"Authorization": str(authorization)} if authorization else {}
            seen = _fingerprint(configuration)
            if self._client is None or force or seen != self._seen:
                retired, streams = self._client, self._streams
                self._client, self._streams = ApiClient(configuration), set()
                if retired is not None:
                    # Requests under way finish on the old connections; watches go over to the new ones.
                    _end(streams)
                    asyncio.get_running_loop().call_later(_MAX_AGE_S, _close_later, retired, streams)
            self._headers, self._seen, self._read_at = headers, seen, self._monotonic()

    async def _load(self, configuration: Configuration) -> None:
        if self._kubeconfig is None:
            config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
        elif not self._kubeconfig.is_file():
            raise OSError("there is no such file")
        else:
            await config.load_kube_config(  # type: ignore[no-untyped-call]
                str(self._kubeconfig), client_configuration=configuration, persist_config=False
            )

    def _trouble(self, error: Exception) -> str:
        if self._kubeconfig is not None:
            return f"--kubeconfig: {self._kubeconfig} cannot be used: {error}"
        return f"not in a cluster ({error}); give --kubeconfig FILE to run outside of one"


_closing: set[asyncio.Task[None]] = set()


def _close_later(client: ApiClient, streams: set[aiohttp.ClientResponse]) -> None:
    task = asyncio.get_running_loop().create_task(_close(client, streams))
    _closing.add(task)
    task.add_done_callback(_closing.discard)


async def _close(client: ApiClient, streams: set[aiohttp.ClientResponse]) -> None:
    _end(streams)
    await client.close()  # type: ignore[no-untyped-call]


def _end(streams: set[aiohttp.ClientResponse]) -> None:
    for response in tuple(streams):
        response.close()


def _fingerprint(configuration: Configuration) -> tuple[tuple[str, str], ...]:
    """What the TLS side was made of, by content: a kubelet writes all files of a volume anew when only the token
    changed. The token is no part of it, it goes into a header."""
    found = []
    for name in ("ssl_ca_cert", "cert_file", "key_file"):
        path = getattr(configuration, name)
        if path:
            try:
                found.append((path, hashlib.sha256(Path(path).read_bytes()).hexdigest()))
            except OSError:
                found.append((path, ""))
    return tuple(found)
