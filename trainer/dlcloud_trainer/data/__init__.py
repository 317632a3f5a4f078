"""Data sets as tensors: from a URI to train, validation and test, the same on every rank.

May import torch, numpy and objects. What cannot be read is refused by name, before any training.
"""

from __future__ import annotations

from ..assignment import StoreAddress
from ..errors import InvalidInput
from ..objects import open_objects
from .digits import load_digits
from .mnist import load_mnist
from .splits import Images, Splits

__all__ = ["DIGITS_URI", "Images", "Splits", "load_digit_images"]

DIGITS_URI = "builtin://digits"


def load_digit_images(uri: str, store: StoreAddress) -> Splits[Images]:
    """28x28 grey images of the ten digits; raises `InvalidInput` or, when the store cannot be read, `StoreUnusable`."""
    if uri == DIGITS_URI:
        return load_digits()
    if not uri.startswith(("s3://", "file://")):
        raise InvalidInput(
            f"data.uri: {uri!r} is nothing this workload reads; give s3://bucket/prefix, file:///path or {DIGITS_URI}"
        )
    return load_mnist(
        open_objects(uri, endpoint=store.endpoint, region=store.region, ca_file=store.ca_file, what="data.uri")
    )
