"""The flat buffer: aligned, reused, complete."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dlcloud_trainer.checkpoint.errors import Damaged, StateNotPlain
from dlcloud_trainer.checkpoint.layout import TensorSpec
from dlcloud_trainer.checkpoint.staging import ALIGNMENT, Staging, allocate, plan, view, views
from dlcloud_trainer.checkpoint.upload import LARGEST, MIB, SMALLEST, slice_size


@given(st.lists(st.integers(0, 300), max_size=8))
def test_tensors_are_aligned_and_do_not_overlap(lengths: list[int]) -> None:
    specs, size = plan({str(i): torch.zeros(n, dtype=torch.int16) for i, n in enumerate(lengths)})
    end = 0
    for spec in specs.values():
        assert spec.offset % ALIGNMENT == 0
        assert spec.offset >= end
        end = spec.offset + spec.size_bytes
    assert end == size


def test_a_state_of_the_same_layout_is_copied_into_the_same_memory() -> None:
    staging = Staging()
    first = staging.copy({"w": torch.ones(1000)})[1].data_ptr()
    assert staging.copy({"w": torch.zeros(1000)})[1].data_ptr() == first
    assert staging.copy({"w": torch.zeros(10)})[1].data_ptr() == first


def test_a_grown_state_is_copied_whole() -> None:
    staging = Staging()
    staging.copy({"w": torch.ones(10)})
    state = {"w": torch.randn(10), "m": torch.randn(3 << 20)}
    specs, flat = staging.copy(state)
    assert all(torch.equal(value, state[name]) for name, value in views(flat, specs).items())


def test_the_gaps_of_a_new_layout_hold_nothing_of_the_old() -> None:
    staging = Staging()
    staging.copy({"w": torch.full((1024,), 255, dtype=torch.uint8)})
    specs, flat = staging.copy({"a": torch.zeros(1, dtype=torch.uint8), "b": torch.zeros(1, dtype=torch.uint8)})
    assert specs["b"].offset == ALIGNMENT
    assert not flat.any()


def test_a_copy_does_not_follow_the_tensor() -> None:
    weight = torch.zeros(4, requires_grad=True)
    specs, flat = Staging().copy({"w": weight})
    with torch.no_grad():
        weight += 1
    assert not views(flat, specs)["w"].any()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(4, 6).t(),
        torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        torch.randn(1).expand(5, 3),
        torch.randn(10)[::3],
        torch.randn(3, dtype=torch.complex64).conj(),
    ],
    ids=["transposed", "channels last", "expanded", "strided", "conjugated"],
)
def test_memory_formats_do_not_change_values(tensor: torch.Tensor) -> None:
    specs, flat = Staging().copy({"t": tensor})
    assert torch.equal(views(flat, specs)["t"], tensor)


def test_a_prepared_buffer_is_the_one_used() -> None:
    staging = Staging()
    state = {"w": torch.randn(1 << 20)}
    staging.prepare(state)
    prepared = staging._buffer.data_ptr()
    assert staging.copy(state)[1].data_ptr() == prepared


@pytest.mark.parametrize(
    "tensor", [torch.zeros(2, 2).to_sparse(), torch.empty(2, device="meta"), torch.empty(1, dtype=torch.float8_e8m0fnu)]
)
def test_a_tensor_that_cannot_be_stored_is_named(tensor: torch.Tensor) -> None:
    with pytest.raises(StateNotPlain, match=r"model/x: a torch\..* tensor of .* cannot be stored; allowed are dense"):
        plan({"model/x": tensor})


@pytest.mark.parametrize(
    "spec", [TensorSpec("F99", (1,), 0, 4), TensorSpec("F32", (2,), 0, 4), TensorSpec("F32", (1,), 2, 4)]
)
def test_a_spec_that_cannot_be_is_damage(spec: TensorSpec) -> None:
    with pytest.raises(Damaged, match="tensor w"):
        view(torch.zeros(64, dtype=torch.uint8), "w", spec)


@pytest.mark.parametrize("size", [0, 1, (2 << 20) - 1, 2 << 20, (5 << 20) + 3])
def test_allocated_memory_is_zero_and_of_the_right_size(size: int) -> None:
    memory = allocate(size)
    assert memory.shape == (size,) and not memory.any()


@given(st.integers(0, 1 << 40))
def test_slices_are_16_to_64_mib(size: int) -> None:
    assert SMALLEST <= slice_size(size) <= LARGEST
    assert slice_size(size) % MIB == 0
