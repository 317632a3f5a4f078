"""What a workload is: the few things the loop asks of it.

May import torch and parameters. A workload is one file under workloads/ that defines, by these names, what `Workload`
lists; adding one is adding that file. The loop owns steps, ranks, seeds, learning rate and checkpoints; a workload owns
model, data, loss and measures. One with one model and one optimiser derives its task from `Supervised`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .assignment import StoreAddress
from .checkpoint import Stateful
from .data.splits import Splits
from .parameters import HasParameters, TrainingParameters
from .sharding import NOISE, mix, share

Batch = tuple[Tensor, ...]
Measures = Mapping[str, Tensor]


@dataclass(frozen=True)
class Part:
    """A rank's part of one step's batch."""

    batch: Batch
    indices: Tensor  # of its samples in the training data, int64, on the batch's device
    epoch: int  # the one it belongs to, from 0
    weight: float  # of the sum of its samples' losses, so that the mean of the ranks' gradients is that of the batch
    start: int  # position of its first sample in the batch of all ranks
    total: int  # samples of all ranks
    seed: int  # of what is drawn for the whole batch: the same on every rank

    def __len__(self) -> int:
        return len(self.batch[0])

    def noise(self, *shape: int, stream: int = 0) -> Tensor:
        """Normal noise (samples, *shape) on the CPU: each sample of the batch has its own, however many ranks share it.
        Another `stream`, other noise."""
        generator = torch.Generator().manual_seed(mix(self.seed, NOISE, stream))
        whole = torch.randn(self.total, *shape, generator=generator)
        return whole[self.start : self.start + len(self)]

    def replaced(self, *batch: Tensor) -> Part:
        """The same samples as they are after some preparation."""
        return replace(self, batch=batch)

    def pieces(self, count: int) -> list[Part]:
        """The same samples in at most `count` parts, one after another."""
        ranges = [share(range(len(self)), count, index) for index in range(min(count, len(self)))]
        return [
            replace(
                self,
                batch=tuple(tensor[own.start : own.stop] for tensor in self.batch),
                indices=self.indices[own.start : own.stop],
                start=self.start + own.start,
            )
            for own in ranges
        ]


@dataclass(frozen=True)
class Moment:
    """Where a training is: steps and samples behind it, the learning rate of the step to come."""

    step: int
    epoch: int
    rate: float


Wrap = Callable[[nn.Module], nn.Module]


class Task(Protocol):
    """A workload made ready for one training. Sums over samples, never means: who adds up knows how many there were."""

    @property
    def parts(self) -> Mapping[str, Stateful]:
        """All a training needs to go on, by the names they have in a checkpoint: models, optimisers, averages."""

    def begin_epoch(self, epoch: int) -> bool:
        """`epoch` epochs are behind; whether the models must be wrapped anew, because other weights are trained now."""

    def wrap(self, wrap: Wrap) -> None:
        """Have backward average the gradients over all ranks: each model that is trained goes through `wrap`."""

    def rehearse(self, part: Part) -> None:
        """Each model's forward and backward once; gradients are dropped, and the loop restores the buffers."""

    def update(self, part: Part, now: Moment) -> Tensor:
        """One optimiser step; the weighted loss, detached. Torch's default generators are seeded by the loop for this
        step and rank."""

    def measure(self, batch: Batch) -> Measures:
        """Sums over the samples, of any shape, by measure; among them `loss`."""

    def describe(self, sums: Measures, count: int) -> dict[str, float]:
        """From the sums over all samples to what is told, among it the workload's `BEST_BY`."""

    def pictures(self, validation: Batch) -> Mapping[str, Tensor]:
        """Pictures of what was learned, by name, uint8 (height, width) or (height, width, 3); asked on rank 0 after
        each epoch."""


class Workload(HasParameters, Protocol):
    """The names a file under workloads/ defines, those of `HasParameters` among them."""

    DESCRIPTION: str
    DATA: tuple[str, ...]  # what its data.uri may begin with
    BEST_BY: str  # the measure by which a checkpoint is the best
    LOWER_IS_BETTER: bool

    def load_data(self, uri: str, store: StoreAddress, parameters: Any) -> Splits[Any]:
        """Train, validation and test; raises `InvalidInput` for what it cannot read."""

    def make_task(self, parameters: Any, data: Splits[Any], device: torch.device) -> Task:
        """Models and optimisers with fresh weights from torch's default generator."""


__all__ = ["Batch", "Measures", "Moment", "Part", "Task", "TrainingParameters", "Workload", "Wrap"]
