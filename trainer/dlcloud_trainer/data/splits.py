"""A data set in three parts, and how one part is taken from another.

May import torch and numpy. A split never depends on the number of ranks: it is made before anything is sharded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

PartT = TypeVar("PartT", bound=tuple[Tensor, ...])
Indices = npt.NDArray[np.int64]


class Images(NamedTuple):
    """Labelled grey images: `images` is uint8 (n, height, width), `labels` is int64 (n,)."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Splits(Generic[PartT]):
    """Each part is a tuple of tensors with the same first dimension: the samples."""

    train: PartT
    validation: PartT
    test: PartT


def split_off(labels: npt.NDArray[np.uint8], fraction: float, seed: int) -> tuple[Indices, Indices]:
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
