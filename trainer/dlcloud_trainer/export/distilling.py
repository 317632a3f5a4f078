"""A teacher: another job's classifier, whose scores a model learns beside the labels.

May import torch, the workloads and checkpoint's readers. Rank 0 reads the teacher, the others get it from it; it is
never part of a checkpoint. Method: https://arxiv.org/abs/1503.02531.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..assignment import DistillPlan, StoreAddress
from ..checkpoint.restore import Found, Reading
from ..checkpoint.resume import foreign_lineage
from ..checkpoint.settings import in_memory
from ..classification import Classifier
from ..data.splits import Normalisation, Splits
from ..distributed import Group
from ..errors import InvalidInput
from ..finetune import weights_of
from ..objects import Objects, open_objects
from ..parameters import parse_parameters
from ..patience import Patience
from ..workloads import find_workload

WHAT = "export.distill.teacher"


class Teacher:
    """Adds to a classifier's loss how far its scores are from the teacher's. `own` is how the classifier's data are
    normalised, `its` how the teacher's were."""

    def __init__(self, model: nn.Module, plan: DistillPlan, own: Normalisation, its: Normalisation) -> None:
        self.model = model.eval().requires_grad_(False)
        self._temperature, self._weight = plan.temperature, plan.weight
        self._own, self._its = own, its

    def blend(self, loss: Tensor, scores: Tensor, inputs: tuple[Tensor, ...]) -> Tensor:
        """`loss` of the labels (summed over samples) and the divergence from the teacher's answers to the same inputs,
        times the temperature squared, so that both gradients are of one size."""
        t = self._temperature
        with torch.no_grad():
            wanted: Tensor = self.model(*self._as_its(inputs)).float()
        distance = functional.kl_div(
            functional.log_softmax(scores.float() / t, 1),
            functional.log_softmax(wanted / t, 1),
            reduction="sum",
            log_target=True,
        )
        return (1 - self._weight) * loss + self._weight * t * t * distance

    def _as_its(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Images, which are what is normalised, as the teacher's were."""
        if self._own == self._its:
            return inputs
        images, *others = inputs
        mean, deviation, its_mean, its_deviation = (
            images.new_tensor(values).view(-1, 1, 1) for values in (*self._own, *self._its)
        )
        return (images * (deviation / its_deviation) + (mean - its_mean) / its_deviation, *others)


def find_teacher(
    plan: DistillPlan,
    data: Splits[Any],
    store: StoreAddress,
    group: Group,
    device: torch.device,
    patience: Patience,
    warn: Callable[[str], None],
) -> Teacher:
    """The teacher on every rank, from the newest sound checkpoint `plan.teacher` leads to. Raises `InvalidInput` for
    one that does not fit, and what reading a checkpoint raises."""
    found: Found | None = None
    told = b""
    if group.rank == 0:
        found = patience.insist("its teacher", lambda: read_teacher(plan.teacher, store, warn))
        check_fit(found, data, plan.teacher)
        saved = found.manifest.state.get("about")
        its = saved["normalisation"] if isinstance(saved, dict) else data.normalisation
        about = {
            "workload": found.manifest.workload,
            "parameters": dict(found.manifest.parameters),
            "normalisation": its,
        }
        told = json.dumps(about).encode()
    about = json.loads(group.tell(told))
    model = build(about["workload"], about["parameters"], data, device)
    if found is not None:
        take_weights(model, weights_of("model", found.tensors), plan.teacher)
    group.hand_out(model)
    mean, deviation = (tuple(values) for values in about["normalisation"])
    return Teacher(model, plan, data.normalisation, (mean, deviation))


def read_teacher(uri: str, store: StoreAddress, warn: Callable[[str], None]) -> Found:
    """The checkpoint with its tensors in memory."""

    def open_store(where: str, what: str) -> Objects:
        return open_objects(where, endpoint=store.endpoint, region=store.region, ca_file=store.ca_file, what=what)

    return Reading(foreign_lineage(uri, open_store, WHAT), warn).into(in_memory)


def check_fit(found: Found, data: Splits[Any], uri: str) -> None:
    """Raises `InvalidInput` for a teacher that knows other classes than the data has."""
    about = found.manifest.state.get("about")
    words = found.manifest.state.get("vocabulary")
    if isinstance(words, dict) and tuple(words.get("words", ())) != data.vocabulary:
        raise InvalidInput(
            f"{WHAT}: {uri!r} was trained with another vocabulary; give a teacher of the same data and vocabulary"
        )
    classes = about.get("classes") if isinstance(about, dict) else None
    if classes is not None and list(classes) != list(data.classes):
        raise InvalidInput(
            f"{WHAT}: {uri!r} tells {len(classes)} classes apart ({', '.join(map(str, classes[:3]))} ...), the data "
            f"has {len(data.classes)}; give a teacher of the same data set"
        )


def take_weights(model: nn.Module, saved: Mapping[str, Tensor], uri: str) -> None:
    """Copy the saved weights into the model. Raises `InvalidInput` where one does not fit."""
    own: dict[str, Tensor] = model.state_dict()
    for key, tensor in own.items():
        if key not in saved or saved[key].shape != tensor.shape:
            there = f"one of {list(saved[key].shape)}" if key in saved else "none"
            raise InvalidInput(
                f"{WHAT}: for this data its {key} is {list(tensor.shape)}, and {uri!r} has {there}; give a teacher "
                "that was trained on data of the same kind"
            )
    with torch.no_grad():
        for key, tensor in own.items():
            tensor.copy_(saved[key])


def build(workload: str, given: dict[str, Any], data: Splits[Any], device: torch.device) -> nn.Module:
    """The teacher's model, with fresh weights. Raises `InvalidInput` for a workload that is no classifier."""
    module = find_workload(workload)
    task = module.make_task(parse_parameters(module, given), data, device)
    if not isinstance(task, Classifier):
        raise InvalidInput(f"{WHAT}: {workload} is no classifier and has no scores to learn; give one that is")
    return task.model
