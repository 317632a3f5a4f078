"""Object detection, one file: find the bright square in a noisy image and say where it is and which of two kinds.

Images are made on the spot, the same for every run. Shows dlcloud's three lines in a program of one's own: they save,
resume and tell; without dlcloud the program runs as it is.
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from dlcloud_trainer import Checkpointer, progress

STEPS, BATCH, SIDE = int(os.environ.get("STEPS", "600")), 64, 32


def scenes(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images (n, 1, SIDE, SIDE), boxes (n, 4: left, top, right, bottom, in parts of the side), kinds (n,)."""
    random = torch.Generator().manual_seed(seed)
    size = torch.randint(6, 14, (count, 2), generator=random)
    start = (torch.rand(count, 2, generator=random) * (SIDE - size)).long()
    kinds = torch.randint(0, 2, (count,), generator=random)
    place = torch.arange(SIDE)
    inside = [(place >= start[:, i : i + 1]) & (place < (start + size)[:, i : i + 1]) for i in (0, 1)]
    filled = (inside[1][:, :, None] & inside[0][:, None, :]).float()
    stripes = (place % 2).float()[None, :, None]
    shape = torch.where(kinds[:, None, None] == 1, filled * stripes * 1.5, filled)
    images = shape + 0.3 * torch.randn(count, SIDE, SIDE, generator=random)
    return images.unsqueeze(1), torch.cat([start, start + size], 1) / SIDE, kinds


class Detector(nn.Module):
    """One box and one kind for each image."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in ((1, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.ReLU()]
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.box, self.kind = nn.Linear(64 * (SIDE // 8) ** 2, 4), nn.Linear(64 * (SIDE // 8) ** 2, 2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(images)
        return self.box(features).sigmoid(), self.kind(features)


def overlap(one: Tensor, other: Tensor) -> Tensor:
    """Intersection over union of boxes (n, 4)."""
    width = torch.minimum(one[:, 2:], other[:, 2:]) - torch.maximum(one[:, :2], other[:, :2])
    shared = width.clamp(min=0).prod(1)
    areas = [(box[:, 2:] - box[:, :2]).clamp(min=0).prod(1) for box in (one, other)]
    return shared / (areas[0] + areas[1] - shared)


def main() -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = Detector()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.002)
    checkpointer = Checkpointer(model=model, optimizer=optimizer)
    wrapped = DistributedDataParallel(model)
    unseen = scenes(512, 10**9)
    for step in checkpointer.steps(STEPS):
        images, boxes, kinds = scenes(BATCH, step * dist.get_world_size() + dist.get_rank())
        found, scores = wrapped(images)
        loss = functional.smooth_l1_loss(found, boxes, beta=0.05) * 10 + functional.cross_entropy(scores, kinds)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % 50 == 0:
            with torch.no_grad():
                found, scores = model(unseen[0])
            mean = overlap(found, unseen[1]).mean().item()
            right = (scores.argmax(1) == unseen[2]).float().mean().item()
            progress(loss=loss.item(), iou=mean, accuracy=right)
            if dist.get_rank() == 0:
                print(f"step {step + 1}: overlap {mean:.3f}, kind right {right:.3f}", flush=True)


if __name__ == "__main__":
    main()
