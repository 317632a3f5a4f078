"""MNIST, or any data set in its four files, from `s3://` or `file://`.

May import torch, numpy and objects. The validation part is taken from the training files by a fixed seed.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from ..errors import InvalidInput
from ..objects import ObjectMissing, Objects
from .idx import read_images, read_labels
from .splits import Images, Splits, split_off

VALIDATION_FRACTION = 1 / 12  # 5,000 of MNIST's 60,000
SPLIT_SEED = 1998  # not a parameter: results of different jobs must be comparable
STEMS = ("train-images{}idx3-ubyte", "train-labels{}idx1-ubyte", "t10k-images{}idx3-ubyte", "t10k-labels{}idx1-ubyte")


def names_of(stem: str) -> tuple[str, ...]:
    """The names a file may have, as the mirrors of MNIST call it."""
    return tuple(stem.format(separator) + end for end in ("", ".gz") for separator in ("-", "."))


def load_mnist(objects: Objects) -> Splits[Images]:
    """The four files below a store's prefix; raises `InvalidInput` naming the file, or the store's error."""
    with ThreadPoolExecutor(len(STEMS), thread_name_prefix="data") as pool:
        found = list(pool.map(partial(_find, objects), STEMS))
    train_images, train_labels = _pair(found[0], found[1])
    test_images, test_labels = _pair(found[2], found[3])
    if len(train_labels) < 2:
        raise InvalidInput(f"{found[0][0]}: one image; at least 2 are needed, for training and validation")
    train, validation = split_off(train_labels, VALIDATION_FRACTION, SPLIT_SEED)
    return Splits(
        _part(train_images[train], train_labels[train]),
        _part(train_images[validation], train_labels[validation]),
        _part(test_images, test_labels),
    )


def _find(objects: Objects, stem: str) -> tuple[str, bytes]:
    for name in names_of(stem):
        try:
            return objects.uri(name), objects.get(name)
        except ObjectMissing:
            continue
    names = ", ".join(names_of(stem))
    raise InvalidInput(f"data.uri: none of {names} is in {objects.uri()}; put the four MNIST files there")


def _pair(images: tuple[str, bytes], labels: tuple[str, bytes]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    pixels, classes = read_images(images[1], images[0]), read_labels(labels[1], labels[0])
    if len(pixels) != len(classes):
        raise InvalidInput(
            f"{labels[0]}: {len(classes)} labels for the {len(pixels)} images of {images[0]}; they are no pair"
        )
    return pixels, classes


def _part(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]) -> Images:
    # A copy where the array is a read-only view of the file's bytes: torch wants to own what it may write to.
    own = np.require(images, requirements=["C", "W", "O"])
    return Images(torch.from_numpy(own), torch.from_numpy(labels.astype(np.int64)))
