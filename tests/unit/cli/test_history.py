"""Metrics of several rounds become one curve; damage is left out; ranks are found by their pod."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlcloud.history import curve_of, read_checkpoints, read_head, read_listed
from dlcloud.metrics import Metric, MetricsReader, Record, merge, parse_part, read_records, restarts
from dlcloud.objects import open_reader
from dlcloud.sabotage import rank_pids


def train(number: int, steps: Iterable[int], loss: float) -> list[Record]:
    return [Record("train", number, step, {"loss": loss}) for step in steps]


def test_a_later_round_replaces_the_steps_it_did_again() -> None:
    merged = merge(train(1, range(1, 6), 1.0) + train(2, range(4, 8), 0.5))
    assert [(r.step, r.values["loss"]) for r in merged] == [
        (1, 1.0), (2, 1.0), (3, 1.0), (4, 0.5), (5, 0.5), (6, 0.5), (7, 0.5),
    ]  # fmt: skip


records = st.builds(
    Record, st.sampled_from(["train", "validation", "test"]), st.integers(1, 4), st.integers(0, 20), st.just({})
)


@given(st.lists(records), st.randoms())
def test_merging_depends_on_no_order_and_keeps_the_highest_round(written: list[Record], random: object) -> None:
    shuffled = written[:]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    merged = merge(shuffled)
    assert merged == merge(written)
    assert {(r.kind, r.step): r.round for r in merged} == {
        (r.kind, r.step): max(o.round for o in written if (o.kind, o.step) == (r.kind, r.step)) for r in written
    }


def test_restarts_are_the_first_steps_of_later_rounds() -> None:
    assert restarts(train(1, range(1, 6), 1) + train(3, range(6, 8), 1) + train(2, range(4, 6), 1)) == [4, 6]


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b'{"kind": "train"}', b'{"kind": "train", "step": "7"}', b'{"kind": "other", "step": 7}', b""]
)
def test_a_line_that_is_no_record_is_left_out(line: bytes) -> None:
    good = b'{"kind": "train", "step": 7, "loss": 0.5, "time": "x", "best": true, "bad": NaN}'
    assert parse_part(2, line + b"\n" + good) == [Record("train", 2, 7, {"loss": 0.5})]


def store(folder: Path) -> str:
    for number, steps in ((1, range(1, 4)), (2, range(3, 6))):
        part = folder / f"metrics/{number:06d}/000000.jsonl"
        part.parent.mkdir(parents=True)
        lines = [{"kind": "train", "step": step, "loss": 1 / step} for step in steps]
        lines.append({"kind": "validation", "step": max(steps), "accuracy": number / 2})
        part.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "manifests").mkdir()
    (folder / "manifests/2.json").write_text(json.dumps({"sizeBytes": 2048, "createdAt": "2026-01-02T03:04:05.5Z"}))
    entries = [{"manifest": f"manifests/{step}.json", "step": step, "round": 1, "metric": 0.5} for step in (4, 2)]
    (folder / "head.json").write_text(json.dumps({"version": 1, "checkpoints": entries}))
    return f"file://{folder}/"


def test_the_curve_of_a_store_has_all_rounds_and_marks(tmp_path: Path) -> None:
    reader = open_reader(store(tmp_path), None)
    curve = curve_of(read_records(reader), read_checkpoints(reader))
    assert [step for step, _ in curve.series[Metric("train", "loss")]] == [1, 2, 3, 4, 5]
    assert curve.series[Metric("validation", "accuracy")] == [(3, 0.5), (5, 1.0)]
    assert (curve.restarts, curve.checkpoints) == ([3], [2])


def test_a_checkpoint_whose_manifest_is_gone_is_not_listed(tmp_path: Path) -> None:
    (saved,) = read_checkpoints(open_reader(store(tmp_path), None))
    assert (saved.step, saved.size_bytes) == (2, 2048)


def test_a_part_is_read_again_only_when_it_has_grown(tmp_path: Path) -> None:
    store(tmp_path)
    read: list[str] = []
    inner = open_reader(f"file://{tmp_path}/", None)

    class Counting:
        list = staticmethod(inner.list)

        def read(self, key: str) -> bytes | None:
            read.append(key)
            return inner.read(key)

    reader = MetricsReader(Counting())
    assert len(reader.records()) == 8
    with (tmp_path / "metrics/000002/000000.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 6, "loss": 0.1}\n')
    assert len(reader.records()) == 9
    assert sorted(read) == [f"metrics/{n:06d}/000000.jsonl" for n in (1, 2, 2)]


def test_a_head_is_told_from_none_and_from_a_damaged_one(tmp_path: Path) -> None:
    reader = open_reader(store(tmp_path), None)
    listed = read_head(reader)
    assert listed is not None
    assert [read_listed(reader, entry).size_bytes for entry in listed] == [None, 2048]
    (tmp_path / "head.json").write_text("{")
    assert read_head(reader) is None
    (tmp_path / "head.json").unlink()
    assert read_head(reader) == []


def test_an_empty_prefix_has_no_checkpoints(tmp_path: Path) -> None:
    assert read_checkpoints(open_reader(f"file://{tmp_path}/none/", None)) == []


def process(proc: Path, pid: int, parent: int, uid: str, command: str, *environ: str) -> None:
    folder = proc / str(pid)
    folder.mkdir(parents=True)
    (folder / "environ").write_text("\0".join([f"DLCLOUD_POD_UID={uid}", *environ, ""]))
    (folder / "stat").write_text(f"{pid} (a (b) c) S {parent} 1 1 0")
    (folder / "cmdline").write_text(command.replace(" ", "\0"))


def test_the_rank_is_the_zygotes_child_and_not_its_grandchild_nor_another_pods(tmp_path: Path) -> None:
    zygote = "python -m dlcloud_trainer.zygote"
    process(tmp_path, 10, 1, "u1", "python agent.pyz")
    process(tmp_path, 11, 10, "u1", zygote)
    process(tmp_path, 12, 11, "u1", zygote)
    process(tmp_path, 13, 12, "u1", zygote)
    process(tmp_path, 21, 20, "u2", zygote)
    process(tmp_path, 22, 21, "u2", zygote)
    assert rank_pids("u1", tmp_path) == [12]


def test_a_rank_without_zygote_is_known_by_its_environment(tmp_path: Path) -> None:
    process(tmp_path, 10, 1, "u1", "python agent.pyz")
    process(tmp_path, 11, 10, "u1", "python train.py", "RANK=1")
    assert rank_pids("u1", tmp_path) == [11]


def test_no_process_of_this_machine_belongs_to_an_unknown_pod() -> None:
    assert os.getpid() not in rank_pids("no such uid")
