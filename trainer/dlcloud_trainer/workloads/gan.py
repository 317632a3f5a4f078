"""`gan`: two networks that learn against each other to draw images: DCGAN, WGAN with weight clipping, WGAN-GP.

May import torch, pydantic and the package's modules for data and tasks. Images are uint8 (n, channels, height, width),
sides divisible by 4; the networks see them as -1 to 1.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.functional import softplus

from ..adversarial import Adversarial, advice
from ..data import DIGITS_URI, Splits
from ..data.unlabelled import Placed, load_unlabelled, noise_of_places
from ..errors import InvalidInput
from ..frechet import RandomFeatures, frechet_distance, moments
from ..initialisation import begin_as_keras
from ..parameters import TrainingParameters
from ..pictures import tiled
from ..workload import Batch, Measures, Moment, Part

DESCRIPTION = "Two networks that learn against each other to draw images: DCGAN, WGAN or WGAN-GP."
DATA = (DIGITS_URI, "s3://", "file://")
BEST_BY = "distance"
LOWER_IS_BETTER = True
load_data = load_unlabelled
PRESETS: dict[str, dict[str, Any]] = {
    "faithful": {"batchSize": 256, "epochs": 50, "epsilon": 1e-7, "validation": "last"},
    "best": {"batchSize": 64, "dropout": 0.0, "ema": 0.999, "epochs": 30},
}
_ONE_MODEL = "the two networks learn against each other, so"
REFUSED = {
    "accumulate": "batch normalisation and a critic's inner steps need a rank's part of a batch as a whole",
    "freeze": f"{_ONE_MODEL} neither can stay as it is",
    "newHead": f"{_ONE_MODEL} `from` gives both of them, or none",
    "unfreezeEpoch": "nothing is frozen",
    "unfreezeLearningRate": "nothing is frozen",
}

BETAS = {"dcgan": (0.5, 0.999), "wgan": (0.5, 0.999), "wgan-gp": (0.0, 0.9)}  # of Adam
SLOPE = 0.3  # LeakyReLU's in Keras
SHOWN = 8  # images of a picture's row, and rows
TINY = 1e-12  # the root of a sum of squares has no gradient at 0

# What a job that does not say otherwise is trained with, for each kind, and what a preset changes of it.
USUAL: dict[str, dict[str, Any]] = {
    "dcgan": {"optimizer": "adam", "learning_rate": 2e-4},
    "wgan": {"optimizer": "rmsprop", "learning_rate": 3e-4, "critic_steps": 5, "weight_clip": 0.01},
    "wgan-gp": {"optimizer": "adam", "learning_rate": 1e-4, "critic_steps": 5},
}
OF_PRESET: dict[str, dict[str, dict[str, Any]]] = {
    "faithful": {
        "dcgan": {"optimizer": "rmsprop", "learning_rate": 8e-4, "clip_value": 1.0},
        "wgan": {"learning_rate": 5e-5},
    },
    "best": {
        "wgan": {"critic_steps": 3, "weight_clip": 0.05, "schedule": "cosine"},
        "wgan-gp": {"learning_rate": 5e-4, "critic_steps": 1},
    },
}
ONLY_OF = {"dropout": ["dcgan"], "critic_steps": ["wgan", "wgan-gp"], "weight_clip": ["wgan"], "penalty": ["wgan-gp"]}


class Parameters(TrainingParameters):
    """Settings of `gan`."""

    kind: Literal["dcgan", "wgan", "wgan-gp"] = Field(
        "dcgan",
        description="dcgan: cross-entropy, a step of both networks at once; wgan, wgan-gp: Wasserstein loss with "
        "clipped weights or with a gradient penalty, `criticSteps` before each step of the generator.",
    )
    noise: int = Field(100, ge=1, le=4096, description="Numbers that an image is made from.")
    width: int = Field(
        64, ge=1, le=1024, description="Channels: 1 and 2 times as many in the discriminator, 4, 2, 1 in the generator."
    )
    dropout: float = Field(0.3, ge=0, lt=1, description="Of dcgan: part of the discriminator's features to drop.")
    critic_steps: int = Field(
        0, ge=0, le=100, description="Of wgan, wgan-gp: the critic's steps in each step; 0: 5 (best: 3, of wgan-gp 1)."
    )
    weight_clip: float = Field(
        0.0, ge=0, le=1, description="Of wgan: largest absolute value of a critic's weight; 0: 0.01 (best: 0.05)."
    )
    penalty: float = Field(10.0, gt=0, le=1e6, description="Of wgan-gp: weight of the gradient penalty.")
    clip_value: float = Field(
        0.0, ge=0, le=1e6, description="Largest absolute value of a gradient; 0: 1 for a faithful dcgan, else any."
    )
    optimizer: Literal["usual", "adamw", "adam", "rmsprop", "sgd"] = Field(  # type: ignore[assignment]
        "usual",
        description="Of both networks. usual: rmsprop for wgan and a faithful dcgan, else adam; adam's betas are 0.5 "
        "and 0.999, of wgan-gp 0 and 0.9.",
    )
    learning_rate: float = Field(
        0.0,
        ge=0,
        le=10,
        description="Highest learning rate; 0: as usual, of dcgan 0.0002 (faithful: 0.0008), of wgan 0.0003 (faithful: "
        "0.00005), of wgan-gp 0.0001 (best: 0.0005).",
    )
    schedule: Literal["usual", "cosine", "linear", "constant"] = Field(  # type: ignore[assignment]
        "usual",
        description="cosine, linear: rises over `warmUp` of the training, then falls to 0; constant: stays; usual: "
        "cosine for the best wgan, else constant.",
    )

    @model_validator(mode="after")
    def _fit_kind(self) -> Parameters:
        fields = type(self).model_fields
        preset = PRESETS.get(self.preset, {})
        for name, kinds in ONLY_OF.items():
            alias = fields[name].alias or name
            if self.kind not in kinds and getattr(self, name) not in (fields[name].default, preset.get(alias)):
                raise ValueError(f"{alias}: kind {self.kind} has none; leave it out, or give kind {kinds[0]}")
        usual = {"schedule": "constant", **USUAL[self.kind], **OF_PRESET.get(self.preset, {}).get(self.kind, {})}
        for name, value in usual.items():
            if getattr(self, name) == fields[name].default:
                object.__setattr__(self, name, value)  # frozen for all others
        return self


class Gan(Adversarial):
    """The task: see `Task` of the workload module."""

    parameters: Parameters

    def __init__(self, parameters: Parameters, data: Splits[Placed], device: torch.device) -> None:
        shape = tuple(data.train.images.shape[1:])
        networks = build_generator(shape, parameters), build_discriminator(shape, parameters)
        super().__init__(*networks, parameters, device, BETAS[parameters.kind])
        self._noise = noise_of_places(data, parameters.noise, at_least=SHOWN**2).to(device)
        self._features = RandomFeatures(shape[0], device)

    def rehearse(self, part: Part) -> None:
        """See `Task.rehearse`."""
        if self.parameters.kind == "dcgan":
            self._teach_both(part)
        else:
            self._teach_critic(part, 0)
            self._teach_generator(part)
        self.drop_gradients()

    def update(self, part: Part, now: Moment) -> Tensor:
        """One step of the generator and those of the discriminator that belong to it; the discriminator's last loss."""
        self.begin_step(now.rate)
        if self.parameters.kind == "dcgan":
            loss = self._teach_both(part)
            self.step("discriminator", self.parameters.clip_value)
        else:
            for number in range(self.parameters.critic_steps):
                loss = self._teach_critic(part, number)
                self.step("discriminator", self.parameters.clip_value)
                if limit := self.parameters.weight_clip:
                    for weight in self.models["discriminator"].parameters():
                        weight.detach().clamp_(-limit, limit)
            self._teach_generator(part)
        self.step("generator", self.parameters.clip_value)
        if self.average is not None:
            self.average.update(self.models["generator"], now.step)
        return loss

    def _teach_both(self, part: Part) -> Tensor:
        """Gradients of both networks from one look at the same images, before either has moved."""
        with self.mixed():
            real, fake = scaled(part.batch[0]), self._draw(self.wrapped["generator"], part, 0)
            shown = fake.detach().requires_grad_()
            on_real, on_fake = self._scores(self.wrapped["discriminator"], real, shown)
            loss = (softplus(-on_real).sum() + softplus(on_fake).sum()) * part.weight
            unconvinced = softplus(-on_fake).sum() * part.weight
        about_fake = advice(unconvinced, shown, keep=True)
        torch.autograd.backward(loss, inputs=[*self.models["discriminator"].parameters()])  # not images': 8 % slower
        torch.autograd.backward(fake, about_fake)
        return loss.detach()

    def _teach_critic(self, part: Part, number: int) -> Tensor:
        """The critic's gradients: in each of its steps the batch's images, and new ones of the generator."""
        with self.mixed():
            with torch.no_grad():
                real, fake = scaled(part.batch[0]), self._draw(self.models["generator"], part, 2 * number)
            on_real, on_fake = self._scores(self.wrapped["discriminator"], real, fake)
            loss = on_fake.sum() - on_real.sum()
            if self.parameters.kind == "wgan-gp":
                loss = loss + self.parameters.penalty * self._penalty(real, fake, part, 2 * number + 1)
            loss = loss * part.weight
        torch.autograd.backward(loss)
        return loss.detach()

    def _teach_generator(self, part: Part) -> None:
        """The generator's gradients, as the critic sees it now."""
        with self.mixed():
            fake = self._draw(self.wrapped["generator"], part, 2 * self.parameters.critic_steps)
            shown = fake.detach().requires_grad_()
            unconvinced = -self.models["discriminator"](shown).float().sum() * part.weight
        torch.autograd.backward(fake, advice(unconvinced, shown))

    def _penalty(self, real: Tensor, fake: Tensor, part: Part, stream: int) -> Tensor:
        """How far the critic's slope between real and fake images is from 1, squared, summed over the samples
        (https://arxiv.org/abs/1704.00028).

        Averaged over the ranks with the rest, as all reaches the weights in one backward (not so with static_graph).
        """
        ahead = torch.special.ndtr(part.noise(1, 1, 1, stream=stream)).to(self.device)  # even from 0 to 1
        between = torch.lerp(real, fake.float(), ahead).requires_grad_()
        heights = self.models["discriminator"](between).float()
        (slope,) = torch.autograd.grad(heights.sum(), between, create_graph=True)
        return ((slope.square().flatten(1).sum(1) + TINY).sqrt() - 1).square().sum()

    def _draw(self, model: nn.Module, part: Part, stream: int) -> Tensor:
        """An image for each of the part's samples."""
        noise = part.noise(self.parameters.noise, stream=stream).to(self.device)
        # Batch normalisation has no deviation of one sample, which a rank may get of an epoch's last batch.
        images: Tensor = model(noise) if len(noise) > 1 else model(torch.cat([noise, -noise]))[:1]
        return images

    def _scores(self, model: nn.Module, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        on_real, on_fake = model(torch.cat([real, fake])).float().split([len(real), len(fake)])
        return on_real, on_fake

    def measure(self, batch: Batch) -> Measures:
        """Losses of both networks, without the penalty, and moments of the features of real and of drawn images."""
        real, fake = scaled(batch[0]), self.judged(self._noise[batch[1]])
        on_real, on_fake = self._scores(self.models["discriminator"], real, fake)
        if self.parameters.kind == "dcgan":
            loss, unconvinced = softplus(-on_real).sum() + softplus(on_fake).sum(), softplus(-on_fake).sum()
        else:
            loss, unconvinced = on_fake.sum() - on_real.sum(), -on_fake.sum()
        seen = {"real": moments(self._features(real)), "fake": moments(self._features(fake))}
        return {"loss": loss, "generator": unconvinced, **seen}

    def describe(self, sums: Measures, count: int) -> dict[str, float]:
        """`loss` is the discriminator's, `generator` the other's; `distance` is Fréchet's, on random features: neither
        loss tells how good the images are."""
        losses = {name: sums[name].item() / count for name in ("loss", "generator")}
        return {**losses, "distance": frechet_distance(sums["real"], sums["fake"], count)}

    def pictures(self, validation: Batch) -> Mapping[str, Tensor]:
        """`samples`: 64 drawn images, from the same noise each time."""
        return {"samples": tiled(drawn(self.judged(self._noise[: SHOWN**2])), SHOWN)}


def make_task(parameters: Parameters, data: Splits[Placed], device: torch.device) -> Gan:
    """Networks and optimisers with fresh weights."""
    return Gan(parameters, data, device)


def scaled(images: Tensor) -> Tensor:
    """Bytes to -1 to 1."""
    return images.float() / 127.5 - 1


def drawn(images: Tensor) -> Tensor:
    """The reverse, for a picture: (n, height, width), or (n, height, width, channels) of more than one."""
    return ((images.float() + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).squeeze(-1)


def build_generator(shape: tuple[int, ...], parameters: Parameters) -> nn.Module:
    """(n, noise) -> (n, *shape) of -1 to 1; raises `InvalidInput` for sides that 4 does not divide. 2.3 million weights
    for 28x28 grey pixels."""
    channels, height, width = shape
    if height % 4 or width % 4:
        raise InvalidInput(f"data.uri: images of {height}x{width} pixels; this workload needs sides that 4 divides")
    wide = 4 * parameters.width
    size = wide * (height // 4) * (width // 4)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        dense=nn.Linear(parameters.noise, size, bias=False),
        norm1=nn.BatchNorm1d(size, eps=1e-3, momentum=0.01),
        relu1=nn.LeakyReLU(SLOPE),
        reshape=nn.Unflatten(1, (wide, height // 4, width // 4)),
        conv1=nn.ConvTranspose2d(wide, wide // 2, 5, padding=2, bias=False),
        norm2=nn.BatchNorm2d(wide // 2, eps=1e-3, momentum=0.01),
        relu2=nn.LeakyReLU(SLOPE),
        conv2=nn.ConvTranspose2d(wide // 2, wide // 4, 5, stride=2, padding=2, output_padding=1, bias=False),
        norm3=nn.BatchNorm2d(wide // 4, eps=1e-3, momentum=0.01),
        relu3=nn.LeakyReLU(SLOPE),
        conv3=nn.ConvTranspose2d(wide // 4, channels, 5, stride=2, padding=2, output_padding=1, bias=False),
        tanh=nn.Tanh(),
    )
    return begin_as_keras(nn.Sequential(layers))


def build_discriminator(shape: tuple[int, ...], parameters: Parameters) -> nn.Module:
    """(n, *shape) -> (n, 1): a score, high for real images. No batch normalisation: it would mix the samples that the
    penalty looks at one by one. 0.2 million weights for 28x28 grey pixels."""
    channels, height, width = shape
    dropout = parameters.dropout if parameters.kind == "dcgan" else 0.0
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(channels, parameters.width, 5, stride=2, padding=2),
        relu1=nn.LeakyReLU(SLOPE),
        dropout1=nn.Dropout(dropout),
        conv2=nn.Conv2d(parameters.width, 2 * parameters.width, 5, stride=2, padding=2),
        relu2=nn.LeakyReLU(SLOPE),
        dropout2=nn.Dropout(dropout),
        flatten=nn.Flatten(),
        dense=nn.Linear(2 * parameters.width * (height // 4) * (width // 4), 1),
    )
    return begin_as_keras(nn.Sequential(layers))
