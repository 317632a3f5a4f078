"""The vae as one writes it in plain PyTorch, in one file: its peer in benchmarks.throughput.

`python -m benchmarks.peers.plain_vae DATA.pt EPOCHS`: reads the training tensors (images uint8, places), prints one
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

EPOCHS, BATCH, RATE = int(sys.argv[2]), 64, 1e-3
RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
HIDDEN, LATENTS = 400, 20


class Vae(nn.Module):
    """Images to logits of their pixels, means and logarithms of the latents' variances."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * LATENTS))
        self.decoder = nn.Sequential(nn.Linear(LATENTS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 784))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        mean, log_variance = self.encoder(images).chunk(2, dim=1)
        latents = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        return self.decoder(latents).view_as(images), mean, log_variance


def main() -> None:
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    images, _ = torch.load(sys.argv[1])
    model: nn.Module = Vae()
    if WORLD > 1:
        dist.init_process_group("gloo")
        model = DistributedDataParallel(model, gradient_as_bucket_view=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0, fused=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * math.ceil(len(images) / BATCH))
    ends: list[list[tuple[float, int]]] = []
    for _ in range(EPOCHS):
        ends.append([])
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(len(ends)))
        for batch in order.split(BATCH):
            pixels = images[batch.tensor_split(WORLD)[RANK]].float() / 255
            logits, mean, log_variance = model(pixels)
            reconstruction = F.binary_cross_entropy_with_logits(logits, pixels, reduction="sum")
            divergence = 0.5 * torch.sum(mean.pow(2) + log_variance.exp() - 1 - log_variance)
            loss = (reconstruction + divergence) / len(pixels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            ends[-1].append((time.perf_counter(), len(batch)))
    report(ends)


if __name__ == "__main__":
    main()
