"""Segmentation, one file: a small U-Net tells which pixels of a noisy image belong to a disc, which to a ring.

Images are made on the spot. Shows dlcloud's three lines in a program of one's own: they save, resume and tell.
"""

from __future__ import annotations

import os

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from dlcloud_trainer import Checkpointer, progress

STEPS, BATCH, SIDE, CLASSES = int(os.environ.get("STEPS", "300")), 16, 48, 3


def scenes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images (n, 1, SIDE, SIDE) and labels (n, SIDE, SIDE): 0 nothing, 1 disc, 2 ring."""
    random = torch.Generator().manual_seed(seed)
    rows = torch.arange(SIDE)[:, None]
    columns = torch.arange(SIDE)[None, :]
    labels = torch.zeros(count, SIDE, SIDE, dtype=torch.int64)
    for label in (1, 2):
        centre = 10 + torch.rand(count, 2, 1, 1, generator=random) * (SIDE - 20)
        radius = 6 + 5 * torch.rand(count, 1, 1, generator=random)
        away = ((rows - centre[:, 0]) ** 2 + (columns - centre[:, 1]) ** 2).sqrt()
        covered = away < radius if label == 1 else (away < radius) & (away > radius * 0.55)
        labels[covered] = label
    brightness = torch.tensor([0.0, 0.7, 1.0])[labels]
    return (brightness + 0.4 * torch.randn(count, SIDE, SIDE, generator=random)).unsqueeze(1), labels


def block(before: int, after: int) -> nn.Module:
    """Two convolutions of 3x3."""
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.Conv2d(after, after, 3, padding=1), nn.ReLU()
    )


class UNet(nn.Module):
    """Down twice and up again, with what was seen on the way down (https://arxiv.org/abs/1505.04597)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.deepest = block(1, 12), block(12, 24), block(24, 48)
        self.up2, self.up1 = nn.ConvTranspose2d(48, 24, 2, stride=2), nn.ConvTranspose2d(24, 12, 2, stride=2)
        self.join2, self.join1, self.last = block(48, 24), block(24, 12), nn.Conv2d(12, CLASSES, 1)

    def forward(self, images: Tensor) -> Tensor:
        first = self.first(images)
        second = self.second(functional.max_pool2d(first, 2))
        up = self.up2(self.deepest(functional.max_pool2d(second, 2)))
        up = self.up1(self.join2(torch.cat([up, second], 1)))
        scores: Tensor = self.last(self.join1(torch.cat([up, first], 1)))
        return scores


def overlap(found: Tensor, labels: Tensor) -> float:
    """Intersection over union, the mean over disc and ring."""
    parts = [((found == c) & (labels == c)).sum() / ((found == c) | (labels == c)).sum() for c in (1, 2)]
    return float(torch.stack(parts).mean())


def main() -> None:
    dist.init_process_group("gloo")
    torch.manual_seed(0)
    model = UNet()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    checkpointer = Checkpointer(model=model, optimizer=optimizer, schedule=schedule)
    wrapped = DistributedDataParallel(model)
    unseen = scenes(64, 10**9)
    for step in checkpointer.steps(STEPS):
        images, labels = scenes(BATCH, step * dist.get_world_size() + dist.get_rank())
        loss = functional.cross_entropy(wrapped(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 25 == 0:
            with torch.no_grad():
                mean = overlap(model(unseen[0]).argmax(1), unseen[1])
            progress(loss=loss.item(), iou=mean)
            if dist.get_rank() == 0:
                print(f"step {step + 1}: loss {loss.item():.3f}, overlap {mean:.3f}", flush=True)


if __name__ == "__main__":
    main()
