"""A plain program for torchrun: linear regression with DistributedDataParallel on data made on the spot."""

from __future__ import annotations

import argparse

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=64, help="samples of one step on each rank")
    options = parser.parse_args()

    dist.init_process_group("gloo")
    rank, world_size = dist.get_rank(), dist.get_world_size()

    torch.manual_seed(0)  # the same weights everywhere
    truth = torch.randn(16, 1)
    model = DistributedDataParallel(torch.nn.Linear(16, 1))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)

    torch.manual_seed(1 + rank)  # other samples on each rank
    for step in range(1, options.steps + 1):
        x = torch.randn(options.batch_size, 16)
        loss = torch.nn.functional.mse_loss(model(x), x @ truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if rank == 0 and (step % 10 == 0 or step == options.steps):
            print(f"step {step} of {options.steps}, {world_size} ranks: loss {loss.item():.5f}", flush=True)

    dist.destroy_process_group()


if __name__ == "__main__":
    main()
