"""Keys, manifests and heads: what is written can be read, and nothing else can."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlcloud_trainer.checkpoint.errors import Damaged, NewerFormat
from dlcloud_trainer.checkpoint.layout import (
    Entry,
    Head,
    Manifest,
    Slice,
    TensorSpec,
    attempt_folder,
    attempt_of,
    manifest_key,
    seal,
    slice_key,
    step_and_round,
)

TIME = datetime(2026, 1, 2, 3, 4, 5, 123456, tzinfo=UTC)
MANIFEST = Manifest(
    step=120,
    samples=7680,
    round=3,
    parent="manifests/000000000100-000002.json",
    created_at=TIME,
    world_size=2,
    threads=1,
    seed=-7,
    size_bytes=192,
    metric=0.91,
    workload="cnn",
    parameters={"epochs": 10, "ünïcode": [1.5, None]},
    slices=(Slice("attempts/000003-ab/00000.bin", 128, 1), Slice("attempts/000003-ab/00001.bin", 64, 2**32 - 1)),
    tensors={"model/w": TensorSpec("F32", (2, 3), 0, 24), "model/b": TensorSpec("BF16", (), 64, 2)},
    state={"z": 1, "a": {"$tensor": "model/w"}},
)
HEAD = Head(3, "5f0c", "aa", TIME, (Entry("manifests/000000000120-000003.json", 120, 3, 0.5, True),))

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
entries = st.builds(
    Entry,
    st.text(max_size=20),
    st.integers(0, 10**12),
    st.integers(0, 10**6),
    st.none() | st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
)


@given(json_values, st.none() | st.floats(allow_nan=False, allow_infinity=False), st.integers())
def test_a_manifest_comes_back_as_it_was(state: Any, metric: float | None, seed: int) -> None:
    manifest = replace(MANIFEST, state=state, metric=metric, seed=seed)
    assert Manifest.parse(manifest.dump(), "here") == manifest


def test_the_order_of_a_state_is_kept() -> None:
    assert list(Manifest.parse(MANIFEST.dump(), "here").state) == ["z", "a"]


@given(st.lists(entries, max_size=5), st.integers(0, 10**6), st.text())
def test_a_head_comes_back_as_it_was(listed: list[Entry], round: int, nonce: str) -> None:
    head = Head(round, nonce, "w", TIME, tuple(listed))
    assert Head.parse(head.dump(), "here") == head


@given(st.data())
def test_a_changed_byte_is_noticed(data: st.DataObject) -> None:
    written = MANIFEST.dump()
    at = data.draw(st.integers(0, len(written) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != written[at]))
    changed = written[:at] + bytes([other]) + written[at + 1 :]
    try:
        read = Manifest.parse(changed, "here")
    except Damaged:
        return
    assert read == MANIFEST  # white space or an escape written otherwise: the same value


@given(st.integers(0, len(HEAD.dump()) - 1))
def test_a_truncated_head_is_damaged(length: int) -> None:
    with pytest.raises(Damaged):
        Head.parse(HEAD.dump()[:length], "here")


@pytest.mark.parametrize("field", sorted(set(json.loads(MANIFEST.dump())) - {"crc32", "version"}))
def test_a_missing_field_is_named(field: str) -> None:
    body = json.loads(MANIFEST.dump())
    del body["crc32"], body[field]
    with pytest.raises(Damaged, match=f"here: {field} is missing"):
        Manifest.parse(seal(body), "here")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"step": -1}, "step is -1, not 0 or more"),
        ({"step": True}, "step is True, not an integer"),
        ({"metric": "x"}, "metric is 'x', not a finite number"),
        ({"createdAt": "yesterday"}, "createdAt is 'yesterday', not a time"),
        ({"createdAt": "2026-01-02T03:04:05"}, "a time without its zone"),
        ({"slices": [1]}, r"slices\[0\] is int, not an object"),
        ({"slices": []}, "do not add up to sizeBytes 192"),
        ({"tensors": {"w": {"dtype": "F32", "shape": [1], "offset": 190, "sizeBytes": 4}}}, "w lies beyond sizeBytes"),
        ({"tensors": {"w": {"dtype": "F32", "shape": [-1], "offset": 0, "sizeBytes": 4}}}, "not 0 or more"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], said: str) -> None:
    body = json.loads(MANIFEST.dump()) | change
    del body["crc32"]
    with pytest.raises(Damaged, match=said):
        Manifest.parse(seal(body), "here")


def test_what_a_newer_program_wrote_is_refused_and_not_taken_for_damage() -> None:
    body = json.loads(HEAD.dump()) | {"version": 2}
    del body["crc32"]
    with pytest.raises(NewerFormat, match="version 2, this program reads 1"):
        Head.parse(seal(body), "here")


def test_a_field_this_program_does_not_know_is_ignored() -> None:
    body = json.loads(HEAD.dump()) | {"later": 1}
    del body["crc32"]
    assert Head.parse(seal(body), "here") == HEAD


@given(st.integers(0, 10**14), st.integers(0, 10**8))
def test_keys_are_read_back(step: int, round: int) -> None:
    assert step_and_round(manifest_key(step, round)) == (step, round)
    folder = attempt_folder(round, "ab12")
    assert attempt_of(slice_key(folder, 3)) == (folder, round)


@given(st.lists(st.tuples(st.integers(0, 10**11), st.integers(0, 10**5)), max_size=20))
def test_manifest_keys_sort_by_step_then_round(pairs: list[tuple[int, int]]) -> None:
    assert sorted(manifest_key(*pair) for pair in pairs) == [manifest_key(*pair) for pair in sorted(pairs)]
