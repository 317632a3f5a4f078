"""A task with one model and one optimiser: everything a workload gets without asking.

May import torch, workload, parameters and averaging. A workload derives from `Supervised` and gives the model, how a
batch is prepared, the loss and the measures; precision, accumulation, clipping, averages, frozen weights are here.
"""

from __future__ import annotations

import contextlib
import gc
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .averaging import Average
from .checkpoint import Stateful
from .errors import InvalidInput
from .parameters import TrainingParameters
from .workload import Batch, Measures, Moment, Part, Wrap


class Holds(Protocol):
    """Weights that were removed stay away."""

    def hold(self) -> None:
        """Asked after every step of the optimiser."""


class Supervised(ABC):
    """One model that learns from batches; see `Task` of the workload module for what the loop asks."""

    def __init__(self, model: nn.Module, parameters: TrainingParameters, device: torch.device) -> None:
        self.model = model.to(device)
        self.parameters, self.device = parameters, device
        self._frozen = frozen_parameters(model, parameters.freeze)
        self._set_frozen(bool(self._frozen))
        self.optimizer = make_optimizer(groups(self.model, self._frozen, parameters), parameters)
        self.average = Average(self.model, parameters.ema) if parameters.ema else None
        self._wrapped = self.model
        self.pruning: Holds | None = None

    @abstractmethod
    def prepare(self, part: Part) -> Part:
        """The batch as the model wants it, augmented when the job asks for it."""

    @abstractmethod
    def loss(self, model: nn.Module, part: Part) -> Tensor:
        """Sum of the prepared samples' losses, a scalar to differentiate; `model` is `self.model`, on several ranks
        wrapped."""

    @abstractmethod
    def measure(self, batch: Batch) -> Measures:
        """Sums over samples as loaded, of `judged`; see `Task.measure`."""

    def describe(self, sums: Measures, count: int) -> dict[str, float]:
        """The mean of every measure; override for what is no mean."""
        return {name: value.item() / count for name, value in sums.items()}

    def pictures(self, validation: Batch) -> Mapping[str, Tensor]:
        """None."""
        return {}

    @property
    def judged(self) -> nn.Module:
        """The model that is measured, kept and handed over: the average, where there is one."""
        return self.model if self.average is None else self.average.model

    @property
    def parts(self) -> Mapping[str, Stateful]:
        """Model, optimiser and average."""
        parts: dict[str, Stateful] = {"model": self.model, "optimizer": self.optimizer}
        return parts if self.average is None else {**parts, "average": self.average.model}

    def begin_epoch(self, epoch: int) -> bool:
        """Train what was frozen, from `unfreezeEpoch` on."""
        thaws = bool(self._frozen) and 0 < self.parameters.unfreeze_epoch <= epoch
        if thaws:
            self._set_frozen(False)
            self._frozen = ()
        return thaws

    def wrap(self, wrap: Wrap) -> None:
        """See `Task.wrap`."""
        if self._wrapped is not self.model:
            self._wrapped = self.model
            gc.collect()  # the earlier wrapper's hooks go with it
        self._wrapped = wrap(self.model)

    def rehearse(self, part: Part) -> None:
        """See `Task.rehearse`."""
        torch.autograd.backward(self._loss(part))
        self.optimizer.zero_grad()

    def update(self, part: Part, now: Moment) -> Tensor:
        """See `Task.update`."""
        for group in self.optimizer.param_groups:
            group["lr"] = now.rate * group.get("rate", 1.0)
        self.optimizer.zero_grad()
        pieces = part.pieces(self.parameters.accumulate) if self.parameters.accumulate > 1 else [part]
        losses: list[Tensor] = []
        for piece in pieces:
            with self._alone(piece is not pieces[-1]):
                loss = self._loss(piece)
                torch.autograd.backward(loss)
            losses.append(loss.detach())
        if self.parameters.clip_norm:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.parameters.clip_norm)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.model, now.step)
        if self.pruning is not None:
            self.pruning.hold()
        return sum(losses[1:], losses[0])

    def _loss(self, part: Part) -> Tensor:
        prepared = self.prepare(part)
        with mixed_precision(self.parameters, self.device):
            return self.loss(self._wrapped, prepared) * part.weight

    def _alone(self, active: bool) -> contextlib.AbstractContextManager[None]:
        """Gradients stay on this rank: they are averaged with those of the last piece."""
        no_sync = getattr(self._wrapped, "no_sync", None) if active else None
        return contextlib.nullcontext() if no_sync is None else no_sync()

    def _set_frozen(self, frozen: bool) -> None:
        for parameter in self._frozen:
            parameter.requires_grad_(not frozen)


def frozen_parameters(model: nn.Module, patterns: str) -> tuple[nn.Parameter, ...]:
    """Those whose names match; raises `InvalidInput` for a pattern that matches nothing, or when nothing is left."""
    names = dict(model.named_parameters())
    frozen = set(matching(names, patterns, "freeze"))
    if frozen and len(frozen) == len(names):
        raise InvalidInput(f"parameters.freeze: {patterns!r} leaves nothing to train; freeze less")
    return tuple(names[name] for name in names if name in frozen and names[name].requires_grad)


def matching(names: Mapping[str, Any], patterns: str, parameter: str) -> Iterator[str]:
    """The names that one of the comma-separated patterns matches; raises `InvalidInput` for one that matches none."""
    for pattern in filter(None, (part.strip() for part in patterns.split(","))):
        found = [name for name in names if fnmatchcase(name, pattern)]
        if not found:
            raise InvalidInput(
                f"parameters.{parameter}: {pattern!r} matches none of the model's weights; there are {', '.join(names)}"
            )
        yield from found


def groups(model: nn.Module, frozen: tuple[nn.Parameter, ...], parameters: TrainingParameters) -> list[dict[str, Any]]:
    """Parameter groups; `rate` is what the learning rate is multiplied by. What is frozen has one of its own."""
    apart = {id(parameter) for parameter in frozen}
    trained = [parameter for parameter in model.parameters() if id(parameter) not in apart]
    if not frozen:
        return [{"params": trained, "rate": 1.0}]
    later = parameters.unfreeze_learning_rate / parameters.learning_rate or 1.0
    return [{"params": trained, "rate": 1.0}, {"params": list(frozen), "rate": later}]


def mixed_precision(
    parameters: TrainingParameters, device: torch.device
) -> contextlib.AbstractContextManager[object, bool | None]:
    """Inside, what is computed may be in bfloat16, where the parameters say so."""
    # An autocast that is switched off costs 11 µs, 1 % of a step of `mlp`.
    enabled = parameters.precision == "bfloat16"
    return torch.autocast(device.type, torch.bfloat16) if enabled else contextlib.nullcontext()


def make_optimizer(groups: list[dict[str, Any]], parameters: TrainingParameters) -> torch.optim.Optimizer:
    """The optimiser that the parameters name."""
    rate, decay, epsilon = parameters.learning_rate, parameters.weight_decay, parameters.epsilon
    if parameters.optimizer == "sgd":
        momentum = parameters.momentum
        return torch.optim.SGD(
            groups, lr=rate, momentum=momentum, nesterov=momentum > 0, weight_decay=decay, fused=True
        )
    if parameters.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, lr=rate, alpha=0.9, eps=epsilon, weight_decay=decay)
    kind = torch.optim.AdamW if parameters.optimizer == "adamw" else torch.optim.Adam
    # Fused: one kernel instead of a dozen small ones per tensor; 2 % of a step on a CPU.
    return kind(groups, lr=rate, eps=epsilon, weight_decay=decay, fused=True)
