"""Fréchet distance of two sets of features, each taken for a Gaussian: how far generated images are from real ones.

May import torch. Sums in, one number out: ranks and batches add up before anything is computed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

CHANNELS, GRID, SEED = 16, 2, 5  # of the random features: 64 of them


def frechet_distance(one: Tensor, other: Tensor, count: int) -> float:
    """Squared Fréchet distance of two sets of `count` features, each given by `moments`: float64 (1 + features,
    features). NaN where a value is not finite (https://arxiv.org/abs/1706.08500, section 1)."""
    if not (torch.isfinite(one).all() and torch.isfinite(other).all()):
        return math.nan
    (mean, spread), (other_mean, other_spread) = _gaussian(one, count), _gaussian(other, count)
    root = _root(spread)
    # The trace of a product's root is that of a symmetric matrix's: its eigenvalues are real.
    mixed = torch.linalg.eigvalsh(root @ other_spread @ root).clamp_min(0).sqrt().sum()
    distance: Tensor = (mean - other_mean).square().sum() + spread.trace() + other_spread.trace() - 2 * mixed
    return max(0.0, float(distance))


def moments(features: Tensor) -> Tensor:
    """Sums over samples, of the features and of their products: (n, features) -> float64 (1 + features, features)."""
    exact = features.double()
    return torch.cat([exact.sum(0, keepdim=True), exact.T @ exact])


def _gaussian(sums: Tensor, count: int) -> tuple[Tensor, Tensor]:
    mean = sums[0] / count
    return mean, (sums[1:] - count * torch.outer(mean, mean)) / max(1, count - 1)


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    return root


class RandomFeatures:
    """Strokes and where they are, seen by two random convolutions: the same for every training, and nothing to
    download. Two of its distances can be compared where data set and number of images are the same."""

    def __init__(self, channels: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(SEED)
        shapes = ((CHANNELS, channels, 5, 5), (CHANNELS, CHANNELS, 5, 5))
        self._kernels = [
            (torch.randn(shape, generator=generator) / math.sqrt(math.prod(shape[1:]))).to(device) for shape in shapes
        ]

    def __call__(self, images: Tensor) -> Tensor:
        """Images (n, channels, height, width) of -1 to 1 -> (n, 64)."""
        seen = (images.float() + 1) / 2
        for kernel in self._kernels:
            seen = functional.relu(functional.conv2d(seen, kernel, stride=2, padding=2))
        return functional.adaptive_avg_pool2d(seen, GRID).flatten(1)
