"""What a user's own program gets with three lines: checkpoints, resuming, progress.

    from dlcloud_trainer import Checkpointer, progress

    checkpointer = Checkpointer(model=model, optimizer=optimizer)
    for step in checkpointer.steps(1000):
        ...
        progress(loss=loss.item())

May import the rest of the trainer, but agent, zygote, rank and loop. Without dlcloud around it (plain Python, torchrun)
a program runs all the same: nothing is saved, and it says so once.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from .assignment import Assignment, Place, parse_assignment, parse_place
from .checkpoint import Stateful
from .distributed import COLLECTIVE_LIMIT_S, Agreement, Group
from .drain import Drain
from .events import EVERY_S, Events
from .exits import DRAINED, judge
from .saver import Saver

POSITION = "position"
NOT_SAVED = "dlcloud: nothing is saved: {}\n"


@dataclass
class Position:
    """How many steps are behind: the program's own part of a checkpoint."""

    step: int = 0

    def state_dict(self) -> dict[str, Any]:
        """For the checkpoint."""
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """From the checkpoint."""
        self.step = int(state["step"])


class Checkpointer:
    """Saves what it is given as often as the job's `checkpoint.everySeconds` says, and begins with the newest of it.

    Make one on every rank, after `init_process_group` and before the model is wrapped, from the same parts: whatever
    has `state_dict` and `load_state_dict` (models, optimisers, schedulers), by name. All ranks must hold the same
    state; rank 0's is saved. Raises `ValueError` for what is no part, and ends the process when the checkpoints do not
    fit.
    """

    def __init__(self, **parts: Stateful) -> None:
        for name, part in parts.items():
            if not (hasattr(part, "state_dict") and hasattr(part, "load_state_dict")):
                kind = type(part).__name__
                raise ValueError(f"{name}: {kind} has no state_dict and load_state_dict; give something that has")
        if POSITION in parts:
            raise ValueError(f"{POSITION}: this name is taken, choose another")
        self._position, self._stopped = Position(), False
        self._parts: dict[str, Stateful] = {**parts, POSITION: self._position}
        self._events = _events()
        self._place = parse_place(os.environ) if "RANK" in os.environ else Place(0, 0, 1)
        self._group = _group(self._place)
        self._assignment = _assignment()
        self._reporter = _Reporter(self._events, self._position, active=self._place.rank == 0)
        _Reporter.current = self._reporter
        self._saver: Saver | None = None
        self._drain: Drain | None = None
        if self._assignment is not None:
            self._begin(self._assignment)
        elif self._place.rank == 0:
            sys.stderr.write(NOT_SAVED.format("the job has no checkpoint.uri, or this is no dlcloud job"))

    @property
    def step(self) -> int:
        """Steps that are behind."""
        return self._position.step

    def steps(self, total: int) -> Iterator[int]:
        """The numbers of the steps that are left, from the newest checkpoint's on up to `total` - 1.

        Between two of them the state is saved when it is time, and all ranks end together, saved, when the pod is told
        to go (SystemExit, after which the job goes on elsewhere). After the last one the state is saved.
        """
        self._reporter.total = total
        agreement = Agreement[None](self._group)
        while self._position.step < total and not self._stopped:
            yield self._position.step
            self._position.step += 1
            self._reporter.stepped()
            agreed = agreement.exchange(
                stop=self._drain is not None and self._drain.asked, pause=False, loss=None, about=None
            )
            if agreed is not None and agreed.stop:
                agreement.settle()
                self._leave()
            if self._saver is not None and (self._saver.due() or self._saver.pause_due()):
                self._save()
        agreement.settle()
        self._reporter.tell()
        if self._saver is not None:
            self._save(wait=True)
            self._group.barrier()
            self._saver.finish(must_be_saved=True)

    def stop(self) -> None:
        """End after this step, saved: all ranks must call it in the same step."""
        self._stopped = True

    def _begin(self, assignment: Assignment) -> None:
        self._drain = Drain()
        saver = self._saver = Saver(assignment, 0, self._events, active=self._place.rank == 0)
        self._reporter.saver = saver
        saver.begin()
        saver.restore_into(self._parts)
        try:
            self._group.share(saver.restored(), self._parts)
        except Exception as error:
            ending = judge(error, draining=self._drain.asked)
            if not ending.expected:
                raise
            self._events.failed(ending.outcome, ending.message)
            sys.exit(f"{ending.outcome}: {ending.message}")
        self._drain.take_charge()

    def _save(self, *, wait: bool = False) -> None:
        assert self._saver is not None
        self._saver.save(self._parts, step=self._position.step, samples=self._position.step, wait=wait)

    def _leave(self) -> None:
        if self._saver is not None:
            self._save(wait=True)
            self._saver.finish(must_be_saved=False)
        self._events.failed("Drained", f"stopped and saved after step {self._position.step}")
        sys.exit(DRAINED)


def progress(
    *, loss: float | None = None, epoch: int | None = None, epochs: int | None = None, **metrics: float
) -> None:
    """Tell how the training goes: the job's status, `dlcloud top` and the learning curve. Call it as often as you like,
    on any rank: rank 0's counts, and of its calls one in half a second. Other numbers are told by their names."""
    if _Reporter.current is not None:
        _Reporter.current.know(loss, epoch, epochs, metrics)


class _Reporter:
    """Rank 0's progress, and the records of the curve."""

    current: _Reporter | None = None

    def __init__(self, events: Events, position: Position, *, active: bool) -> None:
        self._events, self._position, self._active = events, position, active
        self.total = 0
        self.saver: Saver | None = None
        self._known: dict[str, Any] = {}
        self._metrics: dict[str, float] = {}
        self._told = -EVERY_S

    def know(self, loss: float | None, epoch: int | None, epochs: int | None, metrics: dict[str, float]) -> None:
        """What the program says of the step it is in."""
        if not self._active:
            return
        given = {"loss": loss, "epoch": epoch, "epochs": epochs}
        self._known |= {name: value for name, value in given.items() if value is not None}
        self._metrics |= {name: float(value) for name, value in metrics.items()}
        if self.saver is not None:
            told = {name: value for name, value in given.items() if value is not None}
            self.saver.record("train", step=self._position.step + 1, **told, **metrics)

    def stepped(self) -> None:
        """A step is behind: the progress, at most every half second."""
        if self._active and time.monotonic() - self._told >= EVERY_S:
            self.tell()

    def tell(self) -> None:
        """The progress, now."""
        if not self._active:
            return
        self._told = time.monotonic()
        told = {"step": self._position.step, "totalSteps": self.total, "metrics": self._metrics}
        self._events.progress(told | self._known)


def _events() -> Events:
    descriptor = os.environ.get("DLCLOUD_EVENTS_FD", "")
    return Events(int(descriptor) if descriptor else None)


def _assignment() -> Assignment | None:
    text = os.environ.get("DLCLOUD_ASSIGNMENT")
    if not text:
        return None
    assignment = parse_assignment(text, os.environ.get("DLCLOUD_STORE_CA_FILE") or None)
    return assignment if assignment.job.checkpoint is not None else None


def _group(place: Place) -> Group:
    """Collectives of our own on the CPU, whatever the program's group is for."""
    if place.world_size == 1:
        return Group(place, torch.device("cpu"))
    if not dist.is_initialized():
        raise RuntimeError(
            f"Checkpointer: this is one of {place.world_size} ranks, and they have not met; "
            "call torch.distributed.init_process_group before"
        )
    processes = dist.new_group(backend="gloo", timeout=timedelta(seconds=COLLECTIVE_LIMIT_S))
    return Group(place, torch.device("cpu"), processes=processes)
