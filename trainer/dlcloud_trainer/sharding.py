"""Which samples a rank trains on: a pure function of (seed, epoch, samples consumed, batch size, world size, rank).

May import torch. Holds no state: nothing here needs a checkpoint, and a job may go on with another number of ranks at
any step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

_MASK = 2**64 - 1
WEIGHTS, ORDER, STEP, NOISE = range(4)  # what a seed is for; noise is that which no rank has to itself


@dataclass(frozen=True)
class Schedule:
    """All optimiser steps of a training: `samples` per epoch, `batch_size` over all ranks; an epoch's last batch may be
    smaller.
    """

    samples: int
    batch_size: int
    epochs: int

    @property
    def total_samples(self) -> int:
        """Samples of the whole training, each counted once per epoch."""
        return self.samples * self.epochs

    def epoch(self, consumed: int) -> int:
        """Whole epochs behind this many samples."""
        return consumed // self.samples

    def batch(self, consumed: int) -> range:
        """Positions, in the epoch's order, of the batch that comes after this many samples."""
        start = consumed % self.samples
        return range(start, min(start + self.batch_size, self.samples))

    def steps_after(self, consumed: int) -> int:
        """Steps that are left."""
        whole_epochs, rest = divmod(max(0, self.total_samples - consumed), self.samples)
        return whole_epochs * math.ceil(self.samples / self.batch_size) + math.ceil(rest / self.batch_size)


def epoch_order(seed: int, epoch: int, samples: int) -> Tensor:
    """The order of an epoch: a permutation of 0 to samples - 1, int64 (samples,)."""
    return torch.randperm(samples, generator=torch.Generator().manual_seed(mix(seed, ORDER, epoch)))


def share(positions: range, world_size: int, rank: int) -> range:
    """A rank's contiguous part of the positions; the parts of all ranks differ by at most one and may be empty."""
    small, larger = divmod(len(positions), world_size)
    start = rank * small + min(rank, larger)
    return positions[start : start + small + (rank < larger)]


def mix(*numbers: int) -> int:
    """One 63-bit seed from several numbers (splitmix64 after each): near numbers give unrelated seeds."""
    state = 0
    for number in numbers:
        state = (state + number + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state >> 1
