"""The cnn as one writes it in plain PyTorch, in one file: its peer in benchmarks.throughput.

`python -m benchmarks.peers.plain_cnn DATA.pt EPOCHS`: reads the training tensors (images uint8, labels), prints one
JSON line: samples per second and the largest resident size of this process. With WORLD_SIZE above 1 it trains under
DDP. No checkpoints, no reports, no evaluation; what is measured is from the end of an epoch's first step to that of
its last but one, without the first epoch.
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

from benchmarks.peers.measured import report

EPOCHS, BATCH, RATE = int(sys.argv[2]), 64, 2e-3
RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def augment(images: torch.Tensor) -> torch.Tensor:
    """A little rotation, zoom, shear and shift for each image."""
    angle, zoom, shear, x, y = (torch.rand(5, len(images)) * 2 - 1).unbind()
    cos, sin = torch.cos(angle * 0.21) * (1 + zoom * 0.1), torch.sin(angle * 0.21) * (1 + zoom * 0.1)
    theta = torch.stack([cos, shear * 0.15 - sin, x / 7, sin, cos, y / 7], 1).view(-1, 2, 3)
    return F.grid_sample(images, F.affine_grid(theta, images.shape, align_corners=False), align_corners=False)


def main() -> None:
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    images, labels = torch.load(sys.argv[1])
    model: nn.Module = nn.Sequential(
        nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.5),
        nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Linear(128, 10),
    )  # fmt: skip
    if WORLD > 1:
        dist.init_process_group("gloo")
        model = DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0, fused=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * math.ceil(len(labels) / BATCH))
    ends: list[list[tuple[float, int]]] = []
    for _ in range(EPOCHS):
        ends.append([])
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(len(ends)))
        for batch in order.split(BATCH):
            mine = batch.tensor_split(WORLD)[RANK]
            pixels = (augment(images[mine].float()) - 33.3) / 78.6
            loss = F.cross_entropy(model(pixels), labels[mine])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            ends[-1].append((time.perf_counter(), len(batch)))
    report(ends)


if __name__ == "__main__":
    main()
