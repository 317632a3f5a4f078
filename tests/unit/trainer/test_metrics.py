"""The records of a training in the store."""

from __future__ import annotations

import json
import math
import threading
import time
from typing import Any

import pytest

from dlcloud_trainer import metrics
from dlcloud_trainer.metrics import RETRY_S, MetricsLog, part_key


class Store:
    """Keeps what is put, or fails as often as told."""

    def __init__(self, failures: int = 0) -> None:
        self.objects: dict[str, bytes] = {}
        self.failures = failures
        self.puts: list[str] = []
        self.warnings: list[str] = []
        self.changed = threading.Condition()

    def put(self, key: str, data: bytes) -> None:
        with self.changed:
            self.changed.notify_all()
            self.puts.append(key)
            if self.failures:
                self.failures -= 1
                raise OSError("the store is away")
            self.objects[key] = data

    def warn(self, reason: str, message: str) -> None:
        self.warnings.append(reason)

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for key in sorted(self.objects) for line in self.objects[key].splitlines()]


def test_records_are_lines_of_json_below_the_rounds_key() -> None:
    store = Store()
    log = MetricsLog(store.put, 3, store.warn)
    log.write("train", step=10, loss=0.5)
    log.write("test", accuracy=0.9)
    log.close(5)
    assert list(store.objects) == [part_key(3, 0)] == ["metrics/000003/000000.jsonl"]
    assert [record["kind"] for record in store.records()] == ["train", "test"]


def test_a_full_part_is_never_written_again() -> None:
    store = Store()
    log = MetricsLog(store.put, 1, store.warn, part_bytes=300)
    for step in range(50):
        log.write("train", step=step)
    log.close(5)
    log_again = [record["step"] for record in store.records()]
    assert log_again == list(range(50))
    assert len(store.objects) > 5
    assert all(len(data) <= 300 for data in store.objects.values())
    assert store.puts[:-1] == sorted(set(store.puts[:-1]))


def test_a_record_appears_before_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "EVERY_S", 0.05)
    store = Store()
    log = MetricsLog(store.put, 1, store.warn)
    with store.changed:
        log.write("train", step=1)
        assert store.changed.wait_for(lambda: store.puts, 10)
    log.close(5)


def test_a_store_that_fails_is_told_once_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "EVERY_S", 0.02)
    monkeypatch.setattr(metrics, "RETRY_S", 0.02)
    store = Store(failures=3)
    log = MetricsLog(store.put, 1, store.warn)
    with store.changed:
        log.write("train", step=1)
        assert store.changed.wait_for(lambda: len(store.puts) > 3, 10)
    log.write("train", step=2)
    log.close(5)
    assert [record["step"] for record in store.records()] == [1, 2]
    assert store.warnings == ["MetricsNotWritten"]


def test_a_store_that_never_answers_holds_up_the_end_for_its_limit_only() -> None:
    never = threading.Event()
    log = MetricsLog(lambda key, data: never.wait(60), 1, lambda reason, message: None)
    log.write("train", step=1)
    began = time.monotonic()
    log.close(0.2)
    never.set()
    assert time.monotonic() - began < 2


def test_numbers_that_are_not_finite_are_left_out() -> None:
    store = Store()
    log = MetricsLog(store.put, 1, store.warn)
    log.write("train", step=1, loss=math.nan)
    log.close(5)
    (record,) = store.records()
    assert "loss" not in record


def test_the_end_of_a_trouble_is_told_and_a_later_one_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "EVERY_S", 0.02)
    monkeypatch.setattr(metrics, "RETRY_S", 0.02)
    store = Store(failures=2)
    log = MetricsLog(store.put, 1, store.warn, lambda reason: store.warnings.append(f"no more {reason}"))
    for step in (1, 2):
        with store.changed:
            log.write("train", step=step)
            assert store.changed.wait_for(lambda step=step: len(store.puts) >= 3 * step, 10)  # type: ignore[misc]
        give_up = time.monotonic() + 10
        while len(store.warnings) < 2 * step and time.monotonic() < give_up:
            time.sleep(0.01)
        store.failures = 2
    store.failures = 0
    log.close(5)
    assert store.warnings == ["MetricsNotWritten", "no more MetricsNotWritten"] * 2


def test_flush_returns_when_the_records_so_far_lie_in_the_store() -> None:
    store = Store()
    log = MetricsLog(store.put, 1, store.warn)
    assert log.flush(5)  # nothing to write
    for step in range(20):
        log.write("train", step=step)
        assert log.flush(5)
        assert [record["step"] for record in store.records()] == list(range(step + 1))
    log.close(5)


def test_flush_does_not_wait_for_a_store_that_is_away() -> None:
    store = Store(failures=10**6)
    log = MetricsLog(store.put, 1, store.warn)
    log.write("train", step=1)
    began = time.monotonic()
    assert not log.flush(30)
    assert not log.flush(30)
    assert time.monotonic() - began < 5
    log.close(0.1)


def test_flush_writes_at_once_when_the_store_is_back() -> None:
    store = Store(failures=1)
    log = MetricsLog(store.put, 1, store.warn)
    log.write("train", step=1)
    assert not log.flush(30)
    log.write("train", step=2)
    began = time.monotonic()
    assert log.flush(30)
    assert time.monotonic() - began < RETRY_S / 2
    assert [record["step"] for record in store.records()] == [1, 2]
    log.close(5)


def test_flush_tries_again_when_the_try_under_way_began_before_the_store_was_back() -> None:
    store, begun, back = Store(), threading.Event(), threading.Event()

    def put(key: str, data: bytes) -> None:
        if not back.is_set():
            begun.set()
            back.wait(30)
            raise OSError("cut off")
        store.put(key, data)

    log = MetricsLog(put, 1, store.warn)
    log.write("train", step=1)
    assert begun.wait(30)
    threading.Timer(0.2, back.set).start()
    assert log.flush(30)
    assert [record["step"] for record in store.records()] == [1]
    log.close(5)


def test_a_part_that_fills_up_while_it_is_written_is_written_again() -> None:
    store, begun, go_on = Store(), threading.Event(), threading.Event()

    def put(key: str, data: bytes) -> None:
        begun.set()
        go_on.wait(30)
        store.put(key, data)

    log = MetricsLog(put, 1, store.warn, part_bytes=300)
    log.write("train", step=1)
    assert begun.wait(30)
    for step in range(2, 30):  # several parts of them
        log.write("train", step=step)
    go_on.set()
    assert log.flush(30)
    log.close(5)
    assert [record["step"] for record in store.records()] == list(range(1, 30))
