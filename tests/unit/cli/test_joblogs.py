"""Lines of output: their writers, what is chosen of them, and how the store's parts become lines again."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlcloud.joblogs.lines import Selection, as_json, split_line
from dlcloud.joblogs.stored import StoredLogs
from dlcloud.jobs.source import LogLine
from dlcloud.objects import open_reader


def lines(text: str, pod: str = "job-1-2") -> list[tuple[int | None, str]]:
    return [(line.rank, line.text) for line in split_line(LogLine(pod, text))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[rank 3] hello", [(3, "hello")]),
        ("[agent] round 1", [(None, "round 1")]),
        ("no writer", [(None, "no writer")]),
        ("[rank 0] ", [(0, "")]),
        ("", [(None, "")]),
        ("[rank 0] 10%\r[rank 0] 20%\r[rank 0] 30%", [(0, "30%")]),
        ("[rank 0] 10%\r[rank 1] hello", [(0, "10%"), (1, "hello")]),
        ("[rank 0] half\r[agent] round 2", [(0, "half"), (None, "round 2")]),
    ],
)
def test_a_line_is_known_by_its_writer(text: str, expected: list[tuple[int | None, str]]) -> None:
    assert lines(text) == expected


def test_the_writer_is_left_out_when_it_is_the_only_one_asked_for() -> None:
    (line,) = split_line(LogLine("job-0-1", "[rank 1] hello"))
    assert Selection(frozenset({1})).show(line) == "hello"
    assert Selection(frozenset({0, 1})).show(line) == "[rank 1] hello"
    assert Selection().show(line) == "[rank 1] hello"


def test_ranks_and_worker_choose_lines() -> None:
    (rank,) = split_line(LogLine("my-job-3-1", "[rank 1] hello"))
    (agent,) = split_line(LogLine("my-job-3-1", "[agent] hello"))
    assert [Selection(frozenset({n})).wants(rank) for n in (0, 1)] == [False, True]
    assert not Selection(frozenset({1})).wants(agent)
    assert [Selection(worker=n).wants(agent) for n in (1, 3)] == [False, True]


def test_machines_get_worker_incarnation_and_rank() -> None:
    (line,) = split_line(LogLine("my-job-3-12", "[rank 7] λ\x1b"))
    assert json.loads(as_json(line)) == {
        "pod": "my-job-3-12",
        "worker": 3,
        "incarnation": 12,
        "rank": 7,
        "text": "λ\x1b",
    }


def write(folder: Path, pod: str, part: int, data: bytes) -> None:
    path = folder / f"logs/{pod}/{part:06d}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def texts(stored: StoredLogs, **options: object) -> list[str]:
    return [line.text for line in stored.poll(lambda pod: True, **options)]  # type: ignore[arg-type]


def test_a_growing_part_is_handed_out_once_and_line_by_line(tmp_path: Path) -> None:
    stored = StoredLogs(open_reader(f"file://{tmp_path}/", None))
    assert texts(stored) == []
    write(tmp_path, "a-0-1", 0, b"one\ntw")
    assert texts(stored) == ["one"]
    write(tmp_path, "a-0-1", 0, b"one\ntwo\n")
    assert texts(stored) == ["two"]
    write(tmp_path, "a-0-1", 1, b"three\nhalf")
    assert texts(stored) == ["three"]
    assert texts(stored, last=True) == ["half"]
    assert texts(stored, last=True) == []


def test_pods_come_worker_by_worker_in_the_order_they_were_made(tmp_path: Path) -> None:
    for pod in ("a-10-1", "a-2-10", "a-2-9"):
        write(tmp_path, pod, 0, pod.encode() + b"\n")
    assert texts(StoredLogs(open_reader(f"file://{tmp_path}/", None))) == ["a-2-9", "a-2-10", "a-10-1"]


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=4))
def test_where_the_parts_are_cut_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, cuts: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("parts")
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for part, (begin, end) in enumerate(pairwise(edges)):
        write(folder, "a-0-1", part, data[begin:end])
    expected = [raw.decode("utf-8", "replace").rstrip("\r") for raw in data.split(b"\n")]
    found = texts(StoredLogs(open_reader(f"file://{folder}/", None)), last=True)
    assert found == (expected if data.split(b"\n")[-1] else expected[:-1])


class CountingReader:
    """A folder's reader that remembers what it was asked for."""

    def __init__(self, folder: Path) -> None:
        self.inner, self.read_keys = open_reader(f"file://{folder}/", None), list[str]()

    def list(self, prefix: str = "") -> object:
        return self.inner.list(prefix)

    def read(self, key: str) -> bytes | None:
        self.read_keys.append(key)
        return self.inner.read(key)


def test_for_the_last_lines_the_first_parts_are_not_read(tmp_path: Path) -> None:
    for part in range(10):
        write(tmp_path, "a-0-1", part, b"".join(b"%d.%d\n" % (part, i) for i in range(10)))
    reader = CountingReader(tmp_path)
    found = texts(StoredLogs(reader), tail=12, wanted=lambda line: bool(line.text))  # type: ignore[arg-type]
    assert found[-12:] == ["8.8", "8.9", *(f"9.{i}" for i in range(10))]
    assert {key[-10:] for key in reader.read_keys} == {"000008.log", "000009.log"}


def test_a_part_that_has_not_grown_is_not_read_again(tmp_path: Path) -> None:
    write(tmp_path, "a-0-1", 0, b"one\n")
    reader = CountingReader(tmp_path)
    stored = StoredLogs(reader)  # type: ignore[arg-type]
    assert texts(stored) == ["one"]
    assert texts(stored) == []
    assert len(reader.read_keys) == 1
