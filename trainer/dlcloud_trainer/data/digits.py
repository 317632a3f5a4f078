"""`builtin://digits`: 1,797 handwritten digits that come with the package; source and licence in digits.txt beside
them.

May import torch and numpy. Reads one file of the package, never the network.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from .splits import DIGITS, GREY, Images, Splits, split_off

FILE = Path(__file__).with_name("digits.npz")
SIZE = 28
TEST_FRACTION = 0.2
VALIDATION_FRACTION = 0.1
SPLIT_SEED = 1998  # not a parameter: results of different jobs must be comparable
MAX_VALUE = 16


@cache
def load_digits() -> Splits[Images]:
    """The digits as 28x28 images, stratified into train (1,258), validation (180) and test (359)."""
    with np.load(FILE) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    images = enlarge(images)
    rest, test = split_off(labels, TEST_FRACTION, SPLIT_SEED)
    share = VALIDATION_FRACTION * len(labels) / len(rest)
    train, validation = (rest[part] for part in split_off(labels[rest], share, SPLIT_SEED))

    def part(indices: npt.NDArray[np.int64]) -> Images:
        pixels = torch.from_numpy(images[indices]).unsqueeze(1)
        return Images(pixels, torch.from_numpy(labels[indices].astype(np.int64)))

    return Splits(part(train), part(validation), part(test), DIGITS, GREY)


def enlarge(images: npt.NDArray[np.uint8], size: int = SIZE) -> npt.NDArray[np.uint8]:
    """Square images (n, s, s) of values 0 to 16, enlarged bilinearly to (n, size, size) of values 0 to 255.

    Products and sums element by element, no matrix product: the same bytes on every processor.
    """
    side = images.shape[1]
    position = np.clip((np.arange(size) + 0.5) * (side / size) - 0.5, 0, side - 1).astype(np.float32)
    low = np.minimum(position.astype(np.int64), side - 2)
    weight = position - low.astype(np.float32)
    scaled = images.astype(np.float32) * np.float32(255 / MAX_VALUE)
    rows = scaled[:, low] * (1 - weight)[:, None] + scaled[:, low + 1] * weight[:, None]
    pixels = rows[:, :, low] * (1 - weight) + rows[:, :, low + 1] * weight
    return np.asarray(np.rint(pixels), np.uint8)
