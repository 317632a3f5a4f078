"""Admits clients to a server and shows the slow ones out: connections have deadlines and a bound on their number.

Standard library only; the HTTP of a connection is done by the protocol it is given. asyncio's own server bounds neither
the connections nor the time a client takes to send its first request, and does not count those still shaking hands.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import ssl
from asyncio import sslproto
from collections.abc import Callable, Iterable
from typing import Any, cast

from .limits import ServerLimits

log = logging.getLogger(__name__)

_SPARE_FILES = 128  # descriptors left to the rest of the process
_TLS_BUFFER_BYTES = 16 * 1024  # a TLS record; asyncio's own 256 KiB for each connection are 1 GiB for 4,000


class _Gate:
    """A transport that asks right before bytes are written; when they may not be, the client is cut off instead.

    An answer can be ready and its process frozen before it is sent: only here is it known when that really happens.
    """

    def __init__(self, transport: asyncio.Transport, may_write: Callable[[], bool]) -> None:
        self._transport = transport
        self._may_write = may_write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._may_write():
            self._transport.write(data)
        else:
            self._transport.abort()

    def writelines(self, chunks: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(chunks))


class Connection(asyncio.Protocol):
    """One client: everything goes through to `inner`, and `deadline` says until when it may stay."""

    def __init__(self, inner: asyncio.Protocol, owner: Connections, sock: socket.socket) -> None:
        self.inner = inner
        self.proven = False  # it showed a pod's token: never made to leave for another's sake
        self.deadline = 0.0
        self.in_request = False  # from its head until its answer
        self.apology = False  # what is written next says nothing but that this server may not speak
        self.connecting: asyncio.Task[None] | None = None
        self._owner = owner
        self._sock = sock
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        gate = _Gate(cast(asyncio.Transport, transport), self._may_write)
        self.inner.connection_made(cast(asyncio.Transport, gate))

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.release(self)
        self.inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self.inner.eof_received()

    def pause_writing(self) -> None:
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.inner.resume_writing()

    def _may_write(self) -> bool:
        return self.apology or self._owner.may_speak()

    def close(self) -> None:
        """Close once everything is sent; a client that is still shaking hands stays."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close at once, without a word."""
        if isinstance(self._transport, asyncio.Transport):
            # A TLS transport that has just lost its connection no longer knows how (AttributeError in Python 3.11).
            with contextlib.suppress(AttributeError):
                self._transport.abort()
        else:
            if self.connecting is not None:
                self.connecting.cancel()
            self._sock.close()
            self._owner.release(self)


class Connections:
    """Accepts clients on one socket, at most `limits.connections` at a time."""

    def __init__(
        self,
        make_protocol: Callable[[], asyncio.Protocol],
        limits: ServerLimits,
        may_speak: Callable[[], bool] = lambda: True,
    ) -> None:
        """`may_speak` is asked before anything but a `Connection.apology` is written."""
        self._make_protocol = make_protocol
        self._limits = limits
        self.may_speak = may_speak
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        room = limits.connections if files == resource.RLIM_INFINITY else max(16, files - _SPARE_FILES)
        self._max = min(limits.connections, room)
        self._open: dict[asyncio.Protocol, Connection] = {}  # by inner protocol, oldest first
        self._tasks: list[asyncio.Task[None]] = []
        self._listening: socket.socket | None = None

    def start(self, sock: socket.socket, ssl_context: ssl.SSLContext | None) -> None:
        """Accept clients of a listening socket until `stop`."""
        if ssl_context is not None:
            sslproto.SSLProtocol.max_size = _TLS_BUFFER_BYTES
        sock.setblocking(False)
        self._listening = sock
        self._tasks = [
            asyncio.create_task(self._accept(sock, ssl_context), name="rendezvous-accept"),
            asyncio.create_task(self._sweep(), name="rendezvous-sweep"),
        ]

    async def stop_accepting(self) -> None:
        """Refuse new clients."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._listening is not None:
            self._listening.close()

    def abort_all(self) -> None:
        """Close what is still open."""
        for connection in list(self._open.values()):
            connection.abort()

    def close_idle(self) -> None:
        """Close those that wait for no answer."""
        for connection in list(self._open.values()):
            if not connection.in_request:
                connection.close()

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, inner: asyncio.Protocol) -> Connection | None:
        """A request's head was read. Its body, its long poll and its handling may take so long."""
        connection = self._open.get(inner)
        if connection is not None:
            connection.in_request = True
            self._allow(connection, self._limits.body_s + self._limits.poll_s + self._limits.head_s)
        return connection

    def end(self, connection: Connection) -> None:
        """The answer is ready: the client may take some time to read it and to ask again."""
        connection.in_request = False
        self._allow(connection, self._limits.idle_s if connection.proven else self._limits.head_s)

    def release(self, connection: Connection) -> None:
        """The connection is closed."""
        self._open.pop(connection.inner, None)

    def _allow(self, connection: Connection, seconds: float) -> None:
        connection.deadline = asyncio.get_running_loop().time() + seconds

    async def _accept(self, sock: socket.socket, ssl_context: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(sock)
            except OSError as error:
                log.warning("no connection can be accepted: %s", error)
                await asyncio.sleep(0.1)  # out of descriptors: without a pause this loop would spin
                continue
            if len(self._open) >= self._max and not self._make_room():
                client.close()
                continue
            connection = Connection(self._make_protocol(), self, client)
            self._allow(connection, self._limits.head_s)
            self._open[connection.inner] = connection
            connection.connecting = asyncio.create_task(self._connect(connection, client, ssl_context))

    def _make_room(self) -> bool:
        """Show out the oldest client that has not proven to be a pod of ours."""
        victim = next((connection for connection in self._open.values() if not connection.proven), None)
        if victim is None:
            return False
        victim.abort()
        self.release(victim)
        return True

    async def _connect(self, connection: Connection, client: socket.socket, ssl_context: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        handshake_s = None if ssl_context is None else self._limits.head_s
        try:
            client.setblocking(False)
            with contextlib.suppress(OSError):
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.connect_accepted_socket(
                lambda: connection, client, ssl=ssl_context, ssl_handshake_timeout=handshake_s
            )
        except (OSError, ValueError) as error:  # a failed handshake, or a client that left during it
            log.debug("a connection failed: %s", error)
            client.close()
            self.release(connection)

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(1.0, self._limits.head_s / 4))
            now = loop.time()
            for connection in [one for one in self._open.values() if one.deadline <= now]:
                connection.abort()
