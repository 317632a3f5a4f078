"""Where a checkpoint's bytes go in a safetensors file: no gap, every tensor aligned, every byte once."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlcloud_trainer.checkpoint.errors import Damaged
from dlcloud_trainer.checkpoint.layout import TensorSpec
from dlcloud_trainer.checkpoint_tool.tensors import ITEM_SIZES, FilePlan, cut, parts_of, plan_file, select

ALIGNMENT = 64


@st.composite
def layouts(draw: st.DrawFn) -> dict[str, TensorSpec]:
    """Tensors one after the other in a flat buffer, as they are staged."""
    specs, end = {}, 0
    for number, (dtype, count) in enumerate(
        draw(st.lists(st.tuples(st.sampled_from(sorted(ITEM_SIZES)), st.integers(0, 40)), max_size=12))
    ):
        offset = -(-end // ALIGNMENT) * ALIGNMENT
        specs[f"model.t{number}"] = TensorSpec(dtype, (count,), offset, count * ITEM_SIZES[dtype])
        end = offset + count * ITEM_SIZES[dtype]
    return specs


def header_of(plan: FilePlan) -> dict[str, Any]:
    (length,) = struct.unpack("<Q", plan.header[:8])
    assert length == len(plan.header) - 8
    found: dict[str, Any] = json.loads(plan.header[8:])
    return found


@given(layouts())
def test_tensors_follow_one_another_and_begin_at_multiples_of_their_elements(specs: dict[str, TensorSpec]) -> None:
    plan = plan_file(specs, {})
    entries = {name: entry for name, entry in header_of(plan).items() if name != "__metadata__"}
    assert set(entries) == set(specs)
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        begin, stop = entry["data_offsets"]
        assert (begin, stop - begin) == (end, specs[name].size_bytes)
        assert (len(plan.header) + begin) % min(8, ITEM_SIZES[specs[name].dtype]) == 0
        end = stop
    assert plan.size_bytes == len(plan.header) + end


@given(layouts(), st.integers(1, 300))
def test_cut_into_slices_every_byte_arrives_where_it_belongs(specs: dict[str, TensorSpec], size: int) -> None:
    plan = plan_file(specs, {})
    whole = max((spec.offset + spec.size_bytes for spec in specs.values()), default=0)
    flat = bytes(i * 7 % 251 for i in range(whole))
    file = bytearray(plan.size_bytes)
    for begin in range(0, whole, size):
        for piece in cut(plan.segments, begin, min(whole, begin + size)):
            file[piece.target : piece.target + piece.size] = flat[piece.source : piece.source + piece.size]
    for name, spec in specs.items():
        begin = len(plan.header) + header_of(plan)[name]["data_offsets"][0]
        assert file[begin : begin + spec.size_bytes] == flat[spec.offset : spec.offset + spec.size_bytes]


def test_complex128_becomes_two_numbers() -> None:
    (entry,) = (e for n, e in header_of(plan_file({"a": TensorSpec("C128", (3,), 0, 48)}, {})).items() if n == "a")
    assert (entry["dtype"], entry["shape"]) == ("F64", [3, 2])


def test_a_part_is_chosen_without_its_name() -> None:
    spec = TensorSpec("F32", (), 0, 4)
    tensors = {"model.a.b": spec, "model": spec, "models.a": spec, "optimizer.a": spec}
    assert list(select(tensors, "model")) == ["a.b"]
    assert parts_of(tensors) == ["model", "models", "optimizer"]


def test_an_unknown_type_is_damage() -> None:
    with pytest.raises(Damaged, match="F3"):
        plan_file({"a": TensorSpec("F3", (1,), 0, 1)}, {})
