"""The training loop, from an assignment to the end of the training: read it from top to bottom.

May import the rest of the trainer, but agent and zygote. One process runs it per rank; what differs on rank 0 is inside
Saver and Reporter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch

from .assignment import Assignment, Place
from .distributed import Agreed, Agreement, choose_device, join
from .drain import Drain
from .events import Events, Heartbeat
from .export.about import PART, About
from .export.compression import Compression
from .export.ending import EXPORT_LIMIT_S, export, facts_of
from .feed import Feed, seed_generators
from .finetune import begin_from
from .judging import Best, draw, evaluate, models, rehearse, set_training
from .parameters import TrainingParameters
from .progress import Ledger, Reporter, StepRecord
from .saver import Saver
from .sharding import WEIGHTS, Schedule, mix
from .workload import Moment, Workload

DAMAGED = "CheckpointDamaged"


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
    job, patience = assignment.job, saver.patience
    data = patience.insist("its data", lambda: workload.load_data(job.data_uri, job.store, parameters))
    torch.manual_seed(mix(parameters.seed, WEIGHTS))
    task = workload.make_task(parameters, data, device)
    ledger = Ledger()
    compression = Compression(job.export, job.workload, task, parameters)
    best = Best(task) if parameters.patience else None
    about = About(job.data_uri, data)
    parts = {**task.parts, **compression.parts, **(best.parts if best is not None else {}), PART: about}
    parts["ledger"] = ledger
    saver.restore_into(parts)

    group = join(assignment, place, device, on_lost)
    drain.take_charge()
    resumed = group.share(saver.restored(), parts)
    warn = partial(events.warning, DAMAGED)
    if not resumed:
        if parameters.start_from and place.rank == 0:
            patience.insist("the weights of `from`", lambda: begin_from(parameters, models(task), job.store, warn))
        # One seed gives the same weights on every rank only if all processors compute alike, to the last bit.
        for model in models(task).values():
            group.hand_out(model)
    compression.teach(data, job.store, group, device, patience, warn)
    schedule = Schedule(len(data.train[0]), parameters.batch_size, parameters.epochs + compression.epochs)
    feed = Feed(tuple(part.to(device) for part in data.train), parameters.seed, schedule, place)
    validation, test = (tuple(part.to(device) for part in split) for split in (data.validation, data.test))

    heartbeat = Heartbeat(events)
    reporter = Reporter(ledger, schedule, events, saver, active=place.rank == 0)
    agreement = Agreement[StepRecord](group)
    nothing_to_do = ledger.ended or ledger.samples >= schedule.total_samples
    if nothing_to_do and assignment.restarts == 0 and job.resume_from and place.rank == 0:
        events.warning("NothingToTrain", f"resumeFrom has {ledger.samples} samples behind it; raise parameters.epochs")
    compression.begin_epoch(schedule.epoch(ledger.samples))
    task.begin_epoch(schedule.epoch(ledger.samples))
    task.wrap(group.wrap)
    if not nothing_to_do and not group.alone:
        rehearse(task, feed, ledger)
    set_training(task, True)
    first, stopped, paused = True, False, False

    while not stopped:
        if ledger.samples % schedule.samples == 0 and ledger.validated_epochs < schedule.epoch(ledger.samples):
            means, _ = evaluate(task, validation, group, heartbeat, ledger.step)
            ledger.validated_epochs = schedule.epoch(ledger.samples)
            score = -means[workload.BEST_BY] if workload.LOWER_IS_BETTER else means[workload.BEST_BY]
            ledger.score = score
            is_best = math.isfinite(score) and (ledger.best is None or score > ledger.best)
            if is_best:
                ledger.best, ledger.best_epoch = score, ledger.validated_epochs
            if best is not None and is_best:
                best.keep(task)
            reporter.evaluated("validation", means)
            if saver.store is not None:
                saver.keep_pictures(draw(task, validation), ledger.validated_epochs)
            ledger.ended = 0 < parameters.patience <= ledger.validated_epochs - ledger.best_epoch
            over = ledger.ended or ledger.samples >= schedule.total_samples
            if best is not None and over:
                best.put_back(task)
            if is_best and saver.keeps_best and not over:
                tell_loss(reporter, agreement.ahead())  # the records of what is saved: nobody makes these steps again
                # The others wait for rank 0, which may have to wait for an upload.
                with heartbeat.alive(ledger.step, assignment.checkpoint_s):
                    saver.save(
                        parts, step=ledger.step, samples=ledger.samples, metric=score, wait=True, unless_troubled=True
                    )
                    group.barrier()
            if not over:
                compression.begin_epoch(ledger.validated_epochs)
            if not over and task.begin_epoch(ledger.validated_epochs):
                task.wrap(group.wrap)
                rehearse(task, feed, ledger)
        if ledger.ended or ledger.samples >= schedule.total_samples:
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

        rate = compression.rate(ledger.samples, schedule.samples)
        seed_generators(parameters.seed, ledger.step, place.rank, device)
        part = feed.part(ledger.samples, ledger.step)
        loss = task.update(part, Moment(ledger.step, schedule.epoch(ledger.samples), rate))
        ledger.step += 1
        ledger.samples += part.total

        heartbeat.beat(ledger.step)
        reporter.step_done()
        logged = ledger.step % parameters.log_every_steps == 0
        record = reporter.describe_step(rate, logged=logged)
        # On a CPU a loss costs nothing to read; on a GPU reading waits for the step, so only a logged one is read.
        told = loss if logged or device.type == "cpu" else None
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
        final_score = None if stopped else ledger.best if best is not None else ledger.score
        saver.save(parts, step=ledger.step, samples=ledger.samples, metric=final_score, wait=True)
        if not stopped:
            group.barrier()
    if not stopped:
        tested, sums = evaluate(task, test, group, heartbeat, ledger.step)
        reporter.evaluated("test", tested)
        saver.keep_confusion(sums.get("confusion"), data.classes, ledger.step)
        if compression.plan is not None:  # killed from here on, the next round comes straight back to it
            validated, _ = evaluate(task, validation, group, heartbeat, ledger.step)
            judged = {"validation": validated, "test": tested}
            with heartbeat.alive(ledger.step, EXPORT_LIMIT_S):
                saver.settle()
                if saver.store is not None:
                    facts = facts_of(job, workload, parameters, data, ledger, judged)
                    export(task, data, compression, facts, saver.store)
                group.barrier()
        group.part()
    with heartbeat.alive(ledger.step, assignment.checkpoint_s):
        saver.finish(must_be_saved=not stopped)
    return not stopped


def tell_loss(reporter: Reporter, agreed: Agreed[StepRecord] | None) -> None:
    """Pass on what is known of a step's loss, if anything is."""
    if agreed is not None and agreed.loss is not None:
        reporter.loss_known(agreed.about, agreed.loss)
