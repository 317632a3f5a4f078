"""Batched changes to training images, torch only; all draw from torch's default generators, which the loop seeds.

May import torch. Images are float (n, channels, height, width).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

MAX_TURN = math.radians(12)
MAX_ZOOM = 0.1
MAX_SHEAR = 0.15
MAX_SHIFT = 2 / 14  # two of 28 pixels, in units of half the image


def distort(pixels: Tensor, strength: float = 1.0) -> Tensor:
    """Each image turned, scaled, sheared and shifted a little."""
    drawn = (torch.rand(5, len(pixels), device=pixels.device) * 2 - 1) * strength
    turn, zoom, shear, right, down = drawn.unbind()
    scale = 1 + zoom * MAX_ZOOM
    cosine, sine = torch.cos(turn * MAX_TURN) * scale, torch.sin(turn * MAX_TURN) * scale
    rows = (cosine, shear * MAX_SHEAR - sine, right * MAX_SHIFT, sine, cosine, down * MAX_SHIFT)
    grid = functional.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(pixels.shape), align_corners=False)
    return functional.grid_sample(pixels, grid, align_corners=False)


def flip(pixels: Tensor, which: Tensor) -> Tensor:
    """Mirror those images, left to right; `which` is bool (n,)."""
    return torch.where(which.view(-1, 1, 1, 1), pixels.flip(-1), pixels)


def alternating(indices: Tensor, epoch: int) -> Tensor:
    """Which samples to mirror: half of them in the first epoch, the others in the second, and so in turn: a sample is
    never seen the same way twice in a row (https://arxiv.org/abs/2404.00498, section 3.5)."""
    mixed = indices * 2654435761 % 2**32  # Knuth's multiplicative hash: near samples differ
    return ((mixed >> 16) + epoch) % 2 == 0


def shift(pixels: Tensor, most: int) -> Tensor:
    """Each image moved by up to so many whole pixels in both directions; what comes in is the image mirrored at its
    edge."""
    count, _, height, width = pixels.shape
    padded = functional.pad(pixels, (most,) * 4, "reflect")
    down, right = torch.randint(2 * most + 1, (2, count, 1), device=pixels.device).unbind()
    rows = (torch.arange(height, device=pixels.device) + down).view(count, 1, height, 1)
    columns = (torch.arange(width, device=pixels.device) + right).view(count, 1, 1, width)
    samples = torch.arange(count, device=pixels.device).view(-1, 1, 1, 1)
    channels = torch.arange(pixels.shape[1], device=pixels.device).view(1, -1, 1, 1)
    return padded[samples, channels, rows, columns]
