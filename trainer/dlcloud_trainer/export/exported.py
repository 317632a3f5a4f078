"""What a task hands over: a module from inputs as they are loaded to what the workload tells.

May import torch and errors. A task that can be exported is a `HandsOver`; what it cannot do it names in
`refused_exports` before its training begins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

Values = tuple[Tensor, ...]
Change = Callable[[nn.Module], nn.Module]  # a module of the task's to the one handed over: on the CPU, compressed
BATCH = "batch"
SAMPLES = (2, 1, 7)  # of the examples: the first are traced (1 would be taken for a constant), the others checked


@dataclass(frozen=True)
class Input:
    """One input: its name, what it holds in a sentence, and the axes that may have any size, by their names."""

    name: str
    about: str
    dynamic: Mapping[int, str] = field(default_factory=lambda: {0: BATCH})


@dataclass(frozen=True)
class Exported:
    """`module` computes `output` from the inputs, on the CPU and without state. The first of `examples` is traced; all
    are computed by `reference` as well, which is the task's own way to its answer."""

    module: nn.Module
    inputs: tuple[Input, ...]
    output: str
    output_about: str
    examples: tuple[Values, ...]
    reference: Callable[[Values], Tensor]
    weights: nn.Module  # whose state_dict is handed over beside it
    labels: tuple[str, ...] = ()
    vocabulary: tuple[str, ...] = ()


@runtime_checkable
class HandsOver(Protocol):
    """A task that can be exported."""

    @property
    def refused_exports(self) -> Mapping[str, str]:
        """What of `export` does not go with it, as in `REFUSABLE`, each with the reason."""
        ...

    def exported(self, data: Any, change: Change) -> Exported:
        """From `data` (Splits) the examples are taken; every module that is handed over goes through `change`."""
        ...


REFUSABLE = ("quantize: static", "quantize: dynamic", "prune", "distill")


class Normalized(nn.Module):
    """A model with the normalisation of its images in front."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, model: nn.Module, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", mean.detach().cpu().clone())
        self.register_buffer("deviation", deviation.detach().cpu().clone())

    def normalize(self, images: Tensor) -> Tensor:
        """(n, channels, height, width) of any number type -> the same of float."""
        return (images.float() - self.mean) / self.deviation


class Probabilities(Normalized):
    """A classifier with its normalisation in front and softmax behind it; the largest probability is the answer."""

    def forward(self, images: Tensor) -> Tensor:
        """(n, channels, height, width) of any number type -> (n, classes)."""
        return torch.softmax(self.model(self.normalize(images)), 1)


class Unit(nn.Module):
    """Pixels of -1 to 1 to those of 0 to 1."""

    def forward(self, images: Tensor) -> Tensor:
        """Of any shape."""
        return (images + 1) / 2


def cuts(values: Values) -> tuple[Values, ...]:
    """The first samples of some data in the sizes that are traced and checked."""
    return tuple(tuple(tensor[:count].cpu() for tensor in values) for count in SAMPLES)


def from_noise(
    module: nn.Module, weights: nn.Module, noise: Tensor, name: str, about: str, reference: Callable[[Values], Tensor]
) -> Exported:
    """Of a model that draws images: `noise` (n, size) is some of what it draws from."""
    return Exported(
        module=module,
        inputs=(Input(name, about),),
        output="images",
        output_about="pixels from 0 to 1, (n, channels, height, width)",
        examples=cuts((noise,)),
        reference=reference,
        weights=weights,
    )
