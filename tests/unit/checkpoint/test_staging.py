"""The flat buffer: aligned, reused, complete."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dlcloud_trainer.checkpoint import memory
from dlcloud_trainer.checkpoint import staging as staging_module
from dlcloud_trainer.checkpoint.copier import Copier
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


@given(st.lists(st.integers(0, 900), min_size=1, max_size=6), st.integers(1, 5))
def test_several_copiers_copy_what_one_does(lengths: list[int], count: int) -> None:
    state = {str(i): torch.randn(3, n).t() if i % 2 else torch.randn(n) for i, n in enumerate(lengths)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staging_module, "_copiers", lambda size, on_gpu: count)
        patch.setattr(staging_module, "SHARE_BYTES", 1000)
        specs, flat = Staging().copy(state)
    assert all(torch.equal(value, state[name]) for name, value in views(flat, specs).items())


def test_a_large_state_is_copied_by_as_many_threads_as_there_are_cores() -> None:
    cores = len(os.sched_getaffinity(0))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert staging_module._copiers(1 << 30, False) == min(4, cores)
        assert staging_module._copiers(1 << 20, False) == 1
        torch.set_num_threads(2)
        assert staging_module._copiers(1 << 30, False) == 1
    finally:
        torch.set_num_threads(before)


def sent(source: Any, step: int) -> bytes:
    """All of a source, in pieces."""
    found = bytearray()
    for start in range(0, source.size_bytes, step):
        with source.read(start, min(start + step, source.size_bytes)) as view:
            found += view
    return bytes(found)


STATE = {"w": torch.arange(1000.0).view(10, 100).t(), "n": torch.tensor(3), "b": torch.randn(1 << 19)}


def test_without_memory_for_a_copy_the_same_bytes_are_sent_from_where_they_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    copied = Copier(print).take(STATE)
    monkeypatch.setattr(memory, "MARGIN", 1 << 60)
    warnings: list[tuple[str, str]] = []
    copier = Copier(lambda reason, text: warnings.append((reason, text)))
    assert not copier.admits(STATE)
    live = copier.take(STATE)
    assert copier.blocks and live[1].waits and not copied[1].waits
    assert live[0] == copied[0]
    assert sent(live[1], SMALLEST) == sent(copied[1], SMALLEST)
    ((reason, text),) = warnings
    assert reason == "CheckpointBlocks"
    assert text.startswith("no memory for a copy of the state (3 MiB): training waits")
    assert "raise workers.memory by at least 1099511" in text


def test_a_buffer_that_cannot_be_had_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(size: int) -> torch.Tensor:
        raise OSError(12, "Cannot allocate memory")  # what mmap says below an RLIMIT_DATA

    copier = Copier(lambda reason, text: None)
    with monkeypatch.context() as patch:
        patch.setattr(staging_module, "allocate", refuse)
        copier.prepare(STATE)
    assert copier.blocks
    assert copier.take(STATE)[1].waits
    assert not copier.take({"n": torch.tensor(3)})[1].waits
    assert not copier.blocks


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
