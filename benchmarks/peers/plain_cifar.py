"""The cifar as one writes it in plain PyTorch, in one file: its peer in benchmarks.throughput.

`python -m benchmarks.peers.plain_cifar DATA.pt EPOCHS`: reads the training tensors (images uint8, labels), prints one
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

EPOCHS, BATCH, RATE = int(sys.argv[2]), 128, 0.1
RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


class Block(nn.Sequential):
    """Two convolutions at half the size."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__(
            nn.Conv2d(before, width, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(width), nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.GELU(),
        )  # fmt: skip


class Net(nn.Sequential):
    """After https://arxiv.org/abs/2404.00498, of width 64, 256 and 256; its first layer is whitened."""

    def __init__(self, images: torch.Tensor) -> None:
        first = nn.Conv2d(3, 24, 2)
        first.weight.requires_grad_(False)
        super().__init__(
            first, nn.GELU(), Block(24, 64), Block(64, 256), Block(256, 256),
            nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(256, 10, bias=False),
        )  # fmt: skip
        patches = F.unfold(images, 2).transpose(1, 2).flatten(0, 1)
        variances, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        filters = (vectors / (variances + 5e-4).sqrt()).T.reshape(12, 3, 2, 2)
        first.weight.copy_(torch.cat([filters, -filters]))
        nn.init.zeros_(first.bias)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images) / 9


def augment(images: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
    """Every other image mirrored, each moved by up to two pixels."""
    images = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(-1), images)
    count, channels, height, width = images.shape
    down, right = torch.randint(5, (2, count, 1, 1, 1)).unbind()
    rows, columns = torch.arange(height).view(1, 1, -1, 1) + down, torch.arange(width).view(1, 1, 1, -1) + right
    padded = F.pad(images, (2, 2, 2, 2), "reflect")
    return padded[torch.arange(count).view(-1, 1, 1, 1), torch.arange(channels).view(1, -1, 1, 1), rows, columns]


def main() -> None:
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    images, labels = torch.load(sys.argv[1])
    mean = images.float().mean((0, 2, 3)).view(-1, 1, 1)
    deviation = images.float().std((0, 2, 3)).view(-1, 1, 1)
    with torch.no_grad():
        model: nn.Module = Net((images[:500].float() - mean) / deviation)
    if WORLD > 1:
        dist.init_process_group("gloo")
        model = DistributedDataParallel(model, gradient_as_bucket_view=True)
    trained = [weights for weights in model.parameters() if weights.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=RATE, momentum=0.85, nesterov=True, weight_decay=5e-4, fused=True)
    steps = EPOCHS * math.ceil(len(labels) / BATCH)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    first_flips = torch.rand(len(labels)) < 0.5
    ends: list[list[tuple[float, int]]] = []
    for epoch in range(EPOCHS):
        ends.append([])
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(epoch))
        for batch in order.split(BATCH):
            mine = batch.tensor_split(WORLD)[RANK]
            pixels = augment((images[mine].float() - mean) / deviation, first_flips[mine] ^ (epoch % 2 == 1))
            loss = F.cross_entropy(model(pixels), labels[mine], label_smoothing=0.2)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            ends[-1].append((time.perf_counter(), len(batch)))
    report(ends)


if __name__ == "__main__":
    main()
