"""A plain DDP program as one writes it for torchrun: the cnn on digits, a checkpoint in a file, a line per step.

It is the peer in benchmarks.recovery, and the same file runs unchanged as a `script` job of dlcloud. A step's line is
`rank step CLOCK_MONOTONIC restarts pid`, appended to $STEP_LOG.{rank}: so one sees when training goes on after a kill.
"""

import os
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dlcloud_trainer.data.digits import load_digits  # the data only; everything else is plain PyTorch


def main() -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    train = load_digits().train
    images, labels = train.images.float().div(255).reshape(-1, 1, 28, 28), train.labels.long()
    torch.manual_seed(0)
    model = DistributedDataParallel(
        nn.Sequential(
            nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25),
            nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10),
        )
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    checkpoint, every, start = Path(os.environ["CHECKPOINT"]), int(os.environ.get("CHECKPOINT_STEPS", "20")), 1
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.module.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        start = saved["step"] + 1
    log = os.open(f"{os.environ['STEP_LOG']}.{rank}", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    share = 64 // world
    for step in range(start, int(os.environ["STEPS"]) + 1):
        order = torch.randint(len(labels), (64,), generator=torch.Generator().manual_seed(step))
        mine = order[rank * share : (rank + 1) * share]
        loss = nn.functional.cross_entropy(model(images[mine]), labels[mine])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        line = f"{rank} {step} {time.monotonic():.6f} {os.environ['TORCHELASTIC_RESTART_COUNT']} {os.getpid()}\n"
        os.write(log, line.encode())
        if step % every == 0 and rank == 0:
            partial = checkpoint.with_suffix(".partial")
            torch.save({"model": model.module.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, partial)
            partial.rename(checkpoint)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
