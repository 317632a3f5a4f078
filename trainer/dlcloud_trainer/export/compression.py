"""What a job's `export` changes of its training: refused first, then a teacher, and pruning after the last epoch.

May import the rest of this package but its tool. The loop asks; a job without `export` gets answers that change
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from ..assignment import ExportPlan, StoreAddress
from ..checkpoint import Stateful
from ..classification import Classifier
from ..data.splits import Splits
from ..distributed import Group
from ..errors import InvalidInput
from ..parameters import TrainingParameters
from ..patience import Patience
from ..schedules import learning_rate
from ..supervised import Supervised
from ..workload import Task
from .distilling import find_teacher
from .exported import REFUSABLE, HandsOver
from .pruning import PART, Pruning

FINE_TUNING = 0.2  # of the learning rate, after pruning


class Compression:
    """One training's; raises `InvalidInput` for what does not go with the workload."""

    def __init__(self, plan: ExportPlan | None, workload: str, task: Task, parameters: TrainingParameters) -> None:
        self.plan, self._parameters, self._task = plan, parameters, task
        self.pruning: Pruning | None = None
        if plan is None:
            return
        refuse(plan, workload, task, parameters)
        if plan.prune is not None:
            assert isinstance(task, Supervised)
            copies = () if task.average is None else (task.average.model,)
            self.pruning = task.pruning = Pruning(plan.prune, task.model, copies)

    @property
    def parts(self) -> dict[str, Stateful]:
        """For the checkpoint."""
        return {} if self.pruning is None else {PART: self.pruning}

    @property
    def epochs(self) -> int:
        """Those that come after the parameters' own."""
        return self.plan.prune.epochs if self.plan is not None and self.plan.prune is not None else 0

    def teach(
        self,
        data: Splits[Any],
        store: StoreAddress,
        group: Group,
        device: torch.device,
        patience: Patience,
        warn: Callable[[str], None],
    ) -> None:
        """Give the model its teacher, where it has one. Every rank takes part."""
        if self.plan is not None and self.plan.distill is not None:
            assert isinstance(self._task, Classifier)
            self._task.teacher = find_teacher(self.plan.distill, data, store, group, device, patience, warn)

    def begin_epoch(self, epoch: int) -> None:
        """`epoch` epochs are behind: prune after the last of the parameters' own. No collective."""
        if self.pruning is not None and epoch >= self._parameters.epochs:
            self.pruning.apply()

    def rate(self, samples: int, per_epoch: int) -> float:
        """The learning rate after so many samples; fine-tuning has a schedule of its own, a fifth as high."""
        usual = self._parameters.epochs * per_epoch
        if samples < usual:
            return learning_rate(self._parameters, samples / usual)
        return FINE_TUNING * learning_rate(self._parameters, (samples - usual) / (self.epochs * per_epoch))

    def smaller(self, model: nn.Module) -> nn.Module:
        """A copy on the CPU, as it is handed over."""
        return deepcopy(model).cpu() if self.pruning is None else self.pruning.smaller(model)


def refuse(plan: ExportPlan, workload: str, task: Task, parameters: TrainingParameters) -> None:
    """Raises `InvalidInput` for what the task cannot do, in its own words."""
    if not isinstance(task, HandsOver):
        raise InvalidInput(f"export: {workload} has no model that could be exported; leave export out")
    asked = {
        f"quantize: {plan.quantize}": plan.quantize != "none",
        "prune": plan.prune is not None,
        "distill": plan.distill is not None,
    }
    reasons: Mapping[str, str] = task.refused_exports
    for what in REFUSABLE:
        if asked.get(what) and what in reasons:
            raise InvalidInput(f"export.{what}: it does not go with {workload}: {reasons[what]}")
    if plan.prune is not None and not isinstance(task, Supervised):
        raise InvalidInput(f"export.prune: {workload} trains more than one model; leave it out")
    if plan.distill is not None and not isinstance(task, Classifier):
        raise InvalidInput(f"export.distill: {workload} is no classifier, it has no scores; leave it out")
    if plan.prune is not None and parameters.patience:
        raise InvalidInput(
            "export.prune: pruning comes after the last epoch, and parameters.patience may end the training before; "
            "give epochs without patience"
        )
