"""The cnn as one writes it in plain PyTorch, in one file: the peer in benchmarks.throughput.

Same data, model, batches, augmentation, optimiser and threads as the built-in workload; no checkpoints, no reports.
Prints samples per second of training, without the first epoch and without evaluation. With WORLD_SIZE above 1 it trains
under DDP.
"""

import math
import os
import sys
import time

import torch
import torch.distributed as dist
import torch.nn.functional as F  # noqa: N812
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dlcloud_trainer.data.digits import load_digits  # the data only; everything else is plain PyTorch

EPOCHS, BATCH, RATE = int(sys.argv[1]), 64, 2e-3
RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def augment(images: torch.Tensor) -> torch.Tensor:
    """A little rotation, zoom, shear and shift for each image."""
    angle, zoom, shear, x, y = (torch.rand(5, len(images)) * 2 - 1).unbind()
    cos, sin = torch.cos(angle * 0.21) * (1 + zoom * 0.1), torch.sin(angle * 0.21) * (1 + zoom * 0.1)
    theta = torch.stack([cos, shear * 0.15 - sin, x / 7, sin, cos, y / 7], 1).view(-1, 2, 3)
    return F.grid_sample(images, F.affine_grid(theta, images.shape, align_corners=False), align_corners=False)


def main() -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    train = load_digits().train
    images, labels = train.images, train.labels
    model: nn.Module = nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.5),
        nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip
    if WORLD > 1:
        dist.init_process_group("gloo")
        model = DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, fused=True)
    steps = EPOCHS * math.ceil(len(labels) / BATCH)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    seconds, samples = 0.0, 0
    for epoch in range(EPOCHS):
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(epoch))
        for start in range(0, len(order), BATCH):
            mine = order[start : start + BATCH].tensor_split(WORLD)[RANK]
            pixels = images[mine].unsqueeze(1).float()
            loss = F.cross_entropy(model((augment(pixels) - 33.3) / 78.6), labels[mine])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            if start == 0:
                began, before = time.perf_counter(), BATCH
        if epoch > 0:
            seconds += time.perf_counter() - began
            samples += len(order) - before
    if RANK == 0:
        sys.stdout.write(f"{samples / seconds}\n")


if __name__ == "__main__":
    main()
