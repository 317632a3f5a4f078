"""Images without labels, for models that draw: each with its place, so that a measure can give it noise of its own.

May import torch and the package's data modules.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..assignment import StoreAddress
from ..parameters import TrainingParameters
from . import load_grey_images
from .splits import Images, Splits

SEED = 7  # not a parameter: figures of different trainings must be comparable


class Placed(NamedTuple):
    """Images, uint8 (n, channels, height, width), and the place of each in its part of the data, int64 (n,)."""

    images: Tensor
    places: Tensor


def load_unlabelled(uri: str, store: StoreAddress, parameters: TrainingParameters) -> Splits[Placed]:
    """Grey images without their labels; raises what `load_grey_images` raises."""
    data = load_grey_images(uri, store, parameters)
    return Splits(placed(data.train), placed(data.validation), placed(data.test), normalisation=data.normalisation)


def placed(part: Images) -> Placed:
    """The images of a part of the data, with their places in it."""
    return Placed(part.images, torch.arange(len(part.images)))


def noise_of_places(data: Splits[Placed], size: int, at_least: int = 0) -> Tensor:
    """Normal noise (places, size), the same in every training: what is measured with it does not depend on the number
    of ranks, as it would if each rank drew its own."""
    most = max(at_least, len(data.validation.images), len(data.test.images))
    return torch.randn(most, size, generator=torch.Generator().manual_seed(SEED))
