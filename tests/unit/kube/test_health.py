"""The port for probes and Prometheus, over real HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

import aiohttp
import pytest

from dlcloud_operator.engine.observer import QueueState
from dlcloud_operator.kube.health import Check, HealthServer, lives, queue_moves
from dlcloud_operator.kube.metrics import Metrics

Ask = Callable[..., Awaitable[tuple[int, str, Mapping[str, str]]]]


def well() -> str:
    return ""


def serving(
    test: Callable[[Ask, str], Awaitable[None]],
    live: Mapping[str, Check] | None = None,
    ready: Mapping[str, Check] | None = None,
) -> None:
    async def scenario() -> None:
        server = HealthServer(Metrics("1.2.3", list), live or {}, ready or {})
        url = await server.start("127.0.0.1", 0)
        try:
            async with aiohttp.ClientSession() as http:

                async def ask(path: str, method: str = "GET", **headers: str) -> tuple[int, str, Mapping[str, str]]:
                    async with http.request(method, url + path, headers=headers) as answer:
                        return answer.status, await answer.text(), dict(answer.headers)

                await test(ask, url)
        finally:
            await server.stop()

    asyncio.run(asyncio.wait_for(scenario(), 20))


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_a_process_that_is_well_answers_200(path: str) -> None:
    async def test(ask: Ask, url: str) -> None:
        status, text, _ = await ask(path)
        assert (status, text) == (200, "ok\n")

    serving(test, {"queue": well}, {"api server": well})


def test_what_is_not_well_is_told_in_a_sentence_each() -> None:
    async def test(ask: Ask, url: str) -> None:
        status, text, _ = await ask("/healthz")
        assert (status, text) == (503, "queue: it is stuck\nlease: nobody keeps it\n")

    serving(test, {"queue": lambda: "it is stuck", "certificates": well, "lease": lambda: "nobody keeps it"})


def test_a_process_that_is_not_ready_yet_is_alive_all_the_same() -> None:
    async def test(ask: Ask, url: str) -> None:
        assert (await ask("/healthz"))[0] == 200
        assert (await ask("/readyz"))[0] == 503

    serving(test, ready={"api server": lambda: "it has not answered yet"})


def test_a_check_that_fails_by_itself_is_no_ok(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> str:
        raise RuntimeError("a check of ours")

    async def test(ask: Ask, url: str) -> None:
        status, text, _ = await ask("/healthz")
        assert status == 500
        assert "a check of ours" not in text

    serving(test, {"broken": broken})
    assert "a check of ours" in caplog.text


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/", 404), ("POST", "/healthz", 405)])
def test_anything_else_is_refused(method: str, path: str, status: int) -> None:
    async def test(ask: Ask, url: str) -> None:
        assert (await ask(path, method))[0] == status

    serving(test)


def test_metrics_are_served_compressed_to_who_accepts_that_and_plain_to_the_others() -> None:
    async def test(ask: Ask, url: str) -> None:
        for encoding in ("gzip", "identity"):
            status, text, headers = await ask("/metrics", **{"Accept-Encoding": encoding})
            assert (status, headers.get("Content-Encoding", "identity")) == (200, encoding)
            assert headers["Content-Type"].startswith("text/plain")
            assert 'dlcloud_operator_build_info{python="' in text

    serving(test)


def test_a_head_request_has_no_body() -> None:
    async def test(ask: Ask, url: str) -> None:
        status, text, _ = await ask("/healthz", "HEAD")
        assert (status, text) == (200, "")

    serving(test)


def test_too_many_clients_are_shown_out_and_a_probe_is_still_answered() -> None:
    async def test(ask: Ask, url: str) -> None:
        port = int(url.rpartition(":")[2])
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(100)]
        assert (await ask("/healthz"))[0] == 200
        first, _ = idle[0]
        assert await asyncio.wait_for(first.read(), 5) == b""  # closed for the sake of the later ones
        for _, writer in idle:
            writer.close()

    serving(test)


def test_no_header_of_a_client_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def test(ask: Ask, url: str) -> None:
        port = int(url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /metrics HTTP/1.1\r\nAuthorization: Bearer secret\x00token\r\n\r\n")
        assert b"400" in await asyncio.wait_for(reader.read(), 5)
        writer.close()
        await ask("/nowhere?token=secret", Authorization="Bearer secret")

    with caplog.at_level(logging.DEBUG):
        serving(test)
    assert "secret" not in caplog.text


@pytest.mark.parametrize(("busy_s", "moves"), [(0.0, True), (179.0, True), (181.0, False)])
def test_a_pass_that_takes_too_long_means_that_the_queue_is_stuck(busy_s: float, moves: bool) -> None:
    assert (queue_moves(lambda: QueueState(busy=1, oldest_busy_s=busy_s))() == "") is moves


def test_a_standby_has_no_queue_and_is_well() -> None:
    assert queue_moves(lambda: None)() == ""


def test_a_task_that_ended_is_noticed() -> None:
    async def scenario() -> None:
        gate = asyncio.Event()

        async def work() -> None:
            await gate.wait()

        task = asyncio.create_task(work())
        check = lives(lambda: task, "the loop that keeps the lease")
        assert check() == ""
        gate.set()
        await task
        assert check() == "the loop that keeps the lease has ended"

    asyncio.run(scenario())


def test_a_task_that_was_not_started_yet_is_no_trouble() -> None:
    assert lives(lambda: None, "the loop")() == ""
