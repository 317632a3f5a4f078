"""The answer of one `plan` while it is written: the status as it will be, and what has to happen then.

May import api and the core's model. Decides nothing; it puts the actions in their order.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from dlcloud_operator.api import TrainingJobStatus

from .model import Action, CreatePod, DeletePod, Emit, JobView, PodView, Wake, WriteStatus


class Draft:
    """Collects one plan's decisions; `status` always holds what was decided so far."""

    def __init__(self, job: JobView, now: datetime) -> None:
        self._before = job.status
        self._now = now
        self.generation = job.generation
        self.status = job.status
        self._creates: list[CreatePod] = []
        self._deletes: dict[str, DeletePod] = {}
        self._events: list[Emit] = []
        self._wakes: list[datetime] = []

    def update(self, **changes: Any) -> None:
        """Change fields of the status."""
        self.status = self.status.model_copy(update=changes)

    def remember(self, **changes: Any) -> None:
        """Change fields of the status' `recovery`."""
        self.update(recovery=self.status.recovery.model_copy(update=changes))

    def create(self, index: int, incarnation: int) -> None:
        """Have a pod made; its incarnation must stand in the status."""
        self._creates.append(CreatePod(index, incarnation))

    def delete(self, pod: PodView, grace_s: int | None = None) -> None:
        """Have a pod deleted, once; the first reason decides its grace."""
        self._deletes.setdefault(pod.uid, DeletePod(pod.name, pod.uid, grace_s))

    def emit(self, reason: str, message: str, warning: bool = False) -> None:
        """Tell the user, together with a change of the status: only so it is told once."""
        self._events.append(Emit(reason, message[:1024], warning))

    def wake(self, at: datetime | None) -> None:
        """Plan again at this time; the earliest one in the future counts."""
        if at is not None and at > self._now:
            self._wakes.append(at)

    def actions(self) -> list[Action]:
        """The status first, since all else follows from it; room is made before pods are created."""
        actions: list[Action] = []
        if self.status != self._before:
            after, before = _without_progress(self.status), _without_progress(self._before)
            said = after != before and _without_words(after) == _without_words(before)
            actions.append(WriteStatus(self.status, urgent=after != before and not said, said=said))
        actions += self._deletes.values()
        actions += self._creates
        actions += self._events
        if self._wakes:
            actions.append(Wake(min(self._wakes)))
        return actions


def _without_progress(status: TrainingJobStatus) -> TrainingJobStatus:
    recovery = status.recovery.model_copy(update={"furthest_step": 0})
    return status.model_copy(update={"progress": None, "checkpoint": None, "recovery": recovery})


def _without_words(status: TrainingJobStatus) -> TrainingJobStatus:
    truths = [condition.model_copy(update={"reason": "", "message": ""}) for condition in status.conditions]
    return status.model_copy(update={"message": "", "conditions": truths})
