"""Weights that are set to 0 after the last epoch and stay 0 while the rest is fine-tuned.

May import torch, layers and checkpoint's protocol. The masks are a part of the checkpoint, all ones until then: shapes
never change during a training, so that ranks, restarts and averages need to know nothing of it. Whole channels are
taken out when the model is handed over; see shrinking.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from ..assignment import PrunePlan
from ..errors import InvalidInput
from .layers import Pair, pairs_of
from .shrinking import shrink

PART = "pruning"

MATRICES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.LSTM, nn.GRU)


class Pruning:
    """Masks over some of the model's weights; `copies` (averages) are held to the same masks."""

    def __init__(self, plan: PrunePlan, model: nn.Module, copies: tuple[nn.Module, ...] = ()) -> None:
        self.plan, self._model, self._copies = plan, model, copies
        self._pairs = pairs_of(model) if plan.structured else []
        if plan.structured and not self._pairs:
            raise InvalidInput(
                "export.prune.structured: channels can be removed from a row of layers (cnn, mlp), and this model is "
                "none; give structured: false"
            )
        own = dict(model.named_parameters())
        self.masks = {name: torch.ones(own[name].shape, dtype=torch.uint8) for name in self._names()}
        self.done = False
        self._placed: list[tuple[Tensor, Tensor]] | None = None

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        plan = {"fraction": self.plan.fraction, "structured": self.plan.structured, "epochs": self.plan.epochs}
        return {"done": self.done, "plan": plan, "masks": dict(self.masks)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """From the checkpoint; raises KeyError."""
        self.done = state["done"]
        for name, mask in self.masks.items():
            mask.copy_(state["masks"][name])
        self._placed = None

    def apply(self) -> None:
        """Choose what goes, by the weights as they are now, and set it to 0; once in a training."""
        if not self.done:
            judged = self._copies[0] if self._copies else self._model
            chosen = self._channels(judged) if self.plan.structured else self._smallest(judged)
            for name, mask in chosen.items():
                self.masks[name].copy_(mask)
            self.done, self._placed = True, None
        self.hold()

    @torch.no_grad()
    def hold(self) -> None:
        """Set what was removed to 0 again, after an optimiser's step."""
        if not self.done:
            return
        if self._placed is None:
            self._placed = [
                (weight, self.masks[name].to(weight.device, weight.dtype))
                for model in (self._model, *self._copies)
                for name, weight in model.named_parameters()
                if name in self.masks
            ]
        torch._foreach_mul_([weight for weight, _ in self._placed], [mask for _, mask in self._placed])

    def _names(self) -> list[str]:
        own = dict(self._model.named_parameters())
        if self.plan.structured:
            return [name for pair in self._pairs for name in channel_weights(pair) if name in own]
        return [
            f"{prefix}.{name}" if prefix else name
            for prefix, module in self._model.named_modules()
            if isinstance(module, MATRICES)
            for name, weight in module.named_parameters(recurse=False)
            if weight.dim() > 1 and weight.requires_grad
        ]

    def _smallest(self, model: nn.Module) -> dict[str, Tensor]:
        """Of all weight matrices together, all but the smallest values; a layer keeps one at least. By layer it would
        cost several times the accuracy: first layers have few weights, and need most of them."""
        own = dict(model.named_parameters())
        sizes = {name: own[name].detach().abs().float().cpu() for name in self.masks}
        every = torch.cat([size.flatten() for size in sizes.values()])
        removed = int(self.plan.fraction * len(every))
        limit = every.kthvalue(removed).values if removed else torch.tensor(-1.0)
        return {
            name: ((size > limit) | ((size == size.max()) & (size.max() <= limit))).to(torch.uint8)
            for name, size in sizes.items()
        }

    def _channels(self, model: nn.Module) -> dict[str, Tensor]:
        """Of each layer, all but the channels with the smallest norm, times their normalisation's scale; one stays."""
        own = dict(model.named_parameters())
        chosen = {}
        for pair in self._pairs:
            strength = own[f"{pair.layer}.weight"].detach().flatten(1).norm(dim=1).cpu()
            if pair.norm is not None:
                strength = strength * own[f"{pair.norm}.weight"].detach().abs().cpu()
            count = min(int(self.plan.fraction * len(strength)), len(strength) - 1)
            removed = strength.argsort(stable=True)[:count]
            for name in channel_weights(pair):
                if name in own:
                    chosen[name] = torch.ones_like(self.masks[name]).index_fill_(0, removed, 0)
        return chosen

    def kept(self) -> dict[str, Tensor]:
        """Of structured pruning: indices of the channels that stay, by layer."""
        return {
            pair.layer: self.masks[f"{pair.layer}.weight"].flatten(1).amax(1).nonzero().flatten()
            for pair in self._pairs
        }

    def smaller(self, model: nn.Module) -> nn.Module:
        """A copy on the CPU, without the channels that were removed."""
        if not (self.plan.structured and self.done):
            return deepcopy(model).cpu()
        return shrink(model, self._pairs, self.kept())


def channel_weights(pair: Pair) -> list[str]:
    """The weights that make a channel 0, those that may be missing among them."""
    names = [f"{pair.layer}.weight", f"{pair.layer}.bias"]
    return names + ([f"{pair.norm}.weight", f"{pair.norm}.bias"] if pair.norm is not None else [])
