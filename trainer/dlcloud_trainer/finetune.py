"""Fine-tuning: a new training begins with the weights of another job's checkpoint.

May import checkpoint, objects and supervised's patterns. Rank 0 reads, the others get the weights from it;
a job that has a checkpoint of its own never comes here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .assignment import StoreAddress
from .checkpoint.restore import Reading
from .checkpoint.resume import foreign_lineage
from .checkpoint.settings import in_memory
from .errors import InvalidInput
from .objects import Objects, open_objects
from .parameters import TrainingParameters
from .supervised import matching

WHAT = "parameters.from"


def begin_from(
    parameters: TrainingParameters,
    models: Mapping[str, nn.Module],
    store: StoreAddress,
    warn: Callable[[str], None],
) -> None:
    """Fill rank 0's models with the weights that `from` leads to, but for `newHead`'s. Raises `InvalidInput` for
    weights that do not fit, and what reading a checkpoint raises."""
    saved = read_weights(parameters.start_from, store, warn)
    for name, model in models.items():
        fill(model, weights_of(name, saved), parameters.new_head)


def read_weights(uri: str, store: StoreAddress, warn: Callable[[str], None]) -> dict[str, Tensor]:
    """All tensors of the newest sound checkpoint at a job's prefix, or of one manifest, by their names in it."""
    return _read(uri, store, warn).into(in_memory).tensors


def read_state(uri: str, store: StoreAddress, part: str) -> Any:
    """What a part of that checkpoint holds beside tensors, as JSON, without reading these; raises `InvalidInput` where
    there is no such part."""
    state = _read(uri, store, lambda text: None).manifest.state  # who reads the weights warns of damage
    if part not in state:
        raise InvalidInput(f"{WHAT}: the checkpoint has no {part}; begin from one of the same workload and kind")
    return state[part]


def _read(uri: str, store: StoreAddress, warn: Callable[[str], None]) -> Reading:
    def open_store(where: str, what: str) -> Objects:
        return open_objects(where, endpoint=store.endpoint, region=store.region, ca_file=store.ca_file, what=what)

    return Reading(foreign_lineage(uri, open_store, WHAT), warn)


def weights_of(model: str, saved: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A model's weights among a checkpoint's tensors: of one that has an average, the average's (`average` is that of
    `model`, `NAME-average` that of any other)."""
    own = "model" if model == "average" else model.removesuffix("-average")
    for part in ("average" if own == "model" else f"{own}-average", own):
        if found := {key.removeprefix(f"{part}."): saved[key] for key in saved if key.startswith(f"{part}.")}:
            return found
    return {}


def fill(model: nn.Module, saved: Mapping[str, Tensor], new_head: str) -> None:
    """Copy the saved weights into the model, but for those that the patterns of `new_head` name. Raises `InvalidInput`
    before any was changed."""
    own: dict[str, Tensor] = model.state_dict()
    fresh = set(matching(own, new_head, "newHead"))
    wanted = [key for key in own if key not in fresh]
    for key in wanted:
        if key not in saved or saved[key].shape != own[key].shape:
            there = f"one of {list(saved[key].shape)}" if key in saved else "none"
            raise InvalidInput(
                f"{WHAT}: the model's {key} is {list(own[key].shape)}, the checkpoint has {there}; "
                "name it in newHead, or begin from a checkpoint of the same model"
            )
    with torch.no_grad():
        for key in wanted:
            own[key].copy_(saved[key])
