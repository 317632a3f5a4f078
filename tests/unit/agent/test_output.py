"""Lines with their writer before them, and events."""

from __future__ import annotations

import random
from typing import Any

import pytest

from dlcloud_trainer.agent.output import PIECE, EventSink, LineSink


def through(*chunks: bytes) -> bytes:
    written: list[bytes] = []
    sink = LineSink(b"> ", written.append)
    for chunk in chunks:
        sink.feed(chunk)
    sink.close()
    return b"".join(written)


@pytest.mark.parametrize(
    ("chunks", "written"),
    [
        ([b"a\nb\n"], b"> a\n> b\n"),
        ([b"a", b"b\nc"], b"> ab\n> c\n"),
        ([b"\n\n"], b"> \n> \n"),
        ([b"a\r\nb\r\n"], b"> a\r\n> b\r\n"),
        ([b"a\r", b"\nb\n"], b"> a\r\n> b\n"),
        ([b"1%\r2%\r", b"3%\n"], b"> 1%\r> 2%\r> 3%\n"),
        ([b"\xff\xfe\n"], b"> \xff\xfe\n"),
        ([], b""),
    ],
)
def test_each_line_has_its_prefix_and_its_own_bytes(chunks: list[bytes], written: bytes) -> None:
    assert through(*chunks) == written


def test_a_progress_bar_is_seen_before_its_line_ends() -> None:
    written: list[bytes] = []
    sink = LineSink(b"> ", written.append)
    sink.feed(b"\r 10%")
    sink.feed(b"\r 20%")
    assert b" 10%" in b"".join(written)


@pytest.mark.parametrize("size", [PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5])
@pytest.mark.parametrize("step", [1000, PIECE])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_an_overlong_line_is_cut_into_pieces_and_nothing_is_lost(size: int, step: int, end: bytes) -> None:
    line = b"x" * size + end + b"next\n"
    pieces = through(*(line[start : start + step] for start in range(0, len(line), step))).split(b"\n")
    assert max(map(len, pieces)) <= PIECE + 3
    assert sum(piece.count(b"x") for piece in pieces) == size + 1  # the x of `next`
    assert pieces[-2].startswith(b"> ")


def test_however_the_bytes_are_cut_the_lines_are_the_same() -> None:
    text = b"".join(random.Random(7).choices([b"a", b"bc\n", b"\r\n", b"\n", b"def"], k=400))
    whole = through(text)
    for seed in range(20):
        cut, chunks, rest = random.Random(seed), [], text
        while rest:
            size = cut.randint(1, 9)
            chunks.append(rest[:size])
            rest = rest[size:]
        assert through(*chunks) == whole


def test_a_held_sink_writes_nothing_before_its_release() -> None:
    written: list[bytes] = []
    sink = LineSink(b"> ", written.append, held=True)
    sink.feed(b"a\n")
    assert written == []
    sink.release()
    sink.feed(b"b\n")
    assert b"".join(written) == b"> a\n> b\n"


def test_the_tail_is_the_end_of_what_was_seen() -> None:
    sink = LineSink(b"> ", lambda data: None)
    for number in range(5000):
        sink.feed(b"line %d\n" % number)
    assert sink.tail.endswith(b"line 4999\n")
    assert len(sink.tail) <= 8192


def events(*chunks: bytes) -> list[dict[str, Any]]:
    delivered: list[dict[str, Any]] = []
    sink = EventSink(delivered.append)
    for chunk in chunks:
        sink.feed(chunk)
    sink.close()
    return delivered


def test_events_are_lines_however_they_are_cut() -> None:
    assert events(b'{"event": "a"}\n{"ev', b'ent": "b"}\nnoise\n{"event": "c"}') == [{"event": "a"}, {"event": "b"}]


def test_an_overlong_event_is_dropped_and_the_next_is_read() -> None:
    long = b'{"event": "' + b"x" * (3 * PIECE) + b'"}\n'
    cut = [long[start : start + 5000] for start in range(0, len(long), 5000)]
    assert events(*cut, b'{"event": "b"}\n') == [{"event": "b"}]
