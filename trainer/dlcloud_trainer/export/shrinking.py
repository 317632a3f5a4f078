"""A pruned row of layers without its empty channels: smaller matrices, the same answers.

May import torch, layers and pruning's values. Works on a copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from .layers import Pair, plain


@torch.no_grad()
def shrink(model: nn.Module, pairs: Sequence[Pair], kept: Mapping[str, Tensor]) -> nn.Module:
    """A copy of the model on the CPU in which each pair's layer has only the channels `kept` (indices, by layer)."""
    small = deepcopy(model).cpu()
    for pair in pairs:
        keep = kept[pair.layer].cpu()
        layer = small.get_submodule(pair.layer)
        channels = outputs_of(layer)
        _replace(small, pair.layer, _with_outputs(layer, keep))
        if pair.norm is not None:
            _replace(small, pair.norm, _norm(small.get_submodule(pair.norm), keep))
        after = small.get_submodule(pair.after)
        _replace(small, pair.after, _with_inputs(after, keep, channels))
    return small


def outputs_of(layer: nn.Module) -> int:
    """Channels that a layer gives."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    return weight.shape[0]


def _with_outputs(layer: nn.Module, keep: Tensor) -> nn.Module:
    assert plain(layer)
    return _made(layer, layer.weight[keep], None if layer.bias is None else layer.bias[keep])  # type: ignore[index]


def _with_inputs(layer: nn.Module, keep: Tensor, channels: int) -> nn.Module:
    """`channels` of the layer before became `keep`; a dense layer may see each of them at several places, flattened."""
    assert plain(layer)
    weight: Tensor = layer.weight  # type: ignore[assignment]
    places = weight.shape[1] // channels
    columns = (keep.unsqueeze(1) * places + torch.arange(places)).flatten()
    return _made(layer, weight[:, columns], layer.bias)  # type: ignore[arg-type]


def _made(like: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """A layer of the same kind with these weights."""
    if isinstance(like, nn.Linear):
        made: nn.Module = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    else:
        assert isinstance(like, nn.Conv2d)
        made = nn.Conv2d(
            weight.shape[1],
            weight.shape[0],
            like.kernel_size,  # type: ignore[arg-type]
            stride=like.stride,  # type: ignore[arg-type]
            padding=like.padding,  # type: ignore[arg-type]
            dilation=like.dilation,  # type: ignore[arg-type]
            bias=bias is not None,
            padding_mode=like.padding_mode,
        )
    made.weight.copy_(weight)  # type: ignore[operator]
    if bias is not None:
        made.bias.copy_(bias)  # type: ignore[operator]
    return made.train(like.training)


def _norm(like: nn.Module, keep: Tensor) -> nn.Module:
    assert isinstance(like, nn.BatchNorm1d | nn.BatchNorm2d)
    made = type(like)(len(keep), eps=like.eps, momentum=like.momentum)
    saved = {name: value if value.dim() == 0 else value[keep] for name, value in like.state_dict().items()}
    made.load_state_dict(saved)
    return made.train(like.training)


def _replace(model: nn.Module, name: str, by: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, by)
