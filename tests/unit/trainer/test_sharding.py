"""Which samples a rank trains on."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from dlcloud_trainer.sharding import Schedule, epoch_order, mix, share

POSITIONS = st.builds(lambda start, length: range(start, start + length), st.integers(0, 50), st.integers(0, 200))


@given(POSITIONS, st.integers(1, 40))
def test_the_shares_of_all_ranks_are_the_batch_in_its_order(positions: range, world_size: int) -> None:
    shares = [share(positions, world_size, rank) for rank in range(world_size)]
    assert [position for one in shares for position in one] == list(positions)


@given(POSITIONS, st.integers(1, 40))
def test_shares_differ_by_at_most_one_sample(positions: range, world_size: int) -> None:
    sizes = [len(share(positions, world_size, rank)) for rank in range(world_size)]
    assert max(sizes) - min(sizes) <= 1


@given(
    st.integers(1, 120),
    st.integers(1, 50),
    st.integers(1, 3),
    st.lists(st.integers(1, 9), min_size=1, max_size=12),
    st.integers(0, 2**32 - 1),
)
def test_every_epoch_holds_every_sample_once_however_often_the_number_of_ranks_changes(
    samples: int, batch_size: int, epochs: int, worlds: list[int], seed: int
) -> None:
    schedule = Schedule(samples, batch_size, epochs)
    seen: list[list[int]] = [[] for _ in range(epochs)]
    consumed = step = 0
    while consumed < schedule.total_samples:
        world_size = worlds[step % len(worlds)]
        epoch, positions = schedule.epoch(consumed), schedule.batch(consumed)
        order = epoch_order(seed, epoch, samples).tolist()
        for rank in range(world_size):
            seen[epoch] += [order[position] for position in share(positions, world_size, rank)]
        consumed += len(positions)
        step += 1
    assert all(sorted(epoch) == list(range(samples)) for epoch in seen)


@given(st.integers(1, 500), st.integers(1, 80), st.integers(1, 5), st.integers(0, 3000))
def test_the_steps_that_are_left_are_the_steps_that_follow(
    samples: int, batch_size: int, epochs: int, consumed: int
) -> None:
    schedule = Schedule(samples, batch_size, epochs)
    expected = schedule.steps_after(consumed)
    counted = 0
    while consumed < schedule.total_samples:
        consumed += len(schedule.batch(consumed))
        counted += 1
    assert counted == expected


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    assert torch.equal(epoch_order(3, 5, 100), epoch_order(3, 5, 100))
    assert not torch.equal(epoch_order(3, 5, 100), epoch_order(3, 6, 100))
    assert not torch.equal(epoch_order(3, 5, 100), epoch_order(4, 5, 100))


def test_asking_for_an_order_leaves_the_default_generator_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    epoch_order(0, 0, 10)
    assert torch.equal(before, torch.get_rng_state())


@given(st.lists(st.integers(0, 2**32), min_size=1, max_size=4))
def test_a_mixed_seed_is_one_torch_takes(numbers: list[int]) -> None:
    assert 0 <= mix(*numbers) < 2**63


def test_near_numbers_give_different_seeds() -> None:
    seeds = {mix(seed, step, rank) for seed in range(10) for step in range(100) for rank in range(10)}
    assert len(seeds) == 10 * 100 * 10
