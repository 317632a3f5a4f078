"""Class names and labels of data sets that bring their own: from names or numbers to labels 0 to n - 1.

May import numpy and the standard library.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import InvalidInput
from .splits import Labels

MAX_CLASSES = 1000


def class_names(found: set[str], where: str) -> tuple[str, ...]:
    """The classes in their order: by number where all are numbers, else by name; raises `InvalidInput` when that is
    none to tell apart."""
    if not 2 <= len(found) <= MAX_CLASSES:
        raise InvalidInput(f"{where}: {len(found)} classes in its training part; 2 to {MAX_CLASSES} are allowed")
    if all(name.isascii() and name.isdigit() for name in found):
        return tuple(sorted(found, key=lambda name: (int(name), name)))
    return tuple(sorted(found))


def to_labels(names: Sequence[str], classes: Sequence[str], where: str) -> Labels:
    """Labels (n,), int64; raises `InvalidInput` for a class that is not among them."""
    numbers = {name: label for label, name in enumerate(classes)}
    unknown = sorted(set(names) - set(numbers))
    if unknown:
        raise InvalidInput(f"{where}: class {unknown[0]!r} is in no training image; a test tells only trained classes")
    return np.array([numbers[name] for name in names], np.int64)
