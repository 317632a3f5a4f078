"""Ranks that make a few steps of a workload and write down the gradients of each: `python gradients.py ROUNDS`, where
ROUNDS is JSON, a list of lists of `Order`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch._dynamo  # what each rank would import at its first optimiser
import torch.distributed as dist
from torch import Tensor

from dlcloud_trainer.assignment import Place
from dlcloud_trainer.data.splits import Splits
from dlcloud_trainer.data.unlabelled import Placed
from dlcloud_trainer.distributed import Group
from dlcloud_trainer.feed import Feed, seed_generators
from dlcloud_trainer.judging import rehearse, set_training
from dlcloud_trainer.parameters import parse_parameters
from dlcloud_trainer.progress import Ledger
from dlcloud_trainer.sharding import Schedule
from dlcloud_trainer.workload import Moment, Part, Task
from dlcloud_trainer.workloads import find_workload

CPU = torch.device("cpu")
SEED, RATE = 11, 0.05


@dataclass(frozen=True)
class Order:
    """What a rank does; `folder` is where it meets the others and leaves `gradients-RANK`."""

    workload: str
    parameters: Mapping[str, Any]
    samples: int
    steps: int
    rank: int
    world_size: int
    folder: str


def images(samples: int) -> Splits[Placed]:
    """Random images of 8x8 pixels."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (samples, 1, 8, 8), dtype=torch.uint8, generator=generator)
    part = Placed(pixels, torch.arange(samples))
    return Splits(part, part, part)


def begin(order: Order) -> tuple[Any, Feed]:
    """The task as every rank begins, and what it is fed."""
    workload = find_workload(order.workload)
    parameters = parse_parameters(workload, order.parameters)
    data = images(order.samples)
    torch.manual_seed(SEED)
    task = workload.make_task(parameters, data, CPU)
    set_training(task, True)
    schedule = Schedule(order.samples, parameters.batch_size, 10)
    return task, Feed(data.train, SEED, schedule, Place(order.rank, order.rank, order.world_size))


def parts_of(order: Order, feed: Feed) -> list[Part]:
    """A rank's part of each step."""
    parts, consumed = [], 0
    for step in range(order.steps):
        parts.append(feed.part(consumed, step))
        consumed += parts[-1].total
    return parts


def watch(optimizers: Mapping[str, torch.optim.Optimizer], seen: list[tuple[str, list[Tensor]]]) -> None:
    """Write down an optimiser's name and gradients before each of its steps."""
    for name, optimizer in optimizers.items():

        def note(one: torch.optim.Optimizer, *_: Any, name: str = name) -> None:
            seen.append((name, [weight.grad.clone() for group in one.param_groups for weight in group["params"]]))

        optimizer.register_step_pre_hook(note)


def optimizers_of(task: Task) -> dict[str, torch.optim.Optimizer]:
    return {name: part for name, part in task.parts.items() if isinstance(part, torch.optim.Optimizer)}


def run(rounds: Sequence[Sequence[Order]]) -> None:
    """Make the ranks of each round, one round after another; each leaves what it wrote down in its folder."""
    text = json.dumps([[asdict(order) for order in ranks] for ranks in rounds])
    subprocess.run([sys.executable, __file__, text], check=True, timeout=200)


def orders(world_size: int, **about: Any) -> list[Order]:
    """Those of all ranks of a round."""
    return [Order(rank=rank, world_size=world_size, **about) for rank in range(world_size)]


def written(order: Order) -> list[tuple[str, list[Tensor]]]:
    """An optimiser's name and its gradients, for each of the steps that a rank made."""
    seen: list[tuple[str, list[Tensor]]] = torch.load(f"{order.folder}/gradients-{order.rank}")
    return seen


def fork(order: Order) -> int:
    """Be a rank in another process; its id."""
    child = os.fork()
    if child:
        return child
    try:
        main(order)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def main(order: Order) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{order.folder}/meeting", rank=order.rank, world_size=order.world_size
    )
    task, feed = begin(order)
    task.wrap(Group(Place(order.rank, order.rank, order.world_size), CPU).wrap)
    rehearse(task, feed, Ledger())
    seen: list[tuple[str, list[Tensor]]] = []
    watch(optimizers_of(task), seen)
    for step, part in enumerate(parts_of(order, feed)):
        seed_generators(SEED, step, order.rank, CPU)
        task.update(part, Moment(step, 0, RATE))
    torch.save(seen, f"{order.folder}/gradients-{order.rank}")
    dist.barrier()


if __name__ == "__main__":
    # One import of torch for all ranks; nothing is computed before they are forked.
    for ranks in json.loads(sys.argv[1]):
        children = [fork(Order(**order)) for order in ranks]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        if any(codes):
            sys.exit(f"exit codes {codes}")
