"""Pipes read by a thread: real pipes, no processes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from dlcloud_trainer.agent.output import LineSink
from dlcloud_trainer.agent.pump import LINGER_S, Pump


@pytest.fixture
def pump() -> Iterator[Pump]:
    pump = Pump("test")
    pump.start()
    yield pump
    pump.stop(5)
    assert not pump.is_alive()


class Collector:
    """A sink that can be waited for."""

    def __init__(self) -> None:
        self.data = b""
        self.closed = threading.Event()

    def feed(self, data: bytes) -> None:
        self.data += data

    def close(self) -> None:
        self.closed.set()


def test_everything_a_dead_writer_left_is_read_before_it_is_done(pump: Pump) -> None:
    read, write = os.pipe()
    sink, done = Collector(), threading.Event()
    os.write(write, b"x" * 60_000)
    pump.add("a", read, sink)
    os.write(write, b"last")
    os.close(write)
    pump.finish("a", done.set)
    assert done.wait(5)
    assert sink.data == b"x" * 60_000 + b"last"


def test_a_pipe_somebody_else_holds_is_done_at_once_and_closed_within_a_second(pump: Pump) -> None:
    read, write = os.pipe()
    sink, done = Collector(), threading.Event()
    pump.add("a", read, sink)
    os.write(write, b"before")
    start = time.monotonic()
    pump.finish("a", done.set)
    assert done.wait(5)
    assert time.monotonic() - start < LINGER_S
    assert sink.data == b"before"
    deadline = start + 3 * LINGER_S
    closed = False
    while not closed and time.monotonic() < deadline:
        try:
            os.write(write, b"x")
            time.sleep(0.01)
        except BrokenPipeError:
            closed = True
    assert closed
    os.close(write)


def test_what_was_never_added_is_done_as_well(pump: Pump) -> None:
    done = threading.Event()
    pump.finish("unknown", done.set)
    assert done.wait(5)


def test_stopping_writes_what_is_left() -> None:
    pump = Pump("test")
    pump.start()
    read, write = os.pipe()
    written: list[bytes] = []
    pump.add("a", read, LineSink(b"> ", written.append))
    os.write(write, b"no end")
    pump.stop(5)
    assert b"".join(written) == b"> no end\n"
    os.close(write)
