"""MNIST, or any data set in its four files, from `s3://` or `file://`.

May import numpy and the modules for files and splits. Every such set is normalised by MNIST's own mean and deviation.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..errors import InvalidInput
from .files import Files
from .idx import read_images, read_labels
from .splits import DIGITS, GREY, Images, Splits, make_splits

STEMS = ("train-images{}idx3-ubyte", "train-labels{}idx1-ubyte", "t10k-images{}idx3-ubyte", "t10k-labels{}idx1-ubyte")


def names_of(stem: str) -> tuple[str, ...]:
    """The names a file may have, as the mirrors of MNIST call it."""
    return tuple(stem.format(separator) + end for end in ("", ".gz") for separator in ("-", "."))


def is_mnist(files: Files) -> bool:
    """Whether one of the four files lies there."""
    return any(name in files.names for stem in STEMS for name in names_of(stem))


def load_mnist(files: Files, validation: str) -> Splits[Images]:
    """The three parts; `validation` as in `TrainingParameters`. Raises `InvalidInput` naming the file, or the store's
    error."""
    names = [_find(files, stem) for stem in STEMS]
    contents = files.read_all({name: name for name in names})
    found = [(files.uri(name), contents[name]) for name in names]
    train_images, train_labels = _pair(found[0], found[1])
    test_images, test_labels = _pair(found[2], found[3])
    return make_splits(
        train_images[:, None],
        train_labels,
        test_images[:, None],
        test_labels,
        classes=DIGITS,
        validation=validation,
        where=found[0][0],
        normalisation=GREY,
    )


def _find(files: Files, stem: str) -> str:
    for name in names_of(stem):
        if name in files.names:
            return name
    names = ", ".join(names_of(stem))
    raise InvalidInput(f"data.uri: none of {names} is in {files.uri()}; put the four MNIST files there")


def _pair(images: tuple[str, bytes], labels: tuple[str, bytes]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    pixels, classes = read_images(images[1], images[0]), read_labels(labels[1], labels[0])
    if len(pixels) != len(classes):
        raise InvalidInput(
            f"{labels[0]}: {len(classes)} labels for the {len(pixels)} images of {images[0]}; they are no pair"
        )
    return pixels, classes
