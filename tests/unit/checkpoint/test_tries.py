"""Trying again, and several things at once."""

from __future__ import annotations

import threading
import time

import pytest

from dlcloud_trainer.checkpoint.errors import AccessDenied, StoreUnreachable
from dlcloud_trainer.checkpoint.tries import Aside, in_parallel, persist


class Flaky:
    def __init__(self, failures: int, error: Exception) -> None:
        self.failures, self.error, self.calls = failures, error, 0

    def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return "done"


def test_an_unreachable_store_is_tried_again() -> None:
    act = Flaky(2, StoreUnreachable("x"))
    assert persist(act, until=time.monotonic() + 5) == "done"
    assert act.calls == 3


def test_a_refusal_is_not_tried_again() -> None:
    act = Flaky(9, AccessDenied("x"))
    with pytest.raises(AccessDenied):
        persist(act, until=time.monotonic() + 5)
    assert act.calls == 1


def test_the_error_comes_when_time_is_over() -> None:
    began = time.monotonic()
    with pytest.raises(StoreUnreachable):
        persist(Flaky(10**9, StoreUnreachable("x")), until=began + 0.3)
    assert 0.25 < time.monotonic() - began < 3


def test_a_stop_ends_the_tries_at_once() -> None:
    stop = threading.Event()
    stop.set()
    act = Flaky(10**9, StoreUnreachable("x"))
    with pytest.raises(StoreUnreachable):
        persist(act, until=time.monotonic() + 60, stop=stop)
    assert act.calls == 1


def test_results_come_in_order() -> None:
    assert in_parallel(lambda n: n * n, range(50), 4) == [n * n for n in range(50)]


def test_work_is_done_side_by_side() -> None:
    barrier = threading.Barrier(4)
    in_parallel(lambda _: barrier.wait(timeout=10), range(4), 4)


def test_the_first_error_is_raised_and_stops_the_rest() -> None:
    done: list[int] = []

    def act(n: int) -> None:
        if n == 3:
            raise ValueError("three")
        done.append(n)

    with pytest.raises(ValueError, match="three"):
        in_parallel(act, range(10_000), 2)
    assert len(done) < 10_000


def test_no_thread_is_left() -> None:
    before = set(threading.enumerate())
    in_parallel(lambda n: n, range(20), 8)
    assert set(threading.enumerate()) <= before


def test_what_runs_aside_is_waited_for_and_its_error_raised() -> None:
    gate, done = threading.Event(), threading.Event()
    aside = Aside(lambda: (gate.wait(10), done.set()))
    assert not done.is_set()
    gate.set()
    aside.join()
    assert done.is_set()
    with pytest.raises(ZeroDivisionError):
        Aside(lambda: 1 // 0).join()
