"""`vae`: a variational autoencoder of grey images, as MNIST's (https://arxiv.org/abs/1312.6114).

May import torch, pydantic and the package's modules for data and tasks. Images are uint8 (n, channels, height, width).
The loss is -ELBO in nats per image. A grey value divided by 255 is taken as the probability of a white pixel, as the
usual figures of about 105 nats do; images binarised first give other, lower figures.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from ..data import DIGITS_URI, Splits
from ..data.unlabelled import Placed, load_unlabelled, noise_of_places
from ..errors import InvalidInput
from ..export.exported import Change, Exported, from_noise
from ..initialisation import begin_as_keras
from ..parameters import TrainingParameters
from ..pictures import tiled
from ..supervised import Supervised
from ..workload import Batch, Measures, Part

DESCRIPTION = "A variational autoencoder that draws grey images, such as handwritten digits."
DATA = (DIGITS_URI, "s3://", "file://")
BEST_BY = "loss"
LOWER_IS_BETTER = True
load_data = load_unlabelled
PRESETS: dict[str, dict[str, Any]] = {
    "faithful": {
        "architecture": "dense",
        "batchSize": 128,
        "epochs": 10,
        "epsilon": 1e-7,
        "hidden": 400,
        "latents": 20,
        "learningRate": 0.001,
        "optimizer": "adam",
        "schedule": "constant",
        "validation": "last",
    },
    "best": {
        "architecture": "conv",
        "batchSize": 128,
        "ema": 0.999,
        "epochs": 20,
        "hidden": 256,
        "latents": 20,
        "learningRate": 0.002,
        "optimizer": "adam",
        "schedule": "cosine",
    },
}
REFUSED: dict[str, str] = {}

SHOWN, WALK_STEPS = 10, 10  # pictures: originals, and images from one of them to the next


class Parameters(TrainingParameters):
    """Settings of `vae`."""

    architecture: Literal["dense", "conv"] = Field(
        "dense",
        description="dense: one hidden layer each for encoder and decoder; conv: two convolutions, of 32 and 64 "
        "channels, and a hidden layer, and the reverse.",
    )
    latents: int = Field(20, ge=1, le=1024, description="Numbers that stand for an image.")
    hidden: int = Field(400, ge=1, le=8192, description="Width of the hidden dense layers.")


class Autoencoder(nn.Module):
    """Images of 0 to 1 and noise (n, latents) -> logits of the pixels, means and logarithms of the variances (n,
    latents)."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.encoder(images).chunk(2, dim=1)
        latents = mean + noise * torch.exp(0.5 * log_variance)
        return self.decoder(latents), mean, log_variance


class Vae(Supervised):
    """The task: see `Task` of the workload module."""

    model: Autoencoder

    def __init__(self, parameters: Parameters, data: Splits[Placed], device: torch.device) -> None:
        super().__init__(build(parameters, tuple(data.train.images.shape[1:])), parameters, device)
        self._latents = parameters.latents
        self._noise = noise_of_places(data, parameters.latents).to(device)

    def prepare(self, part: Part) -> Part:
        """Images of 0 to 1, and the noise of their latents."""
        return part.replaced(part.batch[0].float() / 255, part.noise(self._latents).to(self.device))

    def loss(self, model: nn.Module, part: Part) -> Tensor:
        """-ELBO, summed over the samples."""
        images, noise = part.batch
        reconstruction, divergence = bounds(images, *model(images, noise))
        return reconstruction + divergence

    def measure(self, batch: Batch) -> Measures:
        """-ELBO, and the two terms it is made of."""
        images = batch[0].float() / 255
        reconstruction, divergence = bounds(images, *self.judged(images, self._noise[batch[1]]))
        return {"loss": reconstruction + divergence, "reconstruction": reconstruction, "divergence": divergence}

    def pictures(self, validation: Batch) -> Mapping[str, Tensor]:
        """`reconstructions`: images above what is left of them; `walk`: each row leads from one image to the next."""
        images = validation[0][:SHOWN].float() / 255
        means = self.judged.encoder(images).chunk(2, dim=1)[0]  # type: ignore[operator]
        ahead = torch.linspace(0, 1, WALK_STEPS, device=self.device).view(1, -1, 1)
        walk = torch.lerp(means.unsqueeze(1), means.roll(-1, 0).unsqueeze(1), ahead).flatten(0, 1)
        return {
            "reconstructions": tiled(pixels(torch.cat([images, self._decode(means)])), len(images)),
            "walk": tiled(pixels(self._decode(walk)), WALK_STEPS),
        }

    @property
    def refused_exports(self) -> Mapping[str, str]:
        """See `HandsOver`."""
        return {"quantize: static": "the decoder draws from noise, there are no samples to measure its ranges on"}

    def exported(self, data: Splits[Any], change: Change) -> Exported:
        """The decoder: latents to images; see `HandsOver`."""
        decoder = change(self.judged).get_submodule("decoder")
        about = f"standard normal noise, (n, {self._noise.shape[1]})"
        module = nn.Sequential(decoder, nn.Sigmoid())
        return from_noise(
            module, decoder, self._noise, "latents", about, lambda values: self._decode(values[0].to(self.device))
        )

    def _decode(self, latents: Tensor) -> Tensor:
        return torch.sigmoid(self.judged.decoder(latents))  # type: ignore[operator]


def make_task(parameters: Parameters, data: Splits[Placed], device: torch.device) -> Vae:
    """Model and optimiser with fresh weights."""
    return Vae(parameters, data, device)


def build(parameters: Parameters, shape: tuple[int, ...]) -> Autoencoder:
    """The model for images of a shape; raises `InvalidInput` for images that its strides do not divide."""
    if parameters.architecture == "dense":
        return build_dense(shape, parameters.hidden, parameters.latents)
    if shape[1] % 4 or shape[2] % 4:
        raise InvalidInput(
            f"data.uri: images of {shape[1]}x{shape[2]} pixels; architecture conv needs sides that 4 divides, dense any"
        )
    return build_conv(shape, parameters.hidden, parameters.latents)


def build_dense(shape: tuple[int, ...], hidden: int, latents: int) -> Autoencoder:
    """652,824 weights for 28x28 grey pixels, 400 hidden units and 20 latents."""
    size = math.prod(shape)
    encoder = OrderedDict(
        flatten=nn.Flatten(), dense1=nn.Linear(size, hidden), relu=nn.ReLU(), dense2=nn.Linear(hidden, 2 * latents)
    )
    decoder = OrderedDict(
        dense1=nn.Linear(latents, hidden),
        relu=nn.ReLU(),
        dense2=nn.Linear(hidden, size),
        reshape=nn.Unflatten(1, shape),
    )
    return autoencoder(encoder, decoder)


def build_conv(shape: tuple[int, ...], hidden: int, latents: int) -> Autoencoder:
    """Two convolutions of stride 2 down to a quarter of the size, and back by transposed ones."""
    channels, height, width = shape
    small = (64, height // 4, width // 4)
    encoder = OrderedDict(
        conv1=nn.Conv2d(channels, 32, 4, stride=2, padding=1),
        relu1=nn.ReLU(),
        conv2=nn.Conv2d(32, 64, 4, stride=2, padding=1),
        relu2=nn.ReLU(),
        flatten=nn.Flatten(),
        dense1=nn.Linear(math.prod(small), hidden),
        relu3=nn.ReLU(),
        dense2=nn.Linear(hidden, 2 * latents),
    )
    decoder = OrderedDict(
        dense1=nn.Linear(latents, hidden),
        relu1=nn.ReLU(),
        dense2=nn.Linear(hidden, math.prod(small)),
        relu2=nn.ReLU(),
        reshape=nn.Unflatten(1, small),
        conv1=nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1),
        relu3=nn.ReLU(),
        conv2=nn.ConvTranspose2d(32, channels, 4, stride=2, padding=1),
    )
    return autoencoder(encoder, decoder)


def autoencoder(encoder: OrderedDict[str, nn.Module], decoder: OrderedDict[str, nn.Module]) -> Autoencoder:
    """The two halves as one, with weights as in Keras."""
    model = Autoencoder(nn.Sequential(encoder), nn.Sequential(decoder))
    begin_as_keras(model)
    return model


def bounds(images: Tensor, logits: Tensor, mean: Tensor, log_variance: Tensor) -> tuple[Tensor, Tensor]:
    """The two terms of -ELBO in nats, summed over the samples: cross-entropy of the pixels, and divergence of the
    latents from a standard normal distribution in closed form (https://arxiv.org/abs/1312.6114, appendix B)."""
    mean, log_variance = mean.float(), log_variance.float()
    reconstruction = functional.binary_cross_entropy_with_logits(logits.float(), images, reduction="sum")
    divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
    return reconstruction, divergence


def pixels(images: Tensor) -> Tensor:
    """Images of 0 to 1 (n, channels, height, width) as bytes, for a picture: (n, height, width) or (n, height, width,
    3)."""
    whole = (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return whole.squeeze(-1)
