"""`cnn`: convolutional networks that tell grey images apart: handwritten digits, or what has their shape.

May import torch, pydantic and the package's modules for data and tasks. Images are uint8 (n, channels, height, width),
labels int64 (n,).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..augmentation import distort
from ..classification import Classifier, ClassifierParameters
from ..data import DIGITS_URI, Images, Splits
from ..data import load_grey_images as load_data
from ..errors import InvalidInput
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

DESCRIPTION = "A convolutional network that tells grey images apart, such as handwritten digits."
DATA = (DIGITS_URI, "s3://", "file://")
BEST_BY = "accuracy"
LOWER_IS_BETTER = False
FAITHFUL = {"batchSize": 32, "learningRate": 0.001, "schedule": "constant", "optimizer": "adam", "epsilon": 1e-7}
PRESETS: dict[str, dict[str, Any]] = {
    "faithful": {**FAITHFUL, "architecture": "conv32-64", "augment": False, "epochs": 10, "validation": "last"},
    "best": {
        "architecture": "deep",
        "augment": True,
        "batchSize": 128,
        "ema": 0.999,
        "epochs": 20,
        "labelSmoothing": 0.05,
        "learningRate": 0.004,
        "weightDecay": 0.01,
    },
}
REFUSED: dict[str, str] = {}

SMALL = (8, 16, "pool", 16, 20, "pool", 20, 24)
DEEP = (32, 32, "pool", 64, 64, "pool", 128, 128)


class Parameters(ClassifierParameters):
    """Settings of `cnn`. The defaults reach 98 % on builtin://digits and 99 % on MNIST."""

    architecture: Literal["conv32-64", "conv8", "small", "deep"] = Field(
        "conv32-64",
        description="conv32-64: two convolutions, pool, dropout 0.5, dense 128; conv8: one convolution, pool, dense; "
        "small: six narrow convolutions, 15,000 weights; deep: six wide ones, 290,000.",
    )
    learning_rate: float = Field(0.002, gt=0, le=10, description="Highest learning rate.")
    dropout: float = Field(0.5, ge=0, lt=1, description="Of conv32-64 and deep: part of the features dropped.")
    augment: bool = Field(True, description="Turn, scale, shear and shift training images a little at random.")


class Cnn(Classifier):
    """The task: see `Task` of the workload module."""

    def __init__(self, parameters: Parameters, data: Splits[Images], device: torch.device) -> None:
        self._augment = parameters.augment
        model = build(parameters, tuple(data.train.images.shape[1:]), len(data.classes))
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


def make_task(parameters: Parameters, data: Splits[Images], device: torch.device) -> Cnn:
    """Model and optimiser with fresh weights."""
    return Cnn(parameters, data, device)


def build(parameters: Parameters, shape: tuple[int, ...], classes: int) -> nn.Module:
    """(n, *shape) -> (n, classes); raises `InvalidInput` for images that are too small."""
    channels, height, width = shape
    if min(height, width) < 12:
        raise InvalidInput(f"data.uri: images of {height}x{width} pixels; this workload needs 12x12 and more")
    if parameters.architecture == "conv32-64":
        return build_conv32_64(shape, classes, parameters.dropout)
    if parameters.architecture == "conv8":
        return build_conv8(shape, classes)
    if parameters.architecture == "small":
        return build_stack(channels, classes, SMALL, 0.0)
    return build_stack(channels, classes, DEEP, parameters.dropout)


def build_conv32_64(shape: tuple[int, ...], classes: int, dropout: float) -> nn.Module:
    """1.2 million weights for 28x28 grey pixels."""
    channels, height, width = shape
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 32, 3),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(32, 64, 3),
            relu2=nn.ReLU(),
            pool=nn.MaxPool2d(2),
            dropout=nn.Dropout(dropout),
            flatten=nn.Flatten(),
            dense1=nn.Linear(64 * ((height - 4) // 2) * ((width - 4) // 2), 128),
            relu3=nn.ReLU(),
            dense2=nn.Linear(128, classes),
        )
    )


def build_conv8(shape: tuple[int, ...], classes: int) -> nn.Module:
    """13,610 weights for 28x28 grey pixels."""
    channels, height, width = shape
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(channels, 8, 3),
            relu=nn.ReLU(),
            pool=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            dense=nn.Linear(8 * ((height - 2) // 2) * ((width - 2) // 2), classes),
        )
    )


def build_stack(channels: int, classes: int, plan: tuple[int | str, ...], dropout: float) -> nn.Module:
    """Convolutions of 3x3 with batch normalisation, pools where the plan says so, the mean over all places, dense."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, one in enumerate(plan, 1):
        if isinstance(one, str):
            layers[f"pool{number}"] = nn.MaxPool2d(2)
            continue
        layers[f"conv{number}"] = nn.Conv2d(channels, one, 3, padding=1, bias=False)
        layers[f"norm{number}"] = nn.BatchNorm2d(one)
        layers[f"relu{number}"] = nn.ReLU()
        channels = one
    layers["mean"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["dropout"] = nn.Dropout(dropout)
    layers["dense"] = nn.Linear(channels, classes)
    return nn.Sequential(layers)
