"""From a trained task to the files that are handed over, in a folder or below `export/` in the store.

May import torch and the rest of this package; safetensors inside functions. The card is written last: what it does not
list does not exist.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..assignment import ExportPlan
from ..data.splits import Splits
from ..errors import InvalidInput
from ..events import time_text
from ..objects import Objects
from .card import FORMAT, JSON_NAME, MARKDOWN_NAME, Facts, card_json, card_markdown, file_entry, versions
from .exported import Change, Exported, HandsOver, Values
from .onnx_file import TOLERANCE, NotTheSame, Runner, compare, shapes_of, write_onnx
from .quantizing import CALIBRATION_SAMPLES, quantize_dynamic, quantize_static

FOLDER = "export"
ONNX, INT8, WEIGHTS = "model.onnx", "model-int8.onnx", "model.safetensors"
TEST_SAMPLES = 10_000  # at most, of the test set, when int8 is compared with float32
TEST_BATCH = 64


def hand_over(
    task: HandsOver, data: Splits[Any], plan: ExportPlan, facts: Facts, change: Change, store: Objects
) -> dict[str, Any]:
    """Make the files and commit them to the store below `export/`; the card. The task's models must be in evaluation
    mode. Raises `InvalidInput` when the file does not compute what the model does, and the errors of the store."""
    with tempfile.TemporaryDirectory(prefix="export-") as name:
        folder = Path(name)
        card = make(task, data, plan, facts, change, folder)
        commit(folder, card, store)
    return card


def make(
    task: HandsOver, data: Splits[Any], plan: ExportPlan, facts: Facts, change: Change, folder: Path
) -> dict[str, Any]:
    """Write all files and the card, last, into a folder that is there."""
    with torch.no_grad():
        exported = task.exported(data, change)
        card = begin_card(exported, plan, facts)
        files = {WEIGHTS: "weights, by their names in torch"}
        save_weights(exported, folder / WEIGHTS, facts)
        if plan.onnx:
            try:
                write_onnx(exported, folder / ONNX, metadata(exported, card))
                largest = compare(exported, folder / ONNX)
            except NotTheSame as error:
                raise InvalidInput(
                    f"export: {error}; the training is done and saved, its model is not exported"
                ) from None
            shapes = shapes_of(exported.examples)
            card["checked"] = {"tolerance": TOLERANCE, "largestDifference": largest, "shapes": shapes}
            files[ONNX] = "the model in float32, normalisation and all"
        if plan.quantize != "none":
            card["quantized"] = quantize(exported, data, plan.quantize, folder)
            files[INT8] = f"the model in int8, quantised {plan.quantize}"
    card["files"] = [file_entry(folder / name, about) for name, about in files.items()]
    (folder / MARKDOWN_NAME).write_text(card_markdown(card), encoding="utf-8")
    card["files"].append(file_entry(folder / MARKDOWN_NAME, "this card for people"))
    (folder / JSON_NAME).write_bytes(card_json(card))
    return card


def commit(folder: Path, card: Mapping[str, Any], store: Objects) -> None:
    """Put the files, then the card; an older card goes first, because its files are about to change."""
    store.delete(f"{FOLDER}/{JSON_NAME}")
    for entry in card["files"]:
        store.put(f"{FOLDER}/{entry['name']}", (folder / entry["name"]).read_bytes())
    store.put(f"{FOLDER}/{JSON_NAME}", (folder / JSON_NAME).read_bytes())


def begin_card(exported: Exported, plan: ExportPlan, facts: Facts) -> dict[str, Any]:
    """All of the card that is known before there are files."""
    weights = list(exported.weights.parameters())
    return {
        "format": FORMAT,
        **{name: getattr(facts, name) for name in ("name", "namespace", "uid", "workload", "description")},
        "createdAt": time_text(datetime.now(UTC)),
        "step": facts.step,
        "samples": facts.samples,
        "checkpoint": facts.checkpoint,
        "parameters": dict(facts.parameters),
        "data": dict(facts.data),
        "metrics": {part: dict(means) for part, means in facts.metrics.items()},
        "export": asdict(plan),
        "weights": {
            "count": sum(weight.numel() for weight in weights),
            "nonzero": sum(int(weight.count_nonzero()) for weight in weights),
        },
        "inputs": [
            {"name": one.name, "about": one.about, "dtype": dtype_of(value), "shape": shape_of(one.dynamic, value)}
            for one, value in zip(exported.inputs, exported.examples[0], strict=True)
        ],
        "output": {"name": exported.output, "about": exported.output_about},
        "classes": list(exported.labels),
        "versions": versions(),
    }


def metadata(exported: Exported, card: Mapping[str, Any]) -> dict[str, str]:
    """The model's metadata_props: text as it is, all else JSON."""
    told = {
        name: card[name] for name in ("name", "workload", "description", "parameters", "inputs", "output", "versions")
    }
    told |= {"classes": list(exported.labels), "vocabulary": list(exported.vocabulary), "data": card["data"]}
    told |= {"metrics": card["metrics"], "createdAt": card["createdAt"]}
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in told.items()
        if value not in ([], "")
    }


def save_weights(exported: Exported, path: Path, facts: Facts) -> None:
    """A safetensors file of the weights, on the CPU."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in exported.weights.state_dict().items()}
    save_file(tensors, path, {"format": "pt", "workload": facts.workload, "step": str(facts.step)})


def quantize(exported: Exported, data: Splits[Any], kind: str, folder: Path) -> dict[str, Any]:
    """Write the int8 file; what it costs: the largest difference from float32 and, of a classifier, its accuracy."""
    source, target = folder / ONNX, folder / INT8
    count = len(exported.inputs)
    if kind == "static":
        quantize_static(source, target, Runner(source).names, spread(data.train, CALIBRATION_SAMPLES)[:count])
    else:
        quantize_dynamic(source, target)
    whole, small = Runner(source), Runner(target)
    cost: dict[str, Any] = {"kind": kind}
    differences = [float((whole(values) - small(values)).abs().max()) for values in exported.examples]
    cost["largestDifference"] = max(differences)
    if exported.labels:
        chosen = spread(data.test, TEST_SAMPLES)
        cost |= {
            "samples": len(chosen[0]),
            "accuracyFloat32": accuracy(whole, chosen),
            "accuracy": accuracy(small, chosen),
        }
    return cost


def spread(part: Values, most: int) -> Values:
    """At most so many samples, evenly over all."""
    chosen = torch.linspace(0, len(part[0]) - 1, min(most, len(part[0]))).long()
    return tuple(tensor.cpu()[chosen] for tensor in part)


def accuracy(run: Runner, part: Values) -> float:
    """Part of the samples whose largest probability is at their label, the last of their tensors."""
    *inputs, labels = part
    right = 0
    for start in range(0, len(labels), TEST_BATCH):
        answer = run(tuple(tensor[start : start + TEST_BATCH] for tensor in inputs)).argmax(1)
        right += int((answer == labels[start : start + TEST_BATCH]).sum())
    return right / len(labels)


def dtype_of(value: Tensor) -> str:
    """`uint8`."""
    return str(value.dtype).removeprefix("torch.")


def shape_of(dynamic: Mapping[int, str], value: Tensor) -> list[int | str]:
    """The shape, with names for the axes of any size."""
    return [dynamic.get(axis, size) for axis, size in enumerate(value.shape)]
