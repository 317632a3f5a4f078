"""`cifar`: convolutional networks that tell small colour images apart, such as CIFAR-10's.

May import torch, pydantic and the package's modules for data and tasks. Images are uint8 (n, 3, height, width), labels
int64 (n,). `whitened` follows the ideas of Keller Jordan's "94% on CIFAR-10 in 3.29 seconds on a single GPU"
(https://arxiv.org/abs/2404.00498): a first layer made from the data, label smoothing, Nesterov SGD, mirror images in
turn.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from ..augmentation import alternating, flip, shift
from ..classification import Classifier, ClassifierParameters
from ..data import Images, Splits
from ..data import load_colour_images as load_data
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

DESCRIPTION = "A convolutional network that tells small colour images apart, such as CIFAR-10's."
DATA = ("s3://", "file://")
BEST_BY = "accuracy"
LOWER_IS_BETTER = False
PRESETS: dict[str, dict[str, Any]] = {
    "faithful": {
        "architecture": "conv32-64-64",
        "augment": False,
        "batchSize": 32,
        "epochs": 10,
        "epsilon": 1e-7,
        "labelSmoothing": 0.0,
        "learningRate": 0.001,
        "optimizer": "adam",
        "schedule": "constant",
        "validation": "last",
        "weightDecay": 0.0,
    },
    "best": {"epochs": 30, "tta": True},
}
REFUSED: dict[str, str] = {}

WHITENED_FROM, WHITENED_AT_ONCE = 5000, 500  # training images; all patches at once would take a GiB
PATCH = 2  # pixels, width and height of the whitened patches
FLOOR = 5e-4  # added to the patches' variances: what is only noise is not blown up
WIDTHS = (64, 256, 256)
SCALE = 1 / 9  # of the scores
MOVED_BY = 2  # pixels, at most


class Parameters(ClassifierParameters):
    """Settings of `cifar`; the defaults are those of its fast network."""

    architecture: Literal["whitened", "conv32-64-64"] = Field(
        "whitened",
        description="whitened: six convolutions after a first layer made from the data; conv32-64-64: the usual first "
        "network, three convolutions and dense 64.",
    )
    epochs: int = Field(10, ge=1, le=100_000, description="Passes over the training data.")
    batch_size: int = Field(512, ge=1, le=65_536, description="Samples of one optimiser step, over all ranks together.")
    learning_rate: float = Field(0.1, gt=0, le=10, description="Highest learning rate.")
    optimizer: Literal["adamw", "adam", "rmsprop", "sgd"] = Field(
        "sgd", description="adamw: weight decay beside the gradient; sgd: with Nesterov momentum (`momentum`)."
    )
    momentum: float = Field(0.85, ge=0, lt=1, description="Of sgd: Nesterov momentum, 0 for none.")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "linear", description="cosine, linear: rises over `warmUp` of the training, then falls to 0; constant: stays."
    )
    weight_decay: float = Field(0.0005, ge=0, le=1, description="Weight decay; adamw's is decoupled from the gradient.")
    label_smoothing: float = Field(
        0.2, ge=0, lt=1, description="Part of each label that is spread over all classes, in training."
    )
    augment: bool = Field(
        True, description="Move training images by up to 2 pixels at random, and mirror every other one in turn."
    )
    tta: bool = Field(
        False, description="Measure the mean over six views: the image, its mirror image, and both moved by a pixel."
    )


class Cifar(Classifier):
    """The task: see `Task` of the workload module."""

    def __init__(self, parameters: Parameters, data: Splits[Images], device: torch.device) -> None:
        images = data.train.images
        self._augment, self._tta = parameters.augment, parameters.tta
        shape, classes = tuple(images.shape[1:]), len(data.classes)
        if parameters.architecture == "whitened":
            model = build_whitened(shape, classes)
            mean, deviation = (torch.tensor(values).view(-1, 1, 1) for values in data.normalisation)
            whiten(model, (images[:WHITENED_FROM].float() - mean) / deviation)
        else:
            model = build_conv32_64_64(shape, classes)
            if parameters.preset == "faithful":
                begin_as_keras(model)
        super().__init__(model, parameters, data, device)

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """Float images, normalised channel by channel."""
        return (self._laid_out(self.normalize(batch[0])),)

    def prepare(self, part: Part) -> Part:
        """The same, augmented when the job asks for it."""
        images, labels = part.batch
        pixels = self.normalize(images)
        if self._augment:
            pixels = shift(flip(pixels, alternating(part.indices, part.epoch)), MOVED_BY)
        return part.replaced(self._laid_out(pixels), labels)

    def scores(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """With `tta` the mean over six views, in which the image and its mirror image have half of the weight."""
        if not self._tta:
            return super().scores(inputs)
        both = (inputs[0], inputs[0].flip(-1))
        plain = torch.stack([super(Cifar, self).scores((view,)) for view in both])
        moved = torch.stack([super(Cifar, self).scores((corner(view, at),)) for view in both for at in (0, 2)])
        return (plain.mean(0) + moved.mean(0)) / 2

    def _laid_out(self, pixels: Tensor) -> Tensor:
        """Channels last on a GPU, whose convolutions are faster that way."""
        return pixels.contiguous(memory_format=torch.channels_last) if pixels.is_cuda else pixels


def make_task(parameters: Parameters, data: Splits[Images], device: torch.device) -> Cifar:
    """Model and optimiser with fresh weights."""
    return Cifar(parameters, data, device)


def corner(images: Tensor, start: int) -> Tensor:
    """Images moved by a pixel along the diagonal: the crop that begins at `start` (0 to 2) of the padded image."""
    height, width = images.shape[-2:]
    return functional.pad(images, (1,) * 4, "reflect")[..., start : start + height, start : start + width]


def build_conv32_64_64(shape: tuple[int, ...], classes: int) -> nn.Module:
    """The usual first network for CIFAR-10 (https://www.tensorflow.org/tutorials/images/cnn): 122,570 weights."""
    channels, height, width = shape
    rows, columns = (((side - 2) // 2 - 2) // 2 - 2 for side in (height, width))
    if min(rows, columns) < 1:
        raise InvalidInput(f"data.uri: images of {height}x{width} pixels; conv32-64-64 needs 18x18 and more")
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, 32, 3),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(32, 64, 3),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            conv3=nn.Conv2d(64, 64, 3),
            relu3=nn.ReLU(),
            flatten=nn.Flatten(),
            dense1=nn.Linear(64 * rows * columns, 64),
            relu4=nn.ReLU(),
            dense2=nn.Linear(64, classes),
        )
    )


class Scaled(nn.Module):
    """Scores times a constant."""

    def forward(self, scores: Tensor) -> Tensor:
        """(n, classes) -> the same."""
        return scores * SCALE


def build_whitened(shape: tuple[int, ...], classes: int) -> nn.Module:
    """A layer for `whiten` to fill, then three blocks of pool and two convolutions, the maximum over all places."""
    channels, height, width = shape
    if min(height, width) < 16:
        raise InvalidInput(f"data.uri: images of {height}x{width} pixels; whitened needs 16x16 and more")
    before = 2 * channels * PATCH**2
    layers: OrderedDict[str, nn.Module] = OrderedDict(whiten=nn.Conv2d(channels, before, PATCH), gelu0=nn.GELU())
    for number, width_of in enumerate(WIDTHS, 1):
        layers[f"conv{number}a"] = nn.Conv2d(before, width_of, 3, padding=1, bias=False)
        layers[f"pool{number}"] = nn.MaxPool2d(2)
        layers[f"norm{number}a"] = nn.BatchNorm2d(width_of)
        layers[f"gelu{number}a"] = nn.GELU()
        layers[f"conv{number}b"] = nn.Conv2d(width_of, width_of, 3, padding=1, bias=False)
        layers[f"norm{number}b"] = nn.BatchNorm2d(width_of)
        layers[f"gelu{number}b"] = nn.GELU()
        before = width_of
    layers |= OrderedDict(
        largest=nn.AdaptiveMaxPool2d(1),
        flatten=nn.Flatten(),
        dense=nn.Linear(before, classes, bias=False),
        scale=Scaled(),
    )
    model = nn.Sequential(layers)
    for name, module in model.named_modules():
        # The first channels pass on what they get: the gradient reaches the first block from the start.
        if name.startswith("conv") and isinstance(module, nn.Conv2d):
            nn.init.dirac_(module.weight[: module.in_channels].data)
    return model


@torch.no_grad()
def whiten(model: nn.Module, images: Tensor) -> None:
    """Fill the model's first layer with the eigenvectors of the images' patches, each divided by its deviation, and
    with their negatives; it is not trained. `images` are normalised, float (n, channels, height, width)."""
    layer = model.get_submodule("whiten")
    assert isinstance(layer, nn.Conv2d)
    size = images.shape[1] * PATCH**2
    sums, count = torch.zeros(size, size, dtype=torch.float64), 0
    for start in range(0, len(images), WHITENED_AT_ONCE):
        places = (
            images[start : start + WHITENED_AT_ONCE].unfold(2, PATCH, 1).unfold(3, PATCH, 1).permute(0, 2, 3, 1, 4, 5)
        )
        patches = places.flatten(3).flatten(0, 2).double()
        sums += patches.T @ patches
        count += len(patches)
    covariance = sums / count
    variances, vectors = torch.linalg.eigh(covariance)
    filters = (vectors / (variances + FLOOR).sqrt()).T.view(-1, *layer.weight.shape[1:]).float()
    layer.weight.copy_(torch.cat([filters, -filters]))
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    layer.weight.requires_grad_(False)
