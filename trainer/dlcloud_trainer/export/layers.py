"""A model as one row of layers, and which of their channels can be removed.

May import torch. Only modules that give 0 for 0, channel by channel, may stand between two layers that are made
smaller: then a channel of zeros can go without changing anything.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

Layer = nn.Conv2d | nn.Linear
SILENT = (
    nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.ELU, nn.Dropout, nn.Dropout2d, nn.Identity, nn.MaxPool2d,
    nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d,
)  # fmt: skip
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@dataclass(frozen=True)
class Pair:
    """A layer whose channels may go, the normalisation between (if any), and the layer that takes its channels. Names
    as in `named_modules`."""

    layer: str
    norm: str | None
    after: str


def row_of(model: nn.Module) -> dict[str, nn.Module] | None:
    """The modules of a sequence, sequences in it unfolded, by name; None for a model that is no sequence."""
    if not isinstance(model, nn.Sequential):
        return None
    row: dict[str, nn.Module] = {}
    for name, module in model.named_children():
        inner = row_of(module)
        row |= {name: module} if inner is None else {f"{name}.{below}": one for below, one in inner.items()}
    return row


def pairs_of(model: nn.Module) -> list[Pair]:
    """What can be made smaller, from the first layer to the last; empty where nothing can."""
    pairs: list[Pair] = []
    layer: str | None = None
    norm: str | None = None
    for name, module in (row_of(model) or {}).items():
        if plain(module):
            if layer is not None:
                pairs.append(Pair(layer, norm, name))
            layer, norm = (name if module.weight.requires_grad else None), None
        elif isinstance(module, NORMS) and module.affine and norm is None:
            norm = name
        elif isinstance(module, nn.Flatten):
            layer = layer if module.start_dim == 1 and module.end_dim == -1 else None
        elif not isinstance(module, SILENT):
            layer = None
    return pairs


def plain(module: nn.Module) -> bool:
    """A dense layer, or a convolution all of whose channels meet."""
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
