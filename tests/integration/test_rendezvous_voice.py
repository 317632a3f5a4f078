"""Only the leader answers agents: what a standby says, and what becomes of those who wait when a lease ends."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from dlcloud_operator.engine.clock import utc_now
from dlcloud_operator.engine.rendezvous import ServerLimits
from dlcloud_operator.engine.rendezvous.connections import Connections

from .test_rendezvous import KEY, PATH, Rig, in_round, parked, raw, report, rig, until

SPEAKER = Path(__file__).with_name("speaker.py")


class Voice:
    def __init__(self, speaks: bool) -> None:
        self.speaks = speaks

    def __call__(self) -> bool:
        return self.speaks


def with_voice(speaks: bool, test: Callable[[Rig, Voice], Coroutine[Any, Any, None]]) -> None:
    async def scenario() -> None:
        voice = Voice(speaks)
        async with rig(may_speak=voice) as one:
            await test(one, voice)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("method", "path", "token"),
    [
        ("POST", f"{PATH}/report", "token-0"),
        ("GET", f"{PATH}/assignment?wait=0", "token-0"),
        ("GET", f"{PATH}/assignment?wait=0", "made-up"),
        ("GET", "/elsewhere", ""),
        ("DELETE", "/", ""),
    ],
)
def test_a_standby_sends_everybody_to_the_leader(method: str, path: str, token: str) -> None:
    async def test(one: Rig, voice: Voice) -> None:
        one.server.publish(in_round(1))
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        data = json.dumps(report()).encode() if method == "POST" else None
        async with one.http.request(method, one.url + path, data=data, headers=headers) as answer:
            assert answer.status == 503
            assert answer.headers["Retry-After"] == "1"
            assert answer.headers["Connection"] == "close"
            assert "does not lead" in (await answer.json())["error"]
        assert one.server.reports_for(KEY).by_uid == {}
        assert one.news == []

    with_voice(False, test)


def test_a_malformed_request_gets_no_word_from_a_standby() -> None:
    async def test(one: Rig, voice: Voice) -> None:
        assert await raw(one, b"nonsense\r\n\r\n") == b""

    with_voice(False, test)


def test_those_who_wait_are_sent_away_when_the_lease_ends() -> None:
    async def test(one: Rig, voice: Voice) -> None:
        poll = await parked(one, after=1)
        voice.speaks = False
        status, answer = await asyncio.wait_for(poll, 2)
        assert status == 503
        assert "does not lead" in answer["error"]

    with_voice(True, test)


def test_a_connection_that_says_nothing_is_closed_when_the_lease_ends() -> None:
    async def test(one: Rig, voice: Voice) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
        head = f"GET {PATH}/assignment?wait=0 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token-0\r\n\r\n"
        writer.write(head.encode())
        assert b" 204 " in await reader.readuntil(b"\r\n\r\n")
        voice.speaks = False
        assert await asyncio.wait_for(reader.read(), 2) == b""
        writer.close()

    with_voice(True, test)


def test_a_round_that_comes_after_the_end_of_the_lease_is_not_handed_out() -> None:
    async def test(one: Rig, voice: Voice) -> None:
        poll = await parked(one)
        voice.speaks = False
        one.server.publish(in_round(1))
        assert (await asyncio.wait_for(poll, 2))[0] == 503

    with_voice(True, test)


def test_a_report_that_was_on_its_way_when_the_lease_ended_is_not_taken() -> None:
    async def test(one: Rig, voice: Voice) -> None:
        body = json.dumps(report()).encode()
        reader, writer = await asyncio.open_connection("127.0.0.1", one.port)
        head = f"POST {PATH}/report HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token-0\r\nContent-Length: {len(body)}"
        writer.write(head.encode() + b"\r\n\r\n" + body[:10])
        await until(lambda: one.server._book.reports_for(KEY).last_heard_any is not None)
        voice.speaks = False
        writer.write(body[10:])
        assert b" 503 " in await asyncio.wait_for(reader.readline(), 2)
        assert one.server.reports_for(KEY).by_uid == {}
        writer.close()

    with_voice(True, test)


def test_silent_agents_count_from_the_moment_the_server_leads() -> None:
    async def test(one: Rig, voice: Voice) -> None:
        await asyncio.sleep(0.3)  # longer than the server takes to look by itself
        leads_at = utc_now()
        voice.speaks = True
        assert one.server.reports_for(KEY).listening_since >= leads_at
        assert await one.post(report()) == (200, {})

    with_voice(False, test)


def test_what_is_ready_when_the_lease_ends_is_not_sent() -> None:
    class Late(asyncio.Protocol):
        """Answers when it was already forbidden to."""

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            voice.speaks = data == b"speak"
            self.transport.writelines([b"a ", b"round"])  # type: ignore[attr-defined]

    voice = Voice(True)

    async def scenario() -> None:
        connections = Connections(Late, ServerLimits(), voice)
        sock = socket.create_server(("127.0.0.1", 0))
        connections.start(sock, None)
        answers = []
        for said in (b"speak", b"be silent"):
            reader, writer = await asyncio.open_connection(*sock.getsockname())
            writer.write(said)
            try:
                answers.append(await asyncio.wait_for(reader.read(7), 2))
            except ConnectionResetError:
                answers.append(b"")
            writer.close()
        assert answers == [b"a round", b""]
        await connections.stop_accepting()
        connections.abort_all()

    asyncio.run(scenario())


def test_a_server_frozen_past_its_lease_hands_out_no_round_when_it_thaws() -> None:
    command = [sys.executable, str(SPEAKER), "4", "3.5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            status = asyncio.run(_poll_through_a_freeze(process, url))
        finally:
            process.kill()
    assert status in (0, 503)


async def _poll_through_a_freeze(process: subprocess.Popen[str], url: str) -> int:
    """The answer to a poll that was open when the process was stopped; 0 when the connection was closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
    path = "/v1/namespaces/default/jobs/job/pods/job-0-1/assignment"
    writer.write(f"GET {path}?wait=0 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t\r\n\r\n".encode())
    assert b" 204 " in await reader.readuntil(b"\r\n\r\n")  # it speaks, and has no round yet
    writer.write(f"GET {path}?wait=25 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t\r\n\r\n".encode())
    await asyncio.sleep(0.3)
    process.send_signal(signal.SIGSTOP)
    stopped = time.monotonic()
    await asyncio.sleep(
        max(0.0, stopped + 4.2 - time.monotonic())
    )  # its round's time and its lease's end pass meanwhile
    process.send_signal(signal.SIGCONT)
    try:
        line = await asyncio.wait_for(reader.readline(), 5)
    except ConnectionResetError:
        line = b""
    writer.close()
    return int(line.split()[1]) if line else 0
