"""What a workload is: the few things the loop asks of it, and the parameters all of them share.

May import torch and pydantic. A workload is one file under workloads/ that defines, by these names, what `Workload`
lists; adding one is adding that file. The loop owns steps, ranks, seeds, learning rate and checkpoints; a workload owns
model, data, loss and measures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel
from torch import Tensor, nn

from .assignment import StoreAddress
from .data.splits import Splits
from .errors import InvalidInput

WARM_UP = 0.05
Batch = tuple[Tensor, ...]


class TrainingParameters(BaseModel):
    """Parameters of every workload; a workload's own class adds to them. Descriptions end up in `dlcloud validate` and
    the docs.
    """

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True, strict=True, allow_inf_nan=False
    )

    epochs: int = Field(10, ge=1, le=100_000, description="Passes over the training data.")
    batch_size: int = Field(64, ge=1, le=65_536, description="Samples of one optimiser step, over all ranks together.")
    learning_rate: float = Field(0.001, gt=0, le=10, description="Highest learning rate.")
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="cosine: rises over the first 5 % of the training, then falls to 0; constant: stays."
    )
    seed: int = Field(0, ge=0, le=2**32 - 1, description="Seed of weights, data order, dropout and augmentation.")
    log_every_steps: int = Field(10, ge=1, le=1_000_000, description="Steps between two training records.")


class Task(Protocol):
    """A workload made ready for one training. Per-sample sums, never means: the loop divides by what all ranks saw."""

    model: nn.Module
    optimizer: torch.optim.Optimizer

    def prepare(self, batch: Batch) -> Batch:
        """Augment a training batch; torch's default generators are seeded by the loop for this step and rank."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Sum of the samples' losses, a scalar to differentiate; `model` is `self.model`, on several ranks wrapped."""

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Sums over the samples by measure, scalars; among them `loss` and the workload's `BEST_BY`."""


class Workload(Protocol):
    """The names a file under workloads/ defines."""

    DESCRIPTION: str
    DATA: tuple[str, ...]  # what its data.uri may begin with
    BEST_BY: str  # the measure by which a checkpoint is the best; higher is better

    @property
    def Parameters(self) -> type[TrainingParameters]: ...  # noqa: N802

    def load_data(self, uri: str, store: StoreAddress) -> Splits[Any]:
        """Train, validation and test; raises `InvalidInput` for what it cannot read."""

    def make_task(self, parameters: Any, device: torch.device) -> Task:
        """Model and optimiser with fresh weights from torch's default generator."""


def parse_parameters(workload: Workload, given: Mapping[str, Any]) -> TrainingParameters:
    """The workload's parameters; raises `InvalidInput` naming the first wrong one."""
    try:
        return workload.Parameters.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            known = ", ".join(sorted(to_camel(field) for field in workload.Parameters.model_fields))
            raise InvalidInput(f"parameters.{name}: there is no such parameter; allowed are {known}") from None
        problem = first["msg"][0].lower() + first["msg"][1:]
        raise InvalidInput(f"parameters.{name}: {first['input']!r} is not allowed: {problem}") from None


def learning_rate(parameters: TrainingParameters, done: float) -> float:
    """The learning rate after a fraction of the training, 0 to 1: a pure function, so that there is no schedule to
    save.
    """
    if parameters.schedule == "constant":
        return parameters.learning_rate
    rise = min(1.0, (done + 0.001) / WARM_UP)
    return parameters.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
