"""Events on a job: told once, repetitions counted, floods held back; nobody waits for them, nothing fails by them."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest

from dlcloud_operator.core.model import Emit
from dlcloud_operator.kube import events as module
from dlcloud_operator.kube.api import ApiError
from dlcloud_operator.kube.events import EventRecorder

from .objects import CREATED, Json, job_view

JOB = job_view()
PATH = "/api/v1/namespaces/default/events"


class EventServer:
    """Keeps events as an API server does."""

    def __init__(self) -> None:
        self.events: dict[str, Json] = {}
        self.num_creates = 0
        self.num_patches = 0
        self.errors: list[Exception] = []
        self.held: asyncio.Event | None = None

    async def create(self, path: str, body: Mapping[str, Any]) -> Any:
        await self._answer()
        self.num_creates += 1
        self.events[f"{path}/{body['metadata']['name']}"] = dict(body)

    async def merge(self, path: str, patch: Mapping[str, Any]) -> Any:
        await self._answer()
        if path not in self.events:
            raise ApiError(404, "NotFound", "not found")
        self.num_patches += 1
        self.events[path] |= patch

    async def _answer(self) -> None:
        if self.held is not None:
            await self.held.wait()
        if self.errors:
            raise self.errors.pop(0)

    def has_written(self, times: int) -> bool:
        return self.num_creates + self.num_patches == times

    @property
    def told(self) -> list[tuple[str, int]]:
        return [(event["message"], event["count"]) for event in self.events.values()]


class Clock:
    def __init__(self) -> None:
        self.now = CREATED

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


Scene = Callable[[EventServer, EventRecorder, Clock], Awaitable[None]]


def play(scene: Scene) -> EventServer:
    """Run a scene with a recorder that sends; it is stopped at the end, and so has sent all."""
    server, clock = EventServer(), Clock()

    async def run() -> None:
        recorder = EventRecorder(server, clock, "dlcloud-operator-0")
        recorder.start()
        await scene(server, recorder, clock)
        await recorder.stop()

    asyncio.run(run())
    return server


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def test_an_event_is_written_on_its_job() -> None:
    async def scene(_: EventServer, recorder: EventRecorder, __: Clock) -> None:
        await recorder.emit(JOB, Emit("RoundStarted", "round 1: 2 workers"))

    ((path, event),) = play(scene).events.items()
    assert path.startswith(f"{PATH}/digits.")
    assert event["involvedObject"] == {
        "apiVersion": "dlcloud.dev/v1",
        "kind": "TrainingJob",
        "namespace": "default",
        "name": "digits",
        "uid": "job-uid",
        "resourceVersion": "12",
    }
    assert (event["reason"], event["message"], event["type"]) == ("RoundStarted", "round 1: 2 workers", "Normal")
    assert (event["count"], event["firstTimestamp"], event["lastTimestamp"]) == (1, *["2026-01-02T03:04:05Z"] * 2)
    assert event["source"] == {"component": "dlcloud-operator"}
    assert (event["reportingComponent"], event["reportingInstance"]) == ("dlcloud-operator", "dlcloud-operator-0")


def test_a_warning_is_one() -> None:
    async def scene(_: EventServer, recorder: EventRecorder, __: Clock) -> None:
        await recorder.emit(JOB, Emit("Failed", "no", warning=True))

    assert [event["type"] for event in play(scene).events.values()] == ["Warning"]


def test_a_repetition_raises_the_count_and_the_last_time() -> None:
    async def scene(server: EventServer, recorder: EventRecorder, clock: Clock) -> None:
        for number in range(3):
            await recorder.emit(JOB, Emit("FailedCreate", "quota", warning=True))
            await until(functools.partial(server.has_written, number + 1))
            clock.pass_(10)

    server = play(scene)
    assert server.told == [("quota", 3)]
    (event,) = server.events.values()
    assert (event["firstTimestamp"], event["lastTimestamp"]) == ("2026-01-02T03:04:05Z", "2026-01-02T03:04:25Z")


def test_repetitions_that_wait_are_one_write() -> None:
    async def scene(server: EventServer, recorder: EventRecorder, _: Clock) -> None:
        await recorder.emit(JOB, Emit("A", "a"))
        await until(lambda: server.num_creates == 1)
        for __ in range(5):
            await recorder.emit(JOB, Emit("A", "a"))

    server = play(scene)
    assert server.told == [("a", 6)]
    assert server.num_patches == 1


@pytest.mark.parametrize("other", [Emit("B", "a"), Emit("A", "b")], ids=["another reason", "another message"])
def test_what_differs_is_an_event_of_its_own(other: Emit) -> None:
    async def scene(_: EventServer, recorder: EventRecorder, __: Clock) -> None:
        await recorder.emit(JOB, Emit("A", "a"))
        await recorder.emit(JOB, other)

    assert play(scene).num_creates == 2


def test_the_same_of_a_job_created_again_is_an_event_of_its_own() -> None:
    async def scene(_: EventServer, recorder: EventRecorder, __: Clock) -> None:
        await recorder.emit(JOB, Emit("A", "a"))
        await recorder.emit(job_view(uid="another"), Emit("A", "a"))

    assert play(scene).num_creates == 2


def test_after_10_minutes_the_same_is_a_new_event() -> None:
    async def scene(_: EventServer, recorder: EventRecorder, clock: Clock) -> None:
        await recorder.emit(JOB, Emit("A", "a"))
        clock.pass_(601)
        await recorder.emit(JOB, Emit("A", "a"))

    assert play(scene).told == [("a", 1), ("a", 1)]


def test_an_event_the_api_server_no_longer_has_is_written_again_with_its_count() -> None:
    async def scene(server: EventServer, recorder: EventRecorder, _: Clock) -> None:
        await recorder.emit(JOB, Emit("A", "a"))
        await until(lambda: server.num_creates == 1)
        server.events.clear()
        await recorder.emit(JOB, Emit("A", "a"))

    assert play(scene).told == [("a", 2)]


def test_a_flood_is_held_back_and_the_next_event_tells_how_much_is_missing() -> None:
    async def scene(_: EventServer, recorder: EventRecorder, clock: Clock) -> None:
        for number in range(100):
            await recorder.emit(JOB, Emit("A", f"number {number}"))
        clock.pass_(5)
        await recorder.emit(JOB, Emit("A", "at last"))
        clock.pass_(5)
        await recorder.emit(JOB, Emit("A", "and then"))

    server = play(scene)
    assert [message for message, _ in server.told[24:]] == [
        "number 24",
        "at last (75 events before this one left out)",
        "and then",
    ]


def test_a_flood_of_one_job_takes_nothing_from_another() -> None:
    async def scene(_: EventServer, recorder: EventRecorder, __: Clock) -> None:
        for number in range(100):
            await recorder.emit(JOB, Emit("A", f"number {number}"))
        await recorder.emit(job_view(uid="another", name="other"), Emit("A", "heard"))

    assert play(scene).told[-1] == ("heard", 1)


def test_a_flood_of_one_and_the_same_is_counted_whole() -> None:
    async def scene(_: EventServer, recorder: EventRecorder, clock: Clock) -> None:
        for __ in range(100):
            await recorder.emit(JOB, Emit("A", "a"))
            await asyncio.sleep(0)
        clock.pass_(5)
        await recorder.emit(JOB, Emit("A", "a"))

    server = play(scene)
    assert server.told == [("a", 101)]
    assert server.num_patches <= 25


def test_long_texts_are_cut_to_what_the_api_server_takes() -> None:
    async def scene(_: EventServer, recorder: EventRecorder, __: Clock) -> None:
        await recorder.emit(JOB, Emit("R" * 200, "ü" * 2000))

    ((event),) = play(scene).events.values()
    assert len(event["message"].encode()) <= 1024 and event["message"].endswith("ü…")
    assert len(event["reason"]) == 128


def test_an_event_that_is_refused_is_lost_and_the_next_is_written() -> None:
    async def scene(server: EventServer, recorder: EventRecorder, _: Clock) -> None:
        server.errors = [ApiError(403, "Forbidden", "namespace is being terminated"), OSError("reset")]
        for number in range(3):
            await recorder.emit(JOB, Emit("A", f"number {number}"))

    assert play(scene).told == [("number 2", 1)]


def test_nobody_waits_for_an_api_server_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FLUSH_S", 0.05)

    async def scene(server: EventServer, recorder: EventRecorder, _: Clock) -> None:
        server.held = asyncio.Event()
        async with asyncio.timeout(5):
            for number in range(30):
                await recorder.emit(job_view(uid=str(number)), Emit("A", "a"))

    assert play(scene).told == []


def test_a_queue_that_is_full_loses_events_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_QUEUED", 2)
    server, clock = EventServer(), Clock()

    async def run() -> None:
        recorder = EventRecorder(server, clock)
        for number in range(5):
            await recorder.emit(JOB, Emit("A", f"number {number}"))
        recorder.start()
        await recorder.stop()

    asyncio.run(run())
    assert server.told == [("number 0", 1), ("number 1", 1)]


def test_what_waits_at_the_end_is_still_sent() -> None:
    async def scene(server: EventServer, recorder: EventRecorder, _: Clock) -> None:
        server.held = asyncio.Event()
        for number in range(5):
            await recorder.emit(JOB, Emit("A", f"number {number}"))
        asyncio.get_running_loop().call_later(0.02, server.held.set)

    assert len(play(scene).told) == 5
