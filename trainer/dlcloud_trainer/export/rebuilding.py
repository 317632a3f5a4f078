"""From a checkpoint in a store back to a task that can be handed over, without the job that wrote it.

May import torch, the workloads, checkpoint's readers and the checkpoint tool's choosing. Reads only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..assignment import PrunePlan, StoreAddress
from ..checkpoint.errors import Damaged
from ..checkpoint.layout import Manifest
from ..checkpoint.plain import decode
from ..checkpoint.restore import Lineage, Reading
from ..checkpoint.settings import in_memory
from ..checkpoint_tool.choosing import choose, read_head
from ..checkpoint_tool.lines import ToolError
from ..data.splits import Splits
from ..errors import InvalidInput
from ..judging import models, set_training
from ..objects import ObjectMissing, Objects, StoreUnusable
from ..parameters import TrainingParameters, parse_parameters
from ..supervised import Supervised
from ..workload import Task, Workload
from ..workloads import find_workload
from .about import PART as ABOUT
from .about import blank, data_hash
from .card import Facts
from .ending import counts
from .pruning import PART as PRUNING
from .pruning import Pruning

VOCABULARY = "vocabulary"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Saved:
    """A checkpoint with its tensors, and the workload that it belongs to."""

    key: str
    manifest: Manifest
    tensors: Mapping[str, Tensor]
    workload: Workload
    parameters: TrainingParameters

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """The model's words, where it reads words."""
        words = self.manifest.state.get(VOCABULARY)
        return tuple(words["words"]) if isinstance(words, dict) else ()


def read_saved(objects: Objects, word: str) -> Saved:
    """The checkpoint that `word` means (a step, latest, best). Raises ToolError, and the errors of the store."""
    entry = choose(read_head(objects).checkpoints, word)[0]

    def nothing(damage: Damaged) -> Exception:
        return ToolError(f"{damage}; take another one")

    found = Reading(Lineage(objects, (entry,), nothing), lambda text: None).into(in_memory)
    manifest = found.manifest
    if not manifest.workload:
        raise ToolError("a script wrote this checkpoint, and only built-in workloads can be exported; see "
                        "`dlcloud checkpoints get`", usage=True)  # fmt: skip
    workload = find_workload(manifest.workload)
    return Saved(entry.manifest, manifest, found.tensors, workload, parse_parameters(workload, manifest.parameters))


def find_data(saved: Saved, uri: str, store: StoreAddress, *, needed: str, say: Say) -> tuple[Splits[Any], bool]:
    """The data of a checkpoint, from `uri` or from where its job had it, and whether it was read: without it, made-up
    samples do, if nothing `needed` says what for. Raises ToolError."""
    about = saved.manifest.state.get(ABOUT)
    where = uri or (str(about["dataUri"]) if isinstance(about, dict) else "")
    problem = "the checkpoint does not say where its data is"
    if where:
        try:
            data = saved.workload.load_data(where, store, saved.parameters)
        except (InvalidInput, StoreUnusable, ObjectMissing, OSError) as error:
            problem = str(error)
        else:
            if not saved.vocabulary or data.vocabulary == saved.vocabulary:
                return data, True
            problem = f"{where} has other words than the model was trained on"
    if needed or uri or not isinstance(about, dict):
        why = f"{needed} needs it; " if needed else ""
        raise ToolError(f"the training data cannot be read ({problem}); {why}give --data URI", usage=True)
    say(f"the training data cannot be read ({problem}): its hash is left out of the card")
    return blank(about, saved.vocabulary), False


def rebuild(saved: Saved, data: Splits[Any]) -> tuple[Task, Pruning | None]:
    """The task with the checkpoint's weights, in evaluation mode; and how its model was pruned. Raises ToolError for
    weights that do not fit."""
    task = saved.workload.make_task(saved.parameters, data, torch.device("cpu"))
    for name, model in models(task).items():
        take(model, name, saved.tensors)
    set_training(task, False)
    state = saved.manifest.state.get(PRUNING)
    if state is None or not isinstance(task, Supervised):
        return task, None
    decoded = decode(state, saved.tensors)
    copies = () if task.average is None else (task.average.model,)
    pruning = Pruning(PrunePlan(**decoded["plan"]), task.model, copies)
    pruning.load_state_dict(decoded)
    return task, pruning if pruning.done else None


@torch.no_grad()
def take(model: nn.Module, name: str, tensors: Mapping[str, Tensor]) -> None:
    """Copy a part's tensors into its module."""
    for key, own in model.state_dict().items():
        there = tensors.get(f"{name}.{key}")
        if there is None or there.shape != own.shape:
            found = "none" if there is None else f"one of {list(there.shape)}"
            raise ToolError(f"{name}.{key} is {list(own.shape)} for this data, the checkpoint has {found}; give the "
                            "--data that it was trained on", usage=True)  # fmt: skip
        own.copy_(there)


def facts_of(saved: Saved, objects: Objects, data: Splits[Any], uri: str, *, read: bool) -> Facts:
    """What the card says, from the manifest and the job's records."""
    manifest = saved.manifest
    namespace, name, uid = ["", "", "", *objects.uri().rstrip("/").split("/")][-3:]
    about = manifest.state.get(ABOUT)
    return Facts(
        name=name,
        namespace=namespace,
        uid=uid,
        workload=manifest.workload,
        description=saved.workload.DESCRIPTION,
        parameters=saved.parameters.model_dump(mode="json", by_alias=True),
        step=manifest.step,
        samples=manifest.samples,
        checkpoint=objects.uri(saved.key),
        metrics=measured(objects, manifest.step),
        data={
            "uri": uri or (about["dataUri"] if isinstance(about, dict) else ""),
            "sha256": data_hash(data) if read else "",
            "samples": counts(data) if read else {},
        },
    )


def measured(objects: Objects, step: int) -> dict[str, dict[str, float]]:
    """What the job recorded of validation and test at this step, by part; the last round's counts."""
    found: dict[str, dict[str, float]] = {}
    for key in objects.list("metrics"):
        for line in objects.get(key).splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and record.get("step") == step and record.get("kind") in ("validation", "test"):
                found[record["kind"]] = {
                    name: float(value)
                    for name, value in record.items()
                    if isinstance(value, int | float) and name not in ("step", "epoch", "samples")
                }
    return found
