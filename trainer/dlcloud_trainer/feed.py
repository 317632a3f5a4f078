"""Which samples a rank's next step is made of, and which random numbers.

May import torch, sharding and workload. Holds no state that a checkpoint would need.
"""

from __future__ import annotations

import torch

from .assignment import Place
from .sharding import STEP, Schedule, epoch_order, mix, share
from .workload import Batch, Part


class Feed:
    """A rank's part of every batch; `samples` lie on the rank's device."""

    def __init__(self, samples: Batch, seed: int, schedule: Schedule, place: Place) -> None:
        self._samples, self._seed, self._schedule, self._place = samples, seed, schedule, place
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def part(self, consumed: int, step: int) -> Part:
        """The rank's part of the batch after so many samples.

        DDP takes the mean of the ranks' gradients: with the part's weight it is the gradient of the mean over the whole
        batch, however unequal the shares. A rank without a share trains on one sample with weight 0, because every rank
        must take part.
        """
        epoch = self._schedule.epoch(consumed)
        if epoch != self._epoch:
            order = epoch_order(self._seed, epoch, self._schedule.samples)
            self._epoch, self._order = epoch, order.to(self._samples[0].device)
        positions = self._schedule.batch(consumed)
        mine = share(positions, self._place.world_size, self._place.rank)
        chosen = mine or positions[:1]
        indices = self._order[chosen.start : chosen.stop]
        return Part(
            batch=tuple(tensor.index_select(0, indices) for tensor in self._samples),
            indices=indices,
            epoch=epoch,
            weight=self._place.world_size / len(positions) if mine else 0.0,
            start=chosen.start - positions.start,
            total=len(positions),
            seed=mix(self._seed, STEP, step),
        )


def seed_generators(seed: int, step: int, rank: int, device: torch.device) -> None:
    """Seed torch's default generators for one step of one rank: there is no generator state to save."""
    number = mix(seed, STEP, step, rank)
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed(number)
