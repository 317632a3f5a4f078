"""A task's models between two steps: measured, drawn, rehearsed, and the best of them kept.

May import torch, distributed, feed and workload.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn

from .checkpoint import Stateful
from .distributed import Group
from .events import Heartbeat
from .feed import Feed
from .progress import Ledger
from .sharding import share
from .workload import Batch, Task

EVALUATION_BATCH = 256
REHEARSED = 2  # samples; one is too few for batch normalisation


def evaluate(
    task: Task, samples: Batch, group: Group, heartbeat: Heartbeat, step: int
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """What is told of all samples, and the sums that it is made from: ranks measure unpadded shares, sums and counts
    are added up."""
    mine = share(range(len(samples[0])), group.world_size, group.rank)
    chosen = mine or range(1)  # a rank without a share measures one sample and counts none
    totals: dict[str, Tensor] = {}
    for model in models(task).values():
        group.align(model)
    set_training(task, False)
    with torch.no_grad():
        for start in range(chosen.start, chosen.stop, EVALUATION_BATCH):
            stop = min(start + EVALUATION_BATCH, chosen.stop)
            for name, value in task.measure(tuple(tensor[start:stop] for tensor in samples)).items():
                totals[name] = totals.get(name, 0) + value.double().cpu()
            heartbeat.beat(step)
    set_training(task, True)
    names = sorted(totals)
    sums = torch.cat([*(totals[name].flatten() for name in names), torch.tensor([float(len(mine))])])
    if not mine:
        sums.zero_()
    *parts, count = torch.split(group.sum(sums), [*(totals[name].numel() for name in names), 1])
    whole = {name: part.view(totals[name].shape) for name, part in zip(names, parts, strict=True)}
    return task.describe(whole, int(count.item())), whole


def draw(task: Task, validation: Batch) -> Mapping[str, Tensor]:
    """The task's pictures, drawn while nothing is trained."""
    set_training(task, False)
    with torch.no_grad():
        pictures = task.pictures(validation)
    set_training(task, True)
    return pictures


def rehearse(task: Task, feed: Feed, ledger: Ledger) -> None:
    """One forward and backward that leaves no trace: DDP orders its buckets anew after the first iteration of a
    process, and sums in another order from then on. With it, a resumed training equals an uninterrupted one from three
    ranks on, too.
    """
    buffers = [(buffer, buffer.clone()) for model in models(task).values() for buffer in model.buffers()]
    set_training(task, True)
    part = feed.part(ledger.samples, ledger.step)
    # the order of the buckets does not depend on the number of samples
    batch = tuple(tensor[:REHEARSED] for tensor in part.batch)
    task.rehearse(replace(part, batch=batch, indices=part.indices[:REHEARSED]))
    with torch.no_grad():
        for buffer, before in buffers:
            buffer.copy_(before)


class Best:
    """The weights of the best validation so far: a part of the checkpoint, put back when the training ends."""

    def __init__(self, task: Task) -> None:
        self._kept = {f"best-{name}": deepcopy(model).requires_grad_(False) for name, model in models(task).items()}

    @property
    def parts(self) -> dict[str, Stateful]:
        """For the checkpoint."""
        return dict(self._kept)

    def keep(self, task: Task) -> None:
        """The weights as they are now."""
        for name, model in models(task).items():
            self._kept[f"best-{name}"].load_state_dict(model.state_dict())

    def put_back(self, task: Task) -> None:
        """The weights that were kept last."""
        for name, model in models(task).items():
            model.load_state_dict(self._kept[f"best-{name}"].state_dict())


def models(task: Task) -> dict[str, nn.Module]:
    """The modules among a task's parts."""
    return {name: part for name, part in task.parts.items() if isinstance(part, nn.Module)}


def set_training(task: Task, active: bool) -> None:
    """Dropout and batch statistics on or off."""
    for model in models(task).values():
        model.train(active)
