"""The rendezvous server over real sockets: who is let in, what is refused, and that slow clients hold nobody up."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import resource
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from dlcloud_operator.api import Member, Phase, RoundStatus, TrainingJobSpec, TrainingJobStatus
from dlcloud_operator.core.model import JobKey, JobView
from dlcloud_operator.engine.clock import utc_now
from dlcloud_operator.engine.rendezvous import (
    AuthenticatorUnavailable,
    PodIdentity,
    RendezvousServer,
    ServerLimits,
    Unauthorized,
)
from dlcloud_operator.engine.rendezvous.connections import Connection

KEY = JobKey("default", "mnist")
SPEC = TrainingJobSpec.model_validate({"script": {"command": ["python", "train.py"]}, "workers": {"count": 2}})
START = datetime(2026, 1, 2, tzinfo=UTC)
TOKENS = {
    "token-0": PodIdentity("default", "mnist-0-1", "u0"),
    "token-1": PodIdentity("default", "mnist-1-1", "u1"),
    "token-gone": PodIdentity("default", "mnist-0-1", "u-before"),  # the same name in an earlier life
    "token-cousin": PodIdentity("default", "other-0-1", "o0"),
    "token-abroad": PodIdentity("elsewhere", "mnist-0-1", "e0"),
}
OWNERS = {"u0": KEY, "u1": KEY, "o0": JobKey("default", "other"), "e0": JobKey("elsewhere", "mnist")}
PATH = "/v1/namespaces/default/jobs/mnist/pods/mnist-0-1"


class TokenTable:
    async def identify(self, token: str) -> PodIdentity:
        if token == "token-too-early":
            raise AuthenticatorUnavailable("the keys cannot be read yet")
        if token not in TOKENS:
            raise Unauthorized("the token is unknown")
        return TOKENS[token]


def in_round(number: int, phase: Phase = Phase.RUNNING) -> JobView:
    members = [Member(index=i, pod=f"mnist-{i}-1", uid=f"u{i}", ranks=[i]) for i in range(2)]
    decided = RoundStatus(
        number=number,
        nonce="n",
        world_size=2,
        master="127.0.0.1",
        port=29500,
        threads=1,
        members=members,
        started_at=START,
    )
    return JobView(KEY, "job-uid", str(number), 1, START, TrainingJobStatus(phase=phase, round=decided), SPEC)


def report(**changes: Any) -> dict[str, Any]:
    return {"sentAt": utc_now().isoformat(), "round": 0, "address": "127.0.0.1", "port": 29500, **changes}


@dataclass
class Rig:
    server: RendezvousServer
    url: str
    http: aiohttp.ClientSession
    news: list[JobKey] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    async def post(self, body: Any, token: str = "token-0", path: str = PATH, **options: Any) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with self.http.post(f"{self.url}{path}/report", data=data, headers=headers, **options) as response:
            return response.status, await response.json()

    async def poll(
        self, after: Any = 0, wait: Any = 20, token: str = "token-0", path: str = PATH
    ) -> tuple[int, dict[str, Any]]:
        params = {"after": str(after), "wait": str(wait)}
        headers = {"Authorization": f"Bearer {token}"}
        async with self.http.get(f"{self.url}{path}/assignment", params=params, headers=headers) as response:
            return response.status, {} if response.status == 204 else await response.json()


@contextlib.asynccontextmanager
async def rig(
    limits: ServerLimits | None = None,
    tls: ssl.SSLContext | None = None,
    may_speak: Callable[[], bool] = lambda: True,
) -> AsyncIterator[Rig]:
    news: list[JobKey] = []

    def owner_of(namespace: str, pod: str, uid: str) -> JobKey | None:
        return OWNERS.get(uid)

    server = RendezvousServer(TokenTable(), owner_of, news.append, utc_now, limits, may_speak)
    url = await server.start(ssl_context=tls)
    connector = aiohttp.TCPConnector(limit=0, ssl=False)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=30)) as http:
        try:
            yield Rig(server, url, http, news)
        finally:
            await server.stop()


def with_rig(test: Callable[[Rig], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def scenario() -> None:
        async with rig(**options) as one:
            await test(one)

    asyncio.run(scenario())


async def parked(one: Rig, **arguments: Any) -> asyncio.Task[tuple[int, dict[str, Any]]]:
    """A poll that the server is holding."""
    before = one.server._book.reports_for(KEY).last_heard_any
    task = asyncio.create_task(one.poll(**arguments))
    await until(lambda: one.server._book.reports_for(KEY).last_heard_any != before)
    return task


async def until(condition: Callable[[], bool], limit_s: float = 5.0) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110 - no event announces it
            await asyncio.sleep(0.002)


# --- reports and polls of honest agents ---


def test_a_report_is_kept_and_told_to_the_engine_once() -> None:
    async def test(one: Rig) -> None:
        assert await one.post(report()) == (200, {})
        assert await one.post(report()) == (200, {})
        assert one.news == [KEY]
        kept = one.server.reports_for(KEY)
        assert kept.by_uid["u0"].address == "127.0.0.1"
        assert kept.last_heard_any is not None
        assert utc_now() - kept.last_heard_any < timedelta(seconds=5)

    with_rig(test)


def test_every_subscriber_hears_of_news() -> None:
    async def test(one: Rig) -> None:
        heard: list[JobKey] = []
        one.server.subscribe(heard.append)
        await one.post(report())
        assert (one.news, heard) == ([KEY], [KEY])

    with_rig(test)


def test_a_waiting_agent_gets_the_round_when_it_is_published() -> None:
    async def test(one: Rig) -> None:
        polls = [await parked(one), await parked(one, token="token-1", path=PATH.replace("-0-1", "-1-1"))]
        one.server.publish(in_round(1))
        (status, first), (_, second) = await asyncio.gather(*polls)
        assert (status, first["round"], first["ranks"], second["ranks"]) == (200, 1, [0], [1])

    with_rig(test)


def test_without_news_the_answer_is_204_after_the_time_asked_for() -> None:
    async def test(one: Rig) -> None:
        one.server.publish(in_round(3))
        start = time.monotonic()
        assert await one.poll(after=3, wait=0.2) == (204, {})
        assert 0.19 <= time.monotonic() - start < 2

    with_rig(test)


def test_the_end_of_the_job_is_always_news() -> None:
    async def test(one: Rig) -> None:
        one.server.publish(in_round(3, Phase.FAILED))
        assert await one.poll(after=3) == (200, {"kind": "finished", "phase": "Failed"})

    with_rig(test)


@pytest.mark.alone
def test_the_answer_follows_the_publication_within_10_ms() -> None:
    async def test(one: Rig) -> None:
        took = []
        for number in range(1, 31):
            poll = await parked(one, after=number - 1)
            start = time.perf_counter()
            one.server.publish(in_round(number))
            await poll
            took.append(time.perf_counter() - start)
        assert sorted(took)[len(took) // 2] < 0.010, took

    with_rig(test)


def test_a_third_poll_of_a_pod_ends_its_first() -> None:
    async def test(one: Rig) -> None:
        first, second = await parked(one), await parked(one)
        third = await parked(one)
        assert await asyncio.wait_for(first, 1) == (204, {})
        one.server.publish(in_round(1))
        assert [(await poll)[0] for poll in (second, third)] == [200, 200]

    with_rig(test)


def test_tls_is_spoken_when_a_context_is_given(tmp_path: Path) -> None:
    async def test(one: Rig) -> None:
        assert one.url.startswith("https://")
        assert await one.post(report()) == (200, {})

    with_rig(test, tls=server_context(tmp_path))


def server_context(folder: Path) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(utc_now() - timedelta(days=1))
        .not_valid_after(utc_now() + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    (folder / "tls.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "tls.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    return context


# --- who may speak ---


@pytest.mark.parametrize(
    ("token", "status"),
    [
        ("", 401),
        ("made-up", 401),
        ("token-too-early", 503),
        ("token-1", 403),
        ("token-gone", 403),
        ("token-cousin", 403),
        ("token-abroad", 403),
    ],
)
def test_any_token_but_the_pods_own_is_refused_and_changes_nothing(token: str, status: int) -> None:
    async def test(one: Rig) -> None:
        one.server.publish(in_round(1))
        before = one.server.reports_for(KEY)
        got, answer = await one.post(report(round=1), token=token)
        assert got == status
        assert list(answer) == ["error"]
        assert one.server.reports_for(KEY) == before
        assert one.news == []
        got, answer = await one.poll(token=token or "-")
        assert got == status
        assert "round" not in answer

    with_rig(test)


def test_a_pod_cannot_speak_under_another_jobs_path() -> None:
    async def test(one: Rig) -> None:
        status, _ = await one.post(report(), path=PATH.replace("/mnist/", "/other/"))
        assert status == 403
        assert one.server.reports_for(JobKey("default", "other")).by_uid == {}

    with_rig(test)


@pytest.mark.parametrize("header", ["token-0", "Basic token-0", "Bearer", "Bearer  "])
def test_only_the_bearer_scheme_is_understood(header: str) -> None:
    async def test(one: Rig) -> None:
        url = f"{one.url}{PATH}/report"
        async with one.http.post(url, data=b"{}", headers={"Authorization": header}) as response:
            assert response.status == 401
            assert response.headers["WWW-Authenticate"] == "Bearer"

    with_rig(test)


def test_no_token_reaches_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def test(one: Rig) -> None:
        await one.post(report(), token="secret-made-up")
        await one.post(b"{", token="token-0")
        broken = f"POST {PATH}/report HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret-\x01-broken\r\n\r\n"
        assert b" 400 " in (await raw(one, broken.encode())).splitlines()[0]

    with_rig(test)
    text = "\n".join(map(logging.Formatter().format, caplog.records))
    assert "refused 401" in text
    assert "Error handling request" in text
    assert "secret" not in text
    assert "token-0" not in text


# --- what is refused ---


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"not json", 400),
        (b"[]", 400),
        (b'{"round": NaN}', 400),
        (json.dumps({"sentAt": "2026-01-02T00:00:00Z", "round": "1", "address": "", "port": 0}).encode(), 400),
        (json.dumps({"sentAt": "2026-01-02T00:00:00Z", "round": 1, "address": "10.0.0.7", "port": 0}).encode(), 400),
        (b'{"a":' * 10_000, 400),
        (b" " * 65_537, 413),
    ],
    ids=["empty", "text", "list", "NaN", "type", "no port", "nested", "huge"],
)
def test_a_wrong_body_is_refused_in_one_sentence_and_changes_nothing(body: bytes, status: int) -> None:
    async def test(one: Rig) -> None:
        got, answer = await one.post(body)
        assert got == status
        assert 0 < len(answer["error"]) <= 300
        assert "\n" not in answer["error"]
        assert one.server.reports_for(KEY).by_uid == {}
        assert one.news == []

    with_rig(test)


def test_a_body_without_a_length_is_bounded_too() -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 1000

    async def test(one: Rig) -> None:
        headers = {"Authorization": "Bearer token-0"}
        async with one.http.post(f"{one.url}{PATH}/report", data=endless(), headers=headers) as response:
            assert response.status == 413

    with_rig(test)


def test_a_compressed_body_is_refused() -> None:
    async def test(one: Rig) -> None:
        headers = {"Authorization": "Bearer token-0", "Content-Encoding": "gzip"}
        async with one.http.post(f"{one.url}{PATH}/report", data=b"\x1f\x8b", headers=headers) as response:
            assert response.status == 415

    with_rig(test)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/namespaces/default/jobs/mnist", 404),
        ("GET", f"{PATH}/assignment/more", 404),
        ("POST", f"{PATH}/assignments", 404),
        ("POST", f"{PATH}/assignment", 405),
        ("GET", f"{PATH}/report", 405),
        ("DELETE", f"{PATH}/report", 405),
        ("GET", f"{PATH}/assignment?after=1.5", 400),
        ("GET", f"{PATH}/assignment?after=-1", 400),
        ("GET", f"{PATH}/assignment?after=nan", 400),
        ("GET", f"{PATH}/assignment?wait=forever", 400),
    ],
)
def test_a_wrong_request_is_named(method: str, path: str, status: int) -> None:
    async def test(one: Rig) -> None:
        headers = {"Authorization": "Bearer token-0"}
        async with one.http.request(method, f"{one.url}{path}", headers=headers) as response:
            assert response.status == status
            assert (await response.json())["error"]

    with_rig(test)


def test_a_pod_that_asks_too_often_is_slowed_down_and_another_is_not() -> None:
    async def test(one: Rig) -> None:
        statuses = [(await one.post(report()))[0] for _ in range(12)]
        assert statuses[:10] == [200] * 10
        assert 429 in statuses[10:]
        assert (await one.post(report(), "token-1", PATH.replace("-0-1", "-1-1")))[0] == 200

    with_rig(test, limits=ServerLimits(requests_per_s=1.0, requests_burst=10.0))


# --- slow clients ---


async def raw(one: Rig, sent: bytes) -> bytes:
    """Send bytes and read until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
    writer.write(sent)
    try:
        return await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()


async def open_slow(one: Rig, num: int, sent: bytes) -> list[socket.socket]:
    loop = asyncio.get_running_loop()
    slow = []
    for _ in range(num):
        sock = socket.socket()
        sock.setblocking(False)
        await loop.sock_connect(sock, ("127.0.0.1", one.port))
        await loop.sock_sendall(sock, sent)
        slow.append(sock)
    return slow


async def closed(sock: socket.socket, limit_s: float) -> bool:
    """Whether the server closes this connection in time."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(limit_s):
            while await loop.sock_recv(sock, 4096):
                pass
    except TimeoutError:
        return False
    except ConnectionError:
        return True
    return True


HALF_A_HEAD = b"POST / HTTP/1.1\r\nHost: x\r\nX-Slow: "
HALF_A_BODY = (
    f"POST {PATH}/report HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token-0\r\nContent-Length: 1000\r\n\r\n{{"
).encode()


@pytest.mark.parametrize("sent", [b"", HALF_A_HEAD], ids=["silent", "half a head"])
def test_a_hundred_slow_clients_do_not_delay_a_healthy_one(sent: bytes) -> None:
    async def test(one: Rig) -> None:
        slow = await open_slow(one, 100, sent)
        start = time.monotonic()
        assert await one.post(report()) == (200, {})
        assert time.monotonic() - start < 1
        for sock in slow:
            sock.close()

    with_rig(test)


def test_with_every_place_taken_by_slow_clients_a_healthy_one_still_gets_in() -> None:
    async def test(one: Rig) -> None:
        slow = await open_slow(one, 100, HALF_A_HEAD)
        start = time.monotonic()
        assert await one.post(report()) == (200, {})
        assert time.monotonic() - start < 1
        assert len(one.server._connections or ()) <= 20
        assert await closed(slow[0], 1)
        for sock in slow:
            sock.close()

    with_rig(test, limits=ServerLimits(connections=20))


def test_agents_at_work_keep_their_places_when_strangers_come() -> None:
    async def test(one: Rig) -> None:
        poll = await parked(one)
        slow = await open_slow(one, 50, HALF_A_HEAD)
        one.server.publish(in_round(1))
        assert (await poll)[0] == 200
        for sock in slow:
            sock.close()

    with_rig(test, limits=ServerLimits(connections=16))


@pytest.mark.parametrize("sent", [b"", HALF_A_HEAD, HALF_A_BODY], ids=["silent", "half a head", "half a body"])
def test_a_client_that_does_not_finish_its_request_is_shown_out(sent: bytes) -> None:
    async def test(one: Rig) -> None:
        [sock] = await open_slow(one, 1, sent)
        assert await closed(sock, 3)
        sock.close()

    with_rig(test, limits=ServerLimits(head_s=0.3, body_s=0.3))


def test_dripping_bytes_do_not_buy_time() -> None:
    async def test(one: Rig) -> None:
        [sock] = await open_slow(one, 1, HALF_A_HEAD)

        async def drip() -> None:
            while True:
                await asyncio.get_running_loop().sock_sendall(sock, b"x")
                await asyncio.sleep(0.05)

        dripping = asyncio.create_task(drip())
        assert await closed(sock, 3)
        dripping.cancel()
        await asyncio.gather(dripping, return_exceptions=True)
        sock.close()

    with_rig(test, limits=ServerLimits(head_s=0.4))


def test_a_client_that_never_shakes_hands_is_shown_out(tmp_path: Path) -> None:
    async def test(one: Rig) -> None:
        [sock] = await open_slow(one, 1, b"")
        assert await one.post(report()) == (200, {})
        assert await closed(sock, 3)
        sock.close()

    with_rig(test, limits=ServerLimits(head_s=0.4), tls=server_context(tmp_path))


@pytest.fixture
def many_files() -> Iterator[None]:
    """Room for both ends of 1,100 connections in one process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = 8192 if hard == resource.RLIM_INFINITY else min(8192, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, enough), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def shaken(one: Rig, num: int, sent: bytes) -> list[asyncio.StreamWriter]:
    """TLS clients that sent this and nothing more."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    writers = []
    for _ in range(num):
        _, writer = await asyncio.open_connection("127.0.0.1", one.port, ssl=context)
        writer.write(sent)
        writers.append(writer)
    return writers


def num_open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def num_alive(kind: type) -> int:
    gc.collect()
    return sum(issubclass(type(thing), kind) for thing in gc.get_objects())  # isinstance asks the thing: some warn


@pytest.mark.alone
def test_beside_1000_idle_and_100_slow_clients_agents_are_answered_and_nothing_of_them_stays(
    tmp_path: Path, many_files: None
) -> None:
    async def test(one: Rig) -> None:
        assert await one.post(report()) == (200, {})
        files, connections = num_open_files(), num_alive(Connection)
        idle = await open_slow(one, 900, b"")  # not even a handshake
        strangers = await shaken(one, 100, b"") + await shaken(one, 100, HALF_A_HEAD)
        assert len(one.server._connections or ()) >= 1000
        took = []
        poll = await parked(one)
        for _ in range(30):
            start = time.monotonic()
            assert (await one.post(report()))[0] == 200
            took.append(time.monotonic() - start)
        assert sorted(took)[28] < 0.5, took
        start = time.monotonic()
        one.server.publish(in_round(1))
        assert (await poll)[0] == 200
        assert time.monotonic() - start < 0.5
        for sock in idle:
            sock.close()
        for writer in strangers:
            writer.transport.abort()
        await until(lambda: len(one.server._connections or ()) <= 2, 10)
        await until(lambda: num_open_files() <= files + 2, 10)  # one for the poll's connection, at both ends
        await until(lambda: num_alive(Connection) <= connections + 2, 10)  # the accepting loop holds the last one, too

    limits = ServerLimits(head_s=60.0, requests_burst=1000.0)  # none of them is shown out: this is the worst of it
    with_rig(test, tls=server_context(tmp_path), limits=limits)


def test_a_poll_of_a_client_that_left_is_dropped() -> None:
    async def test(one: Rig) -> None:
        poll = await parked(one)
        poll.cancel()
        await until(lambda: not one.server._book._jobs)

    with_rig(test)


def test_the_server_stops_within_a_second_though_clients_hang_on() -> None:
    async def scenario() -> None:
        async with rig() as one:
            polls = [await parked(one) for _ in range(2)]
            slow = await open_slow(one, 20, HALF_A_HEAD) + await open_slow(one, 2, HALF_A_BODY)
            start = time.monotonic()
            await one.server.stop()
            assert time.monotonic() - start < 1
            assert [status for status, _ in await asyncio.gather(*polls)] == [204, 204]
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", one.port)
            for sock in slow:
                sock.close()

    asyncio.run(scenario())
