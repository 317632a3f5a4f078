"""The keyed queue: coalescing, one handling at a time, timers, backoff, stop."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlcloud_operator.engine.observer import QueueState
from dlcloud_operator.engine.queue import Backoff, KeyedQueue

from .memory_cluster import until

NO_PAUSE = Backoff(first_s=0.0, max_s=0.0)


async def running(queue: KeyedQueue[str], test: Callable[[], Awaitable[None]]) -> None:
    task = asyncio.create_task(queue.run())
    try:
        await test()
    finally:
        queue.stop()
        await asyncio.wait_for(task, 2)


def go(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def test_a_key_added_many_times_before_it_is_handled_is_handled_once() -> None:
    async def scenario() -> None:
        seen: list[str] = []

        async def handle(key: str) -> None:
            seen.append(key)

        queue = KeyedQueue(handle, workers=2)
        for key in ("a", "b", "a", "a"):
            queue.add(key)
        await running(queue, lambda: until(lambda: len(queue) == 0))
        assert sorted(seen) == ["a", "b"]

    go(scenario())


def test_a_key_added_while_it_is_handled_is_handled_exactly_once_more() -> None:
    async def scenario() -> None:
        started, finish = asyncio.Event(), asyncio.Event()
        handled = 0

        async def handle(key: str) -> None:
            nonlocal handled
            handled += 1
            started.set()
            await finish.wait()

        async def act() -> None:
            queue.add("a")
            await started.wait()
            for _ in range(3):
                queue.add("a")
            finish.set()
            await until(lambda: len(queue) == 0)

        queue = KeyedQueue(handle)
        await running(queue, act)
        assert handled == 2

    go(scenario())


def test_a_blocked_key_does_not_hold_up_the_others() -> None:
    async def scenario() -> None:
        seen: list[str] = []

        async def handle(key: str) -> None:
            if key == "stuck":
                await asyncio.Event().wait()
            seen.append(key)

        async def act() -> None:
            for key in ("stuck", "a", "b", "c"):
                queue.add(key)
            await until(lambda: len(seen) == 3)

        queue = KeyedQueue(handle, workers=2)
        await running(queue, act)
        assert seen == ["a", "b", "c"]

    go(scenario())


def test_of_two_times_for_a_key_the_earlier_holds() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        at: list[float] = []

        async def handle(key: str) -> None:
            at.append(loop.time())

        async def act() -> None:
            start = loop.time()
            queue.add_at("a", start + 60)
            queue.add_at("a", start + 0.05)
            queue.add_at("a", start + 30)
            await until(lambda: bool(at))
            assert 0.04 <= at[0] - start < 1

        await running(queue := KeyedQueue(handle), act)

    go(scenario())


def test_a_time_given_before_the_start_holds_after_it() -> None:
    async def scenario() -> None:
        seen: list[str] = []

        async def handle(key: str) -> None:
            seen.append(key)

        queue = KeyedQueue(handle)
        queue.add_at("a", asyncio.get_running_loop().time() + 0.02)
        await running(queue, lambda: until(lambda: seen == ["a"]))

    go(scenario())


def test_a_handling_answers_the_wish_for_a_later_one() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        seen: list[str] = []

        async def handle(key: str) -> None:
            seen.append(key)

        async def act() -> None:
            queue.add_at("a", loop.time() + 0.05)
            queue.add("a")
            queue.add_at("marker", loop.time() + 0.1)
            await until(lambda: "marker" in seen)

        await running(queue := KeyedQueue(handle), act)
        assert seen == ["a", "marker"]

    go(scenario())


def test_a_failing_key_is_tried_again_until_it_succeeds_and_a_success_resets_the_pause() -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        at: list[float] = []

        async def handle(key: str) -> None:
            at.append(loop.time())
            if len(at) in (1, 2, 3, 5):
                raise OSError("no route")

        async def act() -> None:
            queue.add("a")
            await until(lambda: len(at) == 4)
            queue.add("a")
            await until(lambda: len(at) == 6)

        queue = KeyedQueue(handle, backoff=Backoff(first_s=0.03, max_s=1.0, jitter=0.0))
        await running(queue, act)
        pauses = [after - before for before, after in itertools.pairwise(at)]
        assert pauses[0] >= 0.029
        assert pauses[1] >= 0.059
        assert pauses[2] >= 0.119
        assert 0.029 <= pauses[4] < 0.11  # the first pause again

    go(scenario())


def test_an_error_of_one_key_does_not_slow_another() -> None:
    async def scenario() -> None:
        seen: Counter[str] = Counter()

        async def handle(key: str) -> None:
            seen[key] += 1
            if key == "bad":
                raise ValueError("always")

        async def act() -> None:
            queue.add("bad")
            for _ in range(20):
                queue.add("good")
                await until(lambda: len(queue) == 0)

        await running(queue := KeyedQueue(handle, workers=1, backoff=Backoff(first_s=30.0)), act)
        assert seen == {"bad": 1, "good": 20}

    go(scenario())


def test_a_cancellation_from_inside_the_handler_does_not_end_its_worker() -> None:
    async def scenario() -> None:
        calls = 0

        async def handle(key: str) -> None:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise asyncio.CancelledError

        async def act() -> None:
            queue.add("a")
            await until(lambda: calls == 2)

        await running(queue := KeyedQueue(handle, workers=1, backoff=NO_PAUSE), act)

    go(scenario())


def test_stop_cancels_what_is_being_handled_and_drops_what_waits() -> None:
    async def scenario() -> None:
        seen: list[str] = []
        cancelled: list[str] = []

        async def handle(key: str) -> None:
            seen.append(key)
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.append(key)
                raise

        queue = KeyedQueue(handle, workers=1)
        task = asyncio.create_task(queue.run())
        queue.add("a")
        queue.add("b")
        await until(lambda: seen == ["a"])
        queue.stop()
        await asyncio.wait_for(task, 1)
        queue.add("c")
        assert (seen, cancelled, len(queue)) == (["a"], ["a"], 0)

    go(scenario())


# --- what may wait ---


def test_what_is_urgent_goes_before_what_may_wait() -> None:
    async def scenario() -> None:
        seen: list[str] = []

        async def handle(key: str) -> None:
            seen.append(key)

        queue = KeyedQueue(handle, workers=1)
        for number in range(100):
            queue.add(f"resync-{number}", urgent=False)
        queue.add("urgent")
        await running(queue, lambda: until(lambda: len(queue) == 0))
        assert seen[0] == "urgent"
        assert len(seen) == 101

    go(scenario())


def test_a_key_that_waits_and_becomes_urgent_is_handled_once_and_first() -> None:
    async def scenario() -> None:
        seen: list[str] = []

        async def handle(key: str) -> None:
            seen.append(key)

        queue = KeyedQueue(handle, workers=1)
        for key in ("a", "b", "c"):
            queue.add(key, urgent=False)
        queue.add("c")
        queue.add("c", urgent=False)
        await running(queue, lambda: until(lambda: len(queue) == 0))
        assert seen == ["c", "a", "b"]

    go(scenario())


def test_what_may_wait_is_not_kept_from_its_turn_for_ever() -> None:
    async def scenario() -> None:
        seen: Counter[str] = Counter()

        async def handle(key: str) -> None:
            seen[key] += 1
            if not seen["patient"]:
                queue.add(key)  # urgent again and again

        queue = KeyedQueue(handle, workers=1)
        queue.add("patient", urgent=False)
        for key in ("busy-1", "busy-2"):
            queue.add(key)
        await running(queue, lambda: until(lambda: seen["patient"] == 1))
        assert sum(seen.values()) >= 8

    go(scenario())


def test_a_key_wanted_urgently_while_it_is_handled_stays_urgent() -> None:
    async def scenario() -> None:
        seen: list[str] = []
        started, finish = asyncio.Event(), asyncio.Event()

        async def handle(key: str) -> None:
            seen.append(key)
            started.set()
            await finish.wait()

        async def act() -> None:
            queue.add("a")
            await started.wait()
            queue.add("b", urgent=False)
            queue.add("a", urgent=False)
            queue.add("a")
            queue.add("a", urgent=False)
            finish.set()
            await until(lambda: len(queue) == 0)

        await running(queue := KeyedQueue(handle, workers=1), act)
        assert seen == ["a", "a", "b"]

    go(scenario())


def test_handlings_that_never_wait_leave_the_event_loop_to_others_in_between() -> None:
    async def scenario() -> None:
        handled = 0
        most_between_ticks = 0

        async def handle(key: str) -> None:
            nonlocal handled
            handled += 1
            busy_until = time.perf_counter() + 0.004
            while time.perf_counter() < busy_until:
                pass

        async def tick() -> None:
            nonlocal most_between_ticks
            while True:
                before = handled
                await asyncio.sleep(0)
                most_between_ticks = max(most_between_ticks, handled - before)

        queue = KeyedQueue(handle, workers=32)
        for number in range(100):
            queue.add(str(number), urgent=False)
        ticker = asyncio.create_task(tick())
        await running(queue, lambda: until(lambda: handled == 100))
        ticker.cancel()
        assert 2 <= most_between_ticks <= 6  # 20 ms' worth, not one and not all

    go(scenario())


def test_the_queue_tells_what_waits_and_for_how_long() -> None:
    async def scenario() -> None:
        started, finish = asyncio.Event(), asyncio.Event()

        async def handle(key: str) -> None:
            started.set()
            await finish.wait()

        async def act() -> None:
            assert queue.state() == QueueState()
            queue.add("a")
            await started.wait()
            queue.add("b")
            queue.add("c", urgent=False)
            queue.add("d", urgent=False)
            state = queue.state()
            assert (state.urgent, state.resync, state.busy) == (1, 2, 1)
            await until(lambda: queue.state().oldest_age_s > 0.02)
            state = queue.state()
            assert 0.02 < state.oldest_age_s <= state.oldest_busy_s < 5
            finish.set()
            await until(lambda: len(queue) == 0)
            assert queue.state() == QueueState()

        await running(queue := KeyedQueue(handle, workers=1), act)

    go(scenario())


def test_a_queue_without_workers_is_refused() -> None:
    async def handle(key: str) -> None: ...

    with pytest.raises(ValueError, match="workers: 0"):
        KeyedQueue(handle, workers=0)


@given(failures=st.integers(1, 10_000), unit=st.floats(0, 0.999))
def test_pauses_grow_up_to_their_bound(failures: int, unit: float) -> None:
    backoff = Backoff(first_s=0.1, max_s=30.0, jitter=0.3)
    assert 0.07 <= backoff.delay_s(failures, unit) <= 30.0
    assert backoff.delay_s(failures, 0.0) <= backoff.delay_s(failures + 1, 0.0)


@settings(max_examples=60)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from(["add", "resync", "later", "yield"]), st.integers(0, 3)),
        max_size=40,
    ),
    workers=st.integers(1, 4),
    failing=st.sets(st.integers(0, 20)),
)
def test_no_key_is_ever_handled_twice_at_once_and_no_wish_is_lost(
    steps: list[tuple[str, str, int]], workers: int, failing: set[int]
) -> None:
    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        inside: Counter[str] = Counter()
        wanted: dict[str, int] = {}  # key -> the last wish
        answered: dict[str, int] = {}  # key -> the last wish before a handling that went well
        calls = 0

        async def handle(key: str) -> None:
            nonlocal calls
            calls += 1
            call, wish = calls, wanted[key]
            inside[key] += 1
            assert inside[key] == 1
            assert sum(inside.values()) <= workers
            await asyncio.sleep(0)
            inside[key] -= 1
            if call in failing:
                raise OSError("once")
            answered[key] = wish

        async def act() -> None:
            for number, (key, kind, amount) in enumerate(steps):
                if kind == "yield":
                    for _ in range(amount):
                        await asyncio.sleep(0)
                    continue
                wanted[key] = number
                if kind in ("add", "resync"):
                    queue.add(key, urgent=kind == "add")
                else:
                    queue.add_at(key, loop.time() + amount / 2000)
            await until(lambda: answered == wanted)
            await until(lambda: len(queue) == 0)

        await running(queue := KeyedQueue(handle, workers, backoff=NO_PAUSE), act)

    go(scenario())
