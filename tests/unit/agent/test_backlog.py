"""The queue between a pod's output and its parts on the store."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from dlcloud_trainer.agent.backlog import Backlog

GAP = re.compile(rb"\[dlcloud\] (\d+) bytes of output are missing here\n")


class Store:
    """Takes parts as a bucket does: the newest content of each number."""

    def __init__(self, backlog: Backlog) -> None:
        self.backlog, self.parts = backlog, dict[int, bytes]()

    def write(self, confirm: bool = True) -> None:
        part = self.backlog.take()
        if part is None:
            return
        number, data = part
        assert data.startswith(self.parts.get(number, b"")), "a part only grows"
        if confirm:
            self.parts[number] = data
            self.backlog.done(number, len(data))

    def drain(self) -> bytes:
        while self.backlog.take() is not None:
            self.write()
        assert sorted(self.parts) == list(range(len(self.parts)))
        return b"".join(self.parts[number] for number in sorted(self.parts))


def test_output_of_exactly_one_part_makes_one_part_and_the_next_byte_begins_another() -> None:
    backlog = Backlog(part_bytes=100)
    store = Store(backlog)
    backlog.add(b"x" * 100)
    assert store.drain() == b"x" * 100
    assert list(store.parts) == [0]
    backlog.add(b"y")
    assert store.drain() == b"x" * 100 + b"y"
    assert store.parts[1] == b"y"


def test_the_last_part_is_offered_again_with_what_came_since_and_not_without_news() -> None:
    backlog = Backlog(part_bytes=100)
    backlog.add(b"one\n")
    assert backlog.take() == (0, b"one\n")
    backlog.done(0, 4)
    assert backlog.take() is None
    backlog.add(b"two\n")
    assert backlog.take() == (0, b"one\ntwo\n")


def test_a_part_that_was_not_confirmed_is_offered_again() -> None:
    backlog = Backlog(part_bytes=100)
    backlog.add(b"one\n")
    assert backlog.take() == backlog.take() == (0, b"one\n")


def test_what_came_during_a_write_is_not_taken_for_written() -> None:
    backlog = Backlog(part_bytes=100)
    backlog.add(b"one\n")
    number, data = backlog.take() or (0, b"")
    backlog.add(b"two\n")
    backlog.done(number, len(data))
    assert backlog.take() == (0, b"one\ntwo\n")


def test_above_the_limit_the_oldest_goes_and_one_line_says_how_much() -> None:
    lines = [b"%06d\n" % number for number in range(100_000)]
    backlog = Backlog(part_bytes=1 << 20, waiting_bytes=200_000)
    for line in lines:
        backlog.add(line)
    assert backlog.size <= 200_000
    kept = Store(backlog).drain()
    gap = GAP.match(kept)
    assert gap is not None
    rest = kept[gap.end() :]
    assert b"".join(lines).endswith(rest)
    assert int(gap[1]) == len(b"".join(lines)) - len(rest)
    assert len(re.findall(rb"^\d{6}$", rest, re.M)) == len(rest) // 7, "no line is cut"


def test_a_gap_after_an_open_line_begins_a_line_of_its_own() -> None:
    backlog = Backlog(part_bytes=1 << 20, waiting_bytes=10)
    backlog.add(b"begun")
    backlog.take()
    backlog.add(b"0123456789")
    backlog.add(b"x" * 65536)
    assert Store(backlog).drain() == b"begun\n[dlcloud] 65536 bytes of output are missing here\n" + b"x" * 10


def test_a_single_write_above_the_limit_keeps_its_end() -> None:
    backlog = Backlog(part_bytes=1 << 20, waiting_bytes=10)
    backlog.add(b"a" * 50 + b"b" * 10)
    assert Store(backlog).drain() == b"[dlcloud] 50 bytes of output are missing here\n" + b"b" * 10


def test_memory_for_many_small_lines_is_bounded() -> None:
    backlog = Backlog(waiting_bytes=1 << 20)
    for _ in range(300_000):
        backlog.add(b"a line\n")
    assert len(backlog._blocks) < 20


Steps = st.lists(st.one_of(st.binary(min_size=1, max_size=90), st.sampled_from(["write", "fail"])), max_size=60)


@given(steps=Steps, part_bytes=st.integers(1, 200))
def test_whatever_fails_and_however_it_is_cut_the_parts_are_the_output(
    steps: list[bytes | str], part_bytes: int
) -> None:
    store = Store(Backlog(part_bytes=part_bytes))
    for step in steps:
        if isinstance(step, bytes):
            store.backlog.add(step)
        else:
            store.write(confirm=step == "write")
    assert store.drain() == b"".join(step for step in steps if isinstance(step, bytes))
    assert all(len(store.parts[number]) == part_bytes for number in range(len(store.parts) - 1))


@given(steps=Steps, part_bytes=st.integers(1, 200))
def test_with_gaps_every_byte_is_there_or_counted(steps: list[bytes | str], part_bytes: int) -> None:
    store = Store(Backlog(part_bytes=part_bytes, waiting_bytes=64))
    written = 0
    for step in steps:
        if isinstance(step, bytes):
            step = step.replace(b"[", b"-").replace(b"\n", b"-")  # so that only gaps look like gaps
            written += len(step)
            store.backlog.add(step)
        else:
            store.write(confirm=step == "write")
    kept = store.drain()
    gaps = [int(gap[1]) for gap in GAP.finditer(kept)]
    assert len(GAP.sub(b"", kept).replace(b"\n", b"")) + sum(gaps) == written
