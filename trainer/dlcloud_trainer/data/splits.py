"""A data set in three parts, and how one part is taken from another.

May import torch and numpy. A split never depends on the number of ranks: it is made before anything is sharded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..errors import InvalidInput

PartT = TypeVar("PartT", bound=tuple[Tensor, ...])
VALIDATION_FRACTION = 1 / 12  # 5,000 of MNIST's 60,000
SPLIT_SEED = 1998  # not a parameter: results of different jobs must be comparable
LAST = 0.1  # of the training data, where the validation part is its end
DIGITS = tuple("0123456789")
GREY = ((33.3,), (78.6,))  # mean and deviation of MNIST's training pixels
UNIT = ((0.0,), (255.0,))  # pixels from 0 to 1
Indices = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[Any]  # whole numbers
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]  # mean and deviation, each for all channels or one


class Images(NamedTuple):
    """Labelled images: `images` is uint8 (n, channels, height, width), `labels` is int64 (n,)."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Splits(Generic[PartT]):
    """Each part is a tuple of tensors with the same first dimension: the samples."""

    train: PartT
    validation: PartT
    test: PartT
    classes: tuple[str, ...] = ()  # names, by label
    normalisation: Normalisation = ((0.0,), (1.0,))  # none, where there is nothing to normalise
    vocabulary: tuple[str, ...] = ()  # of text: words, by token


def last_part(count: int, fraction: float) -> tuple[Indices, Indices]:
    """Indices of what stays and of what is taken: the last of `count` samples, unshuffled, as Keras does it."""
    taken = max(1, int(count * fraction))
    return np.arange(count - taken), np.arange(count - taken, count)


def split_off(labels: Labels, fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Indices of what stays and of what is taken, both ascending: `fraction` of every class, chosen by `seed` alone.

    round(n * fraction) samples are taken (at least one), by largest remainders over the classes.
    """
    random = np.random.RandomState(seed)  # its stream is frozen for ever; default_rng's is not
    members = [random.permutation(np.flatnonzero(labels == label)) for label in np.flatnonzero(np.bincount(labels))]
    wanted = [len(indices) * fraction for indices in members]
    counts = [int(count) for count in wanted]
    missing = max(1, round(len(labels) * fraction)) - sum(counts)
    by_remainder = sorted(range(len(members)), key=lambda i: (counts[i] - wanted[i], i))
    for i in by_remainder[:missing]:
        counts[i] += 1
    # no np.unique, no np.setdiff1d: they import numpy.ma, 0.1 s of a rank's start
    taken = np.zeros(len(labels), dtype=bool)
    for indices, count in zip(members, counts, strict=True):
        taken[indices[:count]] = True
    return np.flatnonzero(~taken), np.flatnonzero(taken)


def make_splits(
    train: Pixels,
    train_labels: Labels,
    test: Pixels,
    test_labels: Labels,
    *,
    classes: tuple[str, ...],
    validation: str,
    where: str,
    normalisation: Normalisation | None = None,
) -> Splits[Images]:
    """Images (n, channels, height, width) and their labels in three parts, `validation` chosen as in
    `TrainingParameters`; without a `normalisation`, that of the training part. `where` is named in `InvalidInput`."""
    if len(train_labels) < 2:
        raise InvalidInput(f"{where}: one image; at least 2 are needed, for training and validation")
    if validation == "last":
        stays, taken = last_part(len(train_labels), LAST)
    else:
        stays, taken = split_off(train_labels, VALIDATION_FRACTION, SPLIT_SEED)
    own = _part(train, train_labels, stays)
    return Splits(
        own,
        _part(train, train_labels, taken),
        _part(test, test_labels, np.arange(len(test_labels))),
        classes,
        normalisation or measure(own.images),
    )


def measure(images: Tensor) -> Normalisation:
    """Mean and deviation of every channel of uint8 images (n, channels, height, width), from sums of whole numbers:
    the same on every machine. A channel of one value only has deviation 1."""
    means, deviations = [], []
    for channel in range(images.shape[1]):
        counts = torch.bincount(images[:, channel].reshape(-1), minlength=256).tolist()
        number = sum(counts)
        total = sum(value * count for value, count in enumerate(counts))
        squares = sum(value * value * count for value, count in enumerate(counts))
        means.append(total / number)
        deviations.append(math.sqrt((number * squares - total * total) / number**2) or 1.0)
    return tuple(means), tuple(deviations)


def _part(images: Pixels, labels: Labels, indices: Indices) -> Images:
    # indexing by an array copies: torch owns what it may write to
    return Images(torch.from_numpy(images[indices]), torch.from_numpy(labels[indices].astype(np.int64)))
