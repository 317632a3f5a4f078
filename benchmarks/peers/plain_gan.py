"""The gan as one writes it in plain PyTorch, in one file: its peer in benchmarks.throughput.

`python -m benchmarks.peers.plain_gan DATA.pt EPOCHS KIND`: reads the training tensors (images uint8, places), prints
one JSON line: samples per second and the largest resident size of this process. With WORLD_SIZE above 1 it trains
under DDP. No checkpoints, no reports, no evaluation; what is measured is from the end of an epoch's first step to that
of its last but one, without the first epoch.
"""

import os
import sys
import time

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import softplus
from torch.nn.parallel import DistributedDataParallel

from benchmarks.peers.measured import report

EPOCHS, KIND, BATCH = int(sys.argv[2]), sys.argv[3], 64
RATE, BETAS, DROPOUT = {"dcgan": (2e-4, (0.5, 0.999), 0.3), "wgan-gp": (1e-4, (0.0, 0.9), 0.0)}[KIND]
RANK, WORLD = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
NOISE, CRITIC_STEPS, PENALTY = 100, 5, 10.0


def build_generator() -> nn.Module:
    """Noise to images of -1 to 1."""
    return nn.Sequential(
        nn.Linear(NOISE, 256 * 7 * 7, bias=False), nn.BatchNorm1d(256 * 7 * 7), nn.LeakyReLU(0.3),
        nn.Unflatten(1, (256, 7, 7)),
        nn.ConvTranspose2d(256, 128, 5, padding=2, bias=False), nn.BatchNorm2d(128), nn.LeakyReLU(0.3),
        nn.ConvTranspose2d(128, 64, 5, stride=2, padding=2, output_padding=1, bias=False),
        nn.BatchNorm2d(64), nn.LeakyReLU(0.3),
        nn.ConvTranspose2d(64, 1, 5, stride=2, padding=2, output_padding=1, bias=False), nn.Tanh(),
    )  # fmt: skip


def build_discriminator() -> nn.Module:
    """Images to scores, high for real ones."""
    return nn.Sequential(
        nn.Conv2d(1, 64, 5, stride=2, padding=2), nn.LeakyReLU(0.3), nn.Dropout(DROPOUT),
        nn.Conv2d(64, 128, 5, stride=2, padding=2), nn.LeakyReLU(0.3), nn.Dropout(DROPOUT),
        nn.Flatten(), nn.Linear(128 * 7 * 7, 1),
    )  # fmt: skip


def penalty(discriminator: nn.Module, real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
    """Of slopes that are not 1 between real and fake images (https://arxiv.org/abs/1704.00028)."""
    between = torch.lerp(real, fake, torch.rand(len(real), 1, 1, 1)).requires_grad_()
    (slope,) = torch.autograd.grad(discriminator(between).sum(), between, create_graph=True)
    return ((slope.flatten(1).norm(dim=1) - 1) ** 2).mean()


def main() -> None:
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    images, _ = torch.load(sys.argv[1])
    generator, discriminator = build_generator(), build_discriminator()
    if WORLD > 1:
        dist.init_process_group("gloo")
        generator = DistributedDataParallel(generator, gradient_as_bucket_view=True)
        discriminator = DistributedDataParallel(discriminator, gradient_as_bucket_view=True)
    critic = discriminator.module if WORLD > 1 else discriminator  # type: ignore[union-attr]
    of_generator = torch.optim.Adam(generator.parameters(), lr=RATE, betas=BETAS, fused=True)
    of_discriminator = torch.optim.Adam(discriminator.parameters(), lr=RATE, betas=BETAS, fused=True)
    ends: list[list[tuple[float, int]]] = []
    for _ in range(EPOCHS):
        ends.append([])
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(len(ends)))
        for batch in order.split(BATCH):
            mine = batch.tensor_split(WORLD)[RANK]
            real = images[mine].float() / 127.5 - 1
            if KIND == "dcgan":
                fake = generator(torch.randn(len(real), NOISE))
                on_real, on_fake = discriminator(torch.cat([real, fake.detach()])).chunk(2)
                of_discriminator.zero_grad()
                (softplus(-on_real).mean() + softplus(on_fake).mean()).backward()
                of_discriminator.step()
            for _ in range(CRITIC_STEPS if KIND == "wgan-gp" else 0):
                with torch.no_grad():
                    fake = generator(torch.randn(len(real), NOISE))
                on_real, on_fake = discriminator(torch.cat([real, fake])).chunk(2)
                of_discriminator.zero_grad()
                (on_fake.mean() - on_real.mean() + PENALTY * penalty(critic, real, fake)).backward()
                of_discriminator.step()
            if KIND == "wgan-gp":
                fake = generator(torch.randn(len(real), NOISE))
            critic.requires_grad_(False)  # only the generator learns from this backward
            scores = critic(fake)
            of_generator.zero_grad()
            (softplus(-scores) if KIND == "dcgan" else -scores).mean().backward()
            of_generator.step()
            critic.requires_grad_(True)
            ends[-1].append((time.perf_counter(), len(batch)))
    report(ends)


if __name__ == "__main__":
    main()
