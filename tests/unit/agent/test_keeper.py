"""The thread that keeps a pod's output, against stores that work, fail and hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dlcloud_trainer.agent.backlog import Backlog
from dlcloud_trainer.agent.keeper import LAST_TRIES, LogKeeper, part_key

JOB: dict[str, Any] = {"checkpoint": {"uri": "s3://bucket/job/"}}
LIMIT_S = 20.0


class Store:
    """Remembers every PUT; fails while `broken`, waits while `stuck`."""

    def __init__(self) -> None:
        self.puts: list[tuple[str, bytes]] = []
        self.broken = False
        self.failures = 0
        self.free = threading.Event()
        self.free.set()

    def put(self, key: str, data: bytes) -> None:
        self.free.wait()
        if self.broken:
            self.failures += 1
            raise OSError("the store is away")
        self.puts.append((key, data))

    @property
    def text(self) -> bytes:
        return b"".join(dict(self.puts).values())


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store()
    yield made
    made.free.set()


Make = Callable[..., LogKeeper]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def make(store: Store, said: list[str]) -> Make:
    def make(every_s: float = 0.02, **backlog: int) -> LogKeeper:
        return LogKeeper("job-0-1", said.append, lambda job: store, Backlog(**backlog), every_s)

    return make


def until(condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.002)


def test_a_line_is_written_without_being_asked_and_rewritten_with_the_next(make: Make, store: Store) -> None:
    keeper = make()
    keeper.aim(JOB)
    keeper.write(b"one\n")
    until(lambda: store.text == b"one\n")
    keeper.write(b"two\n")
    until(lambda: store.text == b"one\ntwo\n")
    assert {key for key, _ in store.puts} == {"logs/job-0-1/000000.log"}


def test_output_of_before_the_assignment_is_kept(make: Make, store: Store) -> None:
    keeper = make()
    keeper.write(b"early\n")
    keeper.aim(JOB)
    until(lambda: store.text == b"early\n")


def test_without_news_nothing_is_written_again(make: Make, store: Store) -> None:
    keeper = make()
    keeper.aim(JOB)
    keeper.write(b"one\n")
    until(lambda: store.puts)
    keeper.hurry()
    keeper.close(5)
    assert len(store.puts) == 1


def test_a_whole_part_does_not_wait_for_its_time(make: Make, store: Store) -> None:
    keeper = make(every_s=3600, part_bytes=100)
    keeper.aim(JOB)
    keeper.write(b"x" * 250)
    until(lambda: len(store.puts) == 2)
    assert [key for key, _ in store.puts] == [part_key("job-0-1", 0), part_key("job-0-1", 1)]


def test_a_job_that_speaks_all_the_time_is_not_written_all_the_time(make: Make, store: Store) -> None:
    keeper = make(every_s=0.2)
    keeper.aim(JOB)
    began = time.monotonic()
    while time.monotonic() - began < 1.0:
        keeper.write(b"a line\n")
        time.sleep(0.001)
    assert 1 <= len(store.puts) <= 6


def test_hurry_writes_at_once_and_close_writes_the_rest(make: Make, store: Store) -> None:
    keeper = make(every_s=3600)
    keeper.aim(JOB)
    keeper.write(b"one\n")
    keeper.hurry()
    until(lambda: store.text == b"one\n")
    keeper.write(b"two\n")
    keeper.close(5)
    assert store.text == b"one\ntwo\n"


def test_a_job_without_checkpoint_keeps_nothing_and_has_no_thread(make: Make, store: Store) -> None:
    keeper = make()
    keeper.write(b"early\n")
    keeper.aim({"checkpoint": None})
    keeper.write(b"later\n")
    keeper.close(5)
    assert keeper._thread is None
    assert keeper._backlog.size == 0
    assert store.puts == []


def test_a_store_that_comes_back_gets_everything_and_one_line_was_said(
    make: Make, store: Store, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlcloud_trainer.agent.keeper.FIRST_PAUSE_S", 0.01)
    keeper = make(part_bytes=100)
    store.broken = True
    keeper.aim(JOB)
    for number in range(30):
        keeper.write(b"line %05d\n" % number)
    until(lambda: store.failures >= 4)
    store.broken = False
    keeper.close(5)
    assert store.text == b"".join(b"line %05d\n" % number for number in range(30))
    assert len(said) == 1
    assert "the store is away" in said[0]


def test_a_store_that_was_away_for_long_gets_the_newest_and_a_line_for_the_gap(
    make: Make, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlcloud_trainer.agent.keeper.FIRST_PAUSE_S", 60)
    keeper = make(waiting_bytes=100_000)
    store.broken = True
    keeper.aim(JOB)
    keeper.write(b"first\n")
    until(lambda: store.failures)
    for number in range(40_000):
        keeper.write(b"%06d\n" % number)
    store.broken = False
    keeper.close(5)
    assert store.text.startswith(b"first\n[dlcloud] ")
    assert store.text.endswith(b"\n039999\n")


def test_output_does_not_wait_for_a_store_that_fails(make: Make, store: Store) -> None:
    keeper = make(part_bytes=1000, waiting_bytes=10_000)
    store.broken = True
    keeper.aim(JOB)
    began = time.monotonic()
    for _ in range(2000):
        keeper.write(b"x" * 99 + b"\n")
    assert time.monotonic() - began < 1.0


def test_output_waits_for_a_store_that_works_so_that_a_burst_is_whole(make: Make, store: Store) -> None:
    keeper = make(part_bytes=10_000, waiting_bytes=20_000)
    keeper.aim(JOB)
    lines = [b"%099d\n" % number for number in range(5000)]
    for line in lines:
        keeper.write(line)
    keeper.close(5)
    assert store.text == b"".join(lines)


def test_a_store_that_hangs_holds_output_up_for_a_moment_and_the_end_for_the_limit(
    make: Make, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlcloud_trainer.agent.keeper.PATIENCE_S", 0.2)
    keeper = make(part_bytes=1000, waiting_bytes=10_000)
    keeper.aim(JOB)
    keeper.write(b"begin\n")
    until(lambda: store.puts)
    store.free.clear()
    began = time.monotonic()
    for _ in range(1000):
        keeper.write(b"x" * 99 + b"\n")
    assert time.monotonic() - began < 1.5
    began = time.monotonic()
    keeper.close(0.2)
    assert 0.15 < time.monotonic() - began < 1.5


def test_the_end_gives_a_failing_store_a_few_tries_only(make: Make, store: Store) -> None:
    keeper = make(every_s=3600)
    store.broken = True
    keeper.aim(JOB)
    keeper.write(b"one\n")
    began = time.monotonic()
    keeper.close(30)
    assert time.monotonic() - began < 10
    assert store.failures == LAST_TRIES


def test_a_store_that_cannot_be_opened_disturbs_nobody_and_is_said_once(
    said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dlcloud_trainer.agent.keeper.FIRST_PAUSE_S", 0.01)

    def refuse(job: dict[str, Any]) -> Store:
        raise ValueError("no such place")

    keeper = LogKeeper("job-0-1", said.append, refuse, every_s=0.01)
    keeper.aim(JOB)
    keeper.write(b"one\n")
    until(lambda: said)
    keeper.write(b"two\n")
    keeper.close(5)
    assert len(said) == 1
    assert "no such place" in said[0]
