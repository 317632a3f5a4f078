"""A task with two networks that learn against each other, each with an optimiser of its own.

May import torch, workload, parameters, supervised's optimisers and averaging. What the networks are, and what they
learn by, a workload says that derives from `Adversarial`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .averaging import Average
from .checkpoint import Stateful
from .export.exported import Change, Exported, Unit, Values, from_noise
from .parameters import TrainingParameters
from .supervised import make_optimizer, mixed_precision
from .workload import Wrap

Name = Literal["generator", "discriminator"]


class Adversarial:
    """Every backward goes through the one wrapped network whose gradients it makes, which averages them over the ranks.
    What a network learns of the other's output comes by `advice`, which leaves no gradient in the other's weights.
    """

    _noise: Tensor  # (n, noise): what the workload draws from when it measures

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        parameters: TrainingParameters,
        device: torch.device,
        betas: tuple[float, float],
    ) -> None:
        self.parameters, self.device = parameters, device
        self.models: dict[Name, nn.Module] = {
            "generator": generator.to(device),
            "discriminator": discriminator.to(device),
        }
        self.wrapped = dict(self.models)
        more = {"betas": betas} if parameters.optimizer in ("adam", "adamw") else {}
        self.optimizers = {
            name: make_optimizer([{"params": [*model.parameters()], **more}], parameters)
            for name, model in self.models.items()
        }
        self.average = Average(generator, parameters.ema) if parameters.ema else None

    @property
    def judged(self) -> nn.Module:
        """The generator that is measured and handed over: the average, where there is one."""
        return self.models["generator"] if self.average is None else self.average.model

    @property
    def parts(self) -> Mapping[str, Stateful]:
        """Both networks, their optimisers, and the generator's average."""
        parts: dict[str, Stateful] = dict(self.models.items())
        parts |= {f"{name}-optimizer": optimizer for name, optimizer in self.optimizers.items()}
        return parts if self.average is None else {**parts, "generator-average": self.average.model}

    @property
    def refused_exports(self) -> Mapping[str, str]:
        """See `HandsOver`."""
        return {
            "quantize: static": "the generator draws from noise, there are no samples to measure its ranges on",
            "prune": "two networks learn against each other, and a generator that is cut loses",
            "distill": "it has no scores that a teacher could give",
        }

    def exported(self, data: Any, change: Change) -> Exported:
        """The generator alone: noise to images; see `HandsOver`. It draws from `_noise`, pixels of -1 to 1."""
        model = change(self.judged)
        about = f"standard normal noise, (n, {self._noise.shape[1]})"

        def reference(values: Values) -> Tensor:
            images: Tensor = self.judged(values[0].to(self.device))
            return (images + 1) / 2

        return from_noise(nn.Sequential(model, Unit()), model, self._noise, "noise", about, reference)

    def begin_epoch(self, epoch: int) -> bool:
        """Nothing changes."""
        return False

    def wrap(self, wrap: Wrap) -> None:
        """See `Task.wrap`."""
        self.wrapped = {name: wrap(model) for name, model in self.models.items()}

    def begin_step(self, rate: float) -> None:
        """The learning rate of both optimisers, and no gradients."""
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = rate
        self.drop_gradients()

    def drop_gradients(self) -> None:
        """Those of both networks."""
        for optimizer in self.optimizers.values():
            optimizer.zero_grad()

    def step(self, name: Name, clip_value: float = 0.0) -> None:
        """Clip the network's gradients as the parameters say, go one step, drop them."""
        weights = [*self.models[name].parameters()]
        if self.parameters.clip_norm:
            nn.utils.clip_grad_norm_(weights, self.parameters.clip_norm)
        if clip_value:
            nn.utils.clip_grad_value_(weights, clip_value)
        self.optimizers[name].step()
        self.optimizers[name].zero_grad()

    def mixed(self) -> contextlib.AbstractContextManager[object, bool | None]:
        """Inside, what is computed may be in bfloat16, where the parameters say so."""
        return mixed_precision(self.parameters, self.device)


def advice(loss: Tensor, images: Tensor, *, keep: bool = False) -> Tensor:
    """What a loss says about images, and nothing about the weights in between: those get no gradient, and a wrapper's
    hooks on them are not called. With `keep` the way from the loss can be gone once more."""
    (gradient,) = torch.autograd.grad(loss, images, retain_graph=keep)
    return gradient
