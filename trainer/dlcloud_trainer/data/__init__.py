"""Data sets as tensors: from a URI to train, validation and test, the same on every rank.

May import torch, numpy and objects. What cannot be read is refused by name, before any training.
"""

from __future__ import annotations

from dataclasses import replace

from ..assignment import StoreAddress
from ..parameters import TrainingParameters
from .digits import load_digits
from .files import open_files
from .images import load_images
from .splits import UNIT, Images, Splits

__all__ = ["DIGITS_URI", "Images", "Splits", "load_colour_images", "load_grey_images"]

DIGITS_URI = "builtin://digits"


def load_grey_images(uri: str, store: StoreAddress, parameters: TrainingParameters) -> Splits[Images]:
    """Grey images (n, 1, height, width): the package's digits, MNIST's files, Parquet or folders; raises
    `InvalidInput` or, when the store cannot be read, `StoreUnusable`."""
    if uri == DIGITS_URI:
        return _scaled(load_digits(), parameters)
    return _scaled(load_images(open_files(uri, store, DIGITS_URI), 1, parameters.validation), parameters)


def load_colour_images(uri: str, store: StoreAddress, parameters: TrainingParameters) -> Splits[Images]:
    """Colour images (n, 3, height, width): CIFAR-10, Parquet or folders; raises `InvalidInput` or, when the store
    cannot be read, `StoreUnusable`."""
    return _scaled(load_images(open_files(uri, store), 3, parameters.validation), parameters)


def _scaled(data: Splits[Images], parameters: TrainingParameters) -> Splits[Images]:
    """With faithful pixels go from 0 to 1, as in Keras' examples, else they are normalised by the data."""
    return replace(data, normalisation=UNIT) if parameters.preset == "faithful" else data
