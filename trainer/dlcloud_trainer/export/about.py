"""What a model needs beside its weights to be used: a part of every checkpoint.

May import torch and data's splits.
"""

from __future__ import annotations

import hashlib
from collections import namedtuple
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..data.splits import Splits

PART = "about"
BLANKS = 16  # samples; enough for a layer that is made from the data


class About:
    """Classes, normalisation and the shape of a sample: those of this job's data, whatever a checkpoint
    says."""

    def __init__(self, uri: str, data: Splits[Any]) -> None:
        self._state = describe(uri, data)

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return self._state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to do: a job's data is read anew in every round."""


def describe(uri: str, data: Splits[Any]) -> dict[str, Any]:
    """All but the data itself, and the vocabulary: who has one keeps it as a part of its own."""
    return {
        "dataUri": uri,
        "classes": list(data.classes),
        "normalisation": [list(values) for values in data.normalisation],
        "samples": [len(part[0]) for part in (data.train, data.validation, data.test)],
        "fields": [
            {"name": name, "dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape[1:])}
            for name, tensor in zip(names_of(data.train), data.train, strict=True)
        ],
    }


def names_of(part: tuple[Tensor, ...]) -> tuple[str, ...]:
    """The names of a sample's tensors."""
    return getattr(part, "_fields", None) or tuple(f"field{index}" for index in range(len(part)))


def blank(state: Mapping[str, Any], vocabulary: Sequence[str]) -> Splits[Any]:
    """Data of the same kind with a few made-up samples: to build the model without reading the data."""
    generator = torch.Generator().manual_seed(0)
    # Its names come from a checkpoint: what is no name raises ValueError.
    kind = namedtuple("Blank", [one["name"] for one in state["fields"]])  # type: ignore[misc]
    part = kind(*(_made_up(one["dtype"], one["shape"], generator) for one in state["fields"]))
    mean, deviation = (tuple(map(float, values)) for values in state["normalisation"])
    return Splits(part, part, part, tuple(state["classes"]), (mean, deviation), tuple(vocabulary))


def _made_up(dtype: str, shape: list[int], generator: torch.Generator) -> Tensor:
    size = (BLANKS, *shape)
    if dtype == "uint8":
        return torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    found = getattr(torch, dtype)
    return torch.rand(size, generator=generator).to(found) if found.is_floating_point else torch.ones(size, dtype=found)


def data_hash(data: Splits[Any]) -> str:
    """SHA-256 over all samples of train, validation and test as they were read, with their types and shapes."""
    digest = hashlib.sha256()
    for part in (data.train, data.validation, data.test):
        for name, tensor in zip(names_of(part), part, strict=True):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(memoryview(tensor.detach().cpu().contiguous().view(torch.uint8).numpy()).cast("B"))
    return digest.hexdigest()
