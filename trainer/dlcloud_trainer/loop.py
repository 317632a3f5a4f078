"""The training loop, from an assignment to the end of the training: read it from top to bottom.

May import the rest of the trainer, but agent and zygote. One process runs it per rank; what differs on rank 0 is inside
Saver and Reporter.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .assignment import Assignment, Place
from .checkpoint import Stateful
from .distributed import Agreed, Agreement, Group, choose_device, join
from .drain import Drain
from .events import Events, Heartbeat
from .progress import Ledger, Reporter, StepRecord
from .saver import Saver
from .sharding import Schedule, epoch_order, mix, share
from .workload import Batch, Task, TrainingParameters, Workload, learning_rate

EVALUATION_BATCH = 256
REHEARSED = 2  # samples; one is too few for batch normalisation
WEIGHTS, STEP = 0, 2  # what a seed is for; 1 is the order of an epoch


def train(
    assignment: Assignment,
    place: Place,
    workload: Workload,
    parameters: TrainingParameters,
    saver: Saver,
    events: Events,
    drain: Drain,
    on_lost: Callable[[BaseException], None],
) -> bool:
    """Train to the end of the last epoch, then test; False when the ranks agreed to stop before.

    Raises what ends a rank: see exits.
    """
    saver.begin()  # asks the store for the newest checkpoint while the ranks find each other
    device = choose_device(place)
    data = workload.load_data(assignment.job.data_uri, assignment.job.store)
    torch.manual_seed(mix(parameters.seed, WEIGHTS))
    task = workload.make_task(parameters, device)
    ledger = Ledger()
    parts: dict[str, Stateful] = {"model": task.model, "optimizer": task.optimizer, "ledger": ledger}
    saver.restore_into(parts)

    group = join(assignment, place, device, on_lost)
    drain.take_charge()
    group.share(saver.restored(), parts)
    model = group.wrap(task.model)
    schedule = Schedule(len(data.train[0]), parameters.batch_size, parameters.epochs)
    feed = Feed(tuple(part.to(device) for part in data.train), parameters.seed, schedule, place)
    validation, test = (tuple(part.to(device) for part in split) for split in (data.validation, data.test))

    heartbeat = Heartbeat(events)
    reporter = Reporter(ledger, schedule, events, saver, active=place.rank == 0)
    agreement = Agreement[StepRecord](group)
    nothing_to_do = ledger.samples >= schedule.total_samples
    if nothing_to_do and assignment.restarts == 0 and assignment.job.resume_from and place.rank == 0:
        events.warning("NothingToTrain", f"resumeFrom has {ledger.samples} samples behind it; raise parameters.epochs")
    if not nothing_to_do and not group.alone:
        rehearse(task, model, feed, ledger.samples)
    task.model.train()
    first, stopped, paused = True, False, False

    while not stopped:
        if ledger.samples % schedule.samples == 0 and ledger.validated_epochs < schedule.epoch(ledger.samples):
            means = evaluate(task, validation, group, heartbeat, ledger.step)
            ledger.validated_epochs = schedule.epoch(ledger.samples)
            score = means[workload.BEST_BY]
            is_best = math.isfinite(score) and (ledger.best is None or score > ledger.best)
            ledger.best = score if is_best else ledger.best
            reporter.evaluated("validation", means)
            if is_best and saver.keeps_best:
                tell_loss(reporter, agreement.ahead())  # the records of what is saved: nobody makes these steps again
                # The others wait for rank 0, which may have to wait for an upload.
                with heartbeat.alive(ledger.step, assignment.checkpoint_s):
                    saver.save(
                        parts, step=ledger.step, samples=ledger.samples, metric=score, wait=True, unless_troubled=True
                    )
                    group.barrier()
        if ledger.samples >= schedule.total_samples:
            break
        due = saver.due()
        if paused or due:
            tell_loss(reporter, agreement.ahead())
        if paused:  # rank 0 has no memory for a copy of the state, and the others wait for its upload
            with heartbeat.alive(ledger.step, assignment.checkpoint_s):
                saver.save(parts, step=ledger.step, samples=ledger.samples)
                group.barrier()
        elif due:
            saver.save(parts, step=ledger.step, samples=ledger.samples)

        rate = learning_rate(parameters, ledger.samples / schedule.total_samples)
        for param_group in task.optimizer.param_groups:
            param_group["lr"] = rate
        seed_generators(parameters.seed, ledger.step, place.rank, device)
        batch, size, weight = feed.batch(ledger.samples)
        loss = task.loss(model, task.prepare(batch)) * weight
        task.optimizer.zero_grad()
        torch.autograd.backward(loss)
        task.optimizer.step()
        ledger.step += 1
        ledger.samples += size

        heartbeat.beat(ledger.step)
        reporter.step_done()
        logged = ledger.step % parameters.log_every_steps == 0
        record = reporter.describe_step(rate, logged=logged)
        # On a CPU a loss costs nothing to read; on a GPU reading waits for the step, so only a logged one is read.
        told = loss.detach() if logged or device.type == "cpu" else None
        agreed = agreement.exchange(stop=drain.asked, pause=saver.pause_due(), loss=told, about=record)
        if agreed is not None:
            stopped, paused = agreed.stop, agreed.pause
        tell_loss(reporter, agreed)
        if first:
            saver.prepare(parts)  # the optimiser has its state now
            first = False

    tell_loss(reporter, agreement.settle())
    if stopped:
        group.part()
    with heartbeat.alive(ledger.step, assignment.checkpoint_s):
        final_score = None if stopped else ledger.metrics.get(f"validation{workload.BEST_BY.capitalize()}")
        saver.save(parts, step=ledger.step, samples=ledger.samples, metric=final_score, wait=True)
        if not stopped:
            group.barrier()
    if not stopped:
        reporter.evaluated("test", evaluate(task, test, group, heartbeat, ledger.step))
        group.part()
    with heartbeat.alive(ledger.step, assignment.checkpoint_s):
        saver.finish(must_be_saved=not stopped)
    return not stopped


def tell_loss(reporter: Reporter, agreed: Agreed[StepRecord] | None) -> None:
    """Pass on what is known of a step's loss, if anything is."""
    if agreed is not None and agreed.loss is not None:
        reporter.loss_known(agreed.about, agreed.loss)


class Feed:
    """A rank's part of every batch; `part` lies on the rank's device."""

    def __init__(self, part: Batch, seed: int, schedule: Schedule, place: Place) -> None:
        self._part, self._seed, self._schedule, self._place = part, seed, schedule, place
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def batch(self, consumed: int) -> tuple[Batch, int, float]:
        """The rank's samples, the samples of all ranks, and the weight of the rank's loss sum.

        DDP takes the mean of the ranks' gradients: with this weight it is the gradient of the mean over the whole
        batch, however unequal the shares. A rank without a share trains on one sample with weight 0, because every rank
        must take part.
        """
        epoch = self._schedule.epoch(consumed)
        if epoch != self._epoch:
            order = epoch_order(self._seed, epoch, self._schedule.samples)
            self._epoch, self._order = epoch, order.to(self._part[0].device)
        positions = self._schedule.batch(consumed)
        mine = share(positions, self._place.world_size, self._place.rank)
        chosen = mine or positions[:1]
        indices = self._order[chosen.start : chosen.stop]
        weight = self._place.world_size / len(positions) if mine else 0.0
        return tuple(tensor.index_select(0, indices) for tensor in self._part), len(positions), weight


def rehearse(task: Task, model: nn.Module, feed: Feed, consumed: int) -> None:
    """One forward and backward that leaves no trace: DDP orders its buckets anew after the first iteration of a
    process, and sums in another order from then on. With it, a resumed training equals an uninterrupted one from three
    ranks on, too.
    """
    buffers = [buffer.clone() for buffer in task.model.buffers()]
    task.model.train()
    batch, _, weight = feed.batch(consumed)
    # the order of the buckets does not depend on the number of samples
    batch = tuple(tensor[:REHEARSED] for tensor in batch)
    torch.autograd.backward(task.loss(model, task.prepare(batch)) * weight)
    task.optimizer.zero_grad()
    with torch.no_grad():
        for buffer, before in zip(task.model.buffers(), buffers, strict=True):
            buffer.copy_(before)


def evaluate(task: Task, part: Batch, group: Group, heartbeat: Heartbeat, step: int) -> dict[str, float]:
    """The measures' means over all samples of `part`: ranks take unpadded shares, sums and counts are added up."""
    mine = share(range(len(part[0])), group.world_size, group.rank)
    chosen = mine or range(1)  # a rank without a share measures one sample and counts none
    totals: dict[str, Tensor] = {}
    group.align(task.model)
    task.model.eval()
    with torch.no_grad():
        for start in range(chosen.start, chosen.stop, EVALUATION_BATCH):
            stop = min(start + EVALUATION_BATCH, chosen.stop)
            for name, value in task.measure(tuple(tensor[start:stop] for tensor in part)).items():
                totals[name] = totals.get(name, 0) + value.double()
            heartbeat.beat(step)
    task.model.train()
    names = sorted(totals)
    sums = torch.tensor([*(totals[name].item() for name in names), 1.0], dtype=torch.float64)
    sums[-1] = len(mine)
    if not mine:
        sums.zero_()
    *values, count = group.sum(sums).tolist()
    return {name: value / count for name, value in zip(names, values, strict=True)}


def seed_generators(seed: int, step: int, rank: int, device: torch.device) -> None:
    """Seed torch's default generators for one step of one rank: there is no generator state to save."""
    number = mix(seed, STEP, step, rank)
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed(number)
