"""Tensors as one row of bytes, without the row: whatever way they lie, and wherever the row is cut."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dlcloud_trainer.checkpoint.errors import Damaged
from dlcloud_trainer.checkpoint.layout import TensorSpec
from dlcloud_trainer.checkpoint.settings import in_memory
from dlcloud_trainer.checkpoint.spread import Spread, cut
from dlcloud_trainer.checkpoint.staging import Staging, plan

LAYOUTS = [
    lambda t: t,
    lambda t: t.transpose(0, -1).contiguous().transpose(0, -1),
    lambda t: torch.stack([t, t], -1)[..., 0],
    lambda t: t.flip(0),
    lambda t: t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t,
]


@st.composite
def laid(draw: st.DrawFn) -> torch.Tensor:
    shape = draw(st.lists(st.integers(0, 5), max_size=4))
    dtype = draw(st.sampled_from([torch.uint8, torch.float16, torch.float32, torch.float64, torch.complex128]))
    count = torch.Size(shape).numel()
    whole = torch.arange(1, count + 1).to(dtype).view(shape)
    return draw(st.sampled_from(LAYOUTS))(whole) if whole.dim() else whole


@given(laid(), st.data())
def test_a_cut_is_the_elements_in_row_major_order(tensor: torch.Tensor, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, tensor.numel()))
    stop = data.draw(st.integers(start, tensor.numel()))
    parts = list(cut(tensor, start, stop)) if stop > start else []
    assert [x for part in parts for x in part.flatten().tolist()] == tensor.flatten()[start:stop].tolist()
    assert all(part.data_ptr() >= tensor.data_ptr() for part in parts)


states = st.lists(laid(), max_size=6).map(lambda found: {f"t{i}": tensor for i, tensor in enumerate(found)})


@given(states, st.sampled_from([64, 128, 1 << 16]))
def test_what_is_gathered_is_what_a_copy_holds(state: dict[str, torch.Tensor], step: int) -> None:
    specs, flat = Staging().copy(state)
    spread = Spread(state, specs)
    assert spread.size_bytes == flat.numel()
    gathered = torch.full_like(flat, 255)
    for start in range(0, flat.numel(), step):
        spread.gather(start, gathered[start : start + step])
    assert torch.equal(gathered, flat)


@given(states, st.sampled_from([64, 128, 1 << 16]))
def test_what_is_scattered_arrives_however_the_tensors_lie(state: dict[str, torch.Tensor], step: int) -> None:
    specs, flat = Staging().copy(state)
    empty = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    for start in reversed(range(0, flat.numel(), step)):
        Spread(empty, specs).scatter(start, flat[start : start + step])
    assert all(torch.equal(empty[name], tensor) for name, tensor in state.items())


def test_a_slice_that_ends_within_an_element_is_damage() -> None:
    specs = {"w": TensorSpec("F32", (4,), 0, 16)}
    with pytest.raises(Damaged, match="tensor w is cut within an element, at byte 0 or 6"):
        Spread(in_memory(specs, {}), specs).scatter(0, torch.zeros(6, dtype=torch.uint8))


def test_the_order_of_a_manifest_does_not_matter() -> None:
    state = {"a": torch.arange(40.0), "b": torch.arange(70)}
    specs, flat = Staging().copy(state)
    turned = dict(reversed(specs.items()))
    again = in_memory(turned, {})
    Spread(again, turned).scatter(0, flat)
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


def test_planning_needs_no_memory() -> None:
    state = {"w": torch.zeros(1).expand(1 << 40)}
    assert plan(state)[1] == 1 << 42
    piece = torch.full((1 << 16,), 255, dtype=torch.uint8)
    Spread(state, plan(state)[0]).gather(1 << 41, piece)
    assert not piece.any()
