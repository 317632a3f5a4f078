"""`cnn`: a convolutional network that reads handwritten digits. Parameters, model, loss and measures in one file.

May import torch, pydantic and the package's data and workload modules. Images are uint8 (n, 28, 28), labels int64 (n,).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from ..data import load_digit_images as load_data
from ..workload import Batch, TrainingParameters

__all__ = ["BEST_BY", "DATA", "DESCRIPTION", "Parameters", "load_data", "make_task"]

DESCRIPTION = "A convolutional network that reads handwritten digits."
DATA = ("builtin://digits", "s3://", "file://")
BEST_BY = "accuracy"

MEAN, DEVIATION = 33.3, 78.6  # of MNIST's training pixels
MAX_TURN = math.radians(12)
MAX_ZOOM = 0.1
MAX_SHEAR = 0.15
MAX_SHIFT = 2 / 14  # two pixels, in units of half the image


class Parameters(TrainingParameters):
    """Settings of `cnn`. The defaults reach 98 % on builtin://digits and 99 % on MNIST."""

    architecture: Literal["conv32-64", "conv8"] = Field(
        "conv32-64",
        description="conv32-64: two convolutions, pool, dropout 0.5, dense 128; conv8: one convolution, pool, dense.",
    )
    learning_rate: float = Field(0.002, gt=0, le=10, description="Highest learning rate of Adam.")
    weight_decay: float = Field(0.0, ge=0, le=1, description="Decoupled weight decay (AdamW).")
    augment: bool = Field(True, description="Turn, scale, shear and shift training images a little at random.")


class Cnn:
    """The task: see `Task` of the workload module."""

    def __init__(self, parameters: Parameters, device: torch.device) -> None:
        self._augment = parameters.augment
        self.model: nn.Module = BUILDERS[parameters.architecture]().to(device)
        # Fused: one kernel instead of a dozen small ones per tensor; 2 % of a step on a CPU.
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=parameters.learning_rate, weight_decay=parameters.weight_decay, fused=True
        )

    def prepare(self, batch: Batch) -> Batch:
        """Images as the model wants them: float32 (n, 1, 28, 28), augmented when the job asks for it."""
        images, labels = batch
        pixels = images.unsqueeze(1).float()
        return normalize(distort(pixels) if self._augment else pixels), labels

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Cross-entropy, summed over the prepared samples."""
        inputs, labels = batch
        return functional.cross_entropy(model(inputs), labels, reduction="sum")

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Sums of cross-entropy and of right answers over samples as loaded."""
        images, labels = batch
        scores = self.model(normalize(images.unsqueeze(1).float()))
        return {
            "loss": functional.cross_entropy(scores, labels, reduction="sum"),
            "accuracy": (scores.argmax(1) == labels).sum(),
        }


def make_task(parameters: Parameters, device: torch.device) -> Cnn:
    """Model and optimiser with fresh weights."""
    return Cnn(parameters, device)


def build_conv32_64() -> nn.Module:
    """1.2 million parameters: (n, 1, 28, 28) -> (n, 10)."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 32, 3),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(32, 64, 3),
            relu2=nn.ReLU(),
            pool=nn.MaxPool2d(2),
            dropout=nn.Dropout(0.5),
            flatten=nn.Flatten(),
            dense1=nn.Linear(64 * 12 * 12, 128),
            relu3=nn.ReLU(),
            dense2=nn.Linear(128, 10),
        )
    )


def build_conv8() -> nn.Module:
    """13,610 parameters: (n, 1, 28, 28) -> (n, 10)."""
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(1, 8, 3),
            relu=nn.ReLU(),
            pool=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            dense=nn.Linear(8 * 13 * 13, 10),
        )
    )


BUILDERS = {"conv32-64": build_conv32_64, "conv8": build_conv8}


def normalize(pixels: Tensor) -> Tensor:
    """Pixels of 0 to 255 to mean 0 and deviation 1, about."""
    return (pixels - MEAN) / DEVIATION


def distort(pixels: Tensor) -> Tensor:
    """Each image (n, 1, h, w) turned, scaled, sheared and shifted a little, drawn from the default generator."""
    turn, zoom, shear, right, down = (torch.rand(5, len(pixels), device=pixels.device) * 2 - 1).unbind()
    scale = 1 + zoom * MAX_ZOOM
    cosine, sine = torch.cos(turn * MAX_TURN) * scale, torch.sin(turn * MAX_TURN) * scale
    rows = (cosine, shear * MAX_SHEAR - sine, right * MAX_SHIFT, sine, cosine, down * MAX_SHIFT)
    grid = functional.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(pixels.shape), align_corners=False)
    return functional.grid_sample(pixels, grid, align_corners=False)
