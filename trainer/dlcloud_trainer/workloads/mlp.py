"""`mlp`: a multilayer perceptron that reads handwritten digits. Parameters, model, loss and measures in one file.

May import torch, pydantic and the package's modules for data and tasks. Images are uint8 (n, 1, 28, 28), labels int64
(n,).
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from ..augmentation import distort
from ..classification import Classifier, ClassifierParameters
from ..data import DIGITS_URI, Images, Splits
from ..data import load_grey_images as load_data
from ..initialisation import begin_as_keras
from ..workload import Batch, Part

__all__ = [
    "BEST_BY",
    "DATA",
    "DESCRIPTION",
    "LOWER_IS_BETTER",
    "PRESETS",
    "REFUSED",
    "Parameters",
    "load_data",
    "make_task",
]

DESCRIPTION = "A multilayer perceptron that reads handwritten digits."
DATA = (DIGITS_URI, "s3://", "file://")
BEST_BY = "accuracy"
LOWER_IS_BETTER = False
PRESETS: dict[str, dict[str, Any]] = {
    "faithful": {
        "augment": False,
        "batchSize": 32,
        "epochs": 5,
        "epsilon": 1e-7,
        "learningRate": 0.001,
        "optimizer": "adam",
        "schedule": "constant",
        "validation": "last",
    },
    "best": {"augment": True, "batchSize": 128, "dropout": 0.1, "ema": 0.999, "epochs": 40, "hidden": 800},
}
REFUSED: dict[str, str] = {}


class Parameters(ClassifierParameters):
    """Settings of `mlp`."""

    hidden: int = Field(128, ge=1, le=8192, description="Width of each hidden layer.")
    layers: int = Field(1, ge=1, le=16, description="Hidden layers.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Part of each hidden layer's features that is dropped.")
    augment: bool = Field(False, description="Turn, scale, shear and shift training images a little at random.")


class Mlp(Classifier):
    """The task: see `Task` of the workload module."""

    def __init__(self, parameters: Parameters, data: Splits[Images], device: torch.device) -> None:
        self._augment = parameters.augment
        model = build(parameters, data.train.images[0].numel(), len(data.classes))
        if parameters.preset == "faithful":
            begin_as_keras(model)
        super().__init__(model, parameters, data, device)

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Float images, normalised."""
        return (self.normalize(batch[0]),)

    def prepare(self, part: Part) -> Part:
        """The same, augmented when the job asks for it."""
        images, labels = part.batch
        return part.replaced(self.normalize(distort(images.float()) if self._augment else images), labels)


def make_task(parameters: Parameters, data: Splits[Images], device: torch.device) -> Mlp:
    """Model and optimiser with fresh weights."""
    return Mlp(parameters, data, device)


def build(parameters: Parameters, size: int, classes: int) -> nn.Module:
    """(n, channels, height, width) of `size` values -> (n, classes); 101,770 weights by default."""
    widths = [size, *[parameters.hidden] * parameters.layers]
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for number, (before, after) in enumerate(pairwise(widths), 1):
        layers[f"dense{number}"] = nn.Linear(before, after)
        layers[f"relu{number}"] = nn.ReLU()
        layers[f"dropout{number}"] = nn.Dropout(parameters.dropout)
    layers["dense"] = nn.Linear(parameters.hidden, classes)
    return nn.Sequential(layers)
