"""The model card: what was handed over, what it was made of, and how good it is; as JSON and Markdown.

May import the standard library. Pure but for `versions`: what is written is given.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

FORMAT = 1
JSON_NAME, MARKDOWN_NAME = "model-card.json", "model-card.md"
COMMIT = "DLCLOUD_COMMIT"  # set in an image that was built from a repository
PACKAGES = ("torch", "onnx", "onnxruntime", "safetensors")


@dataclass(frozen=True)
class Facts:
    """Where a model comes from. `metrics` by the part of the data: validation, test."""

    name: str
    namespace: str
    uid: str
    workload: str
    description: str
    parameters: Mapping[str, Any]
    step: int
    samples: int
    checkpoint: str  # URI of the job's prefix, or of a manifest
    metrics: Mapping[str, Mapping[str, float]]
    data: Mapping[str, Any]  # uri, sha256, samples by part


def versions() -> dict[str, str]:
    """Of Python, of dlcloud and of what wrote the files; "" for what is not installed."""
    found = {"python": platform.python_version(), "dlcloud": installed("dlcloud")}
    return found | {name: installed(name) for name in PACKAGES} | {"commit": os.environ.get(COMMIT, "")}


def installed(name: str) -> str:
    """The version of a distribution."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def file_entry(path: Path, about: str) -> dict[str, Any]:
    """A file as the card lists it."""
    data = path.read_bytes()
    return {"name": path.name, "about": about, "sizeBytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def card_json(card: Mapping[str, Any]) -> bytes:
    """The card as a file."""
    return json.dumps(card, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def card_markdown(card: Mapping[str, Any]) -> str:
    """The card for people."""
    data, made = card["data"], card["versions"]
    lines = [f"# {card['name']}: {card['workload']}", "", card["description"], ""]
    lines += ["## How good it is", "", *_metrics(card["metrics"]), ""]
    if card.get("quantized"):
        lines += [_quantized(card["quantized"]), ""]
    lines += ["## How it is used", "", "| | name | what |", "| --- | --- | --- |"]
    lines += [f"| input | `{one['name']}` | {one['about']} |" for one in card["inputs"]]
    lines += [f"| output | `{card['output']['name']}` | {card['output']['about']} |", ""]
    if card["classes"]:
        lines += [f"Classes, by index: {', '.join(card['classes'])}.", ""]
    lines += ["## Files", "", "| file | what | bytes | SHA-256 |", "| --- | --- | --- | --- |"]
    lines += [f"| {one['name']} | {one['about']} | {one['sizeBytes']:,} | `{one['sha256']}` |" for one in card["files"]]
    lines += ["", *_checked(card), "## What it was made of", "", "| | |", "| --- | --- |"]
    lines += [f"| {name} | {value} |" for name, value in _origin(card, data)]
    lines += [f"| {name} | {value or 'unknown'} |" for name, value in made.items()]
    lines += ["", "## Parameters", "", "| parameter | value |", "| --- | --- |"]
    lines += [f"| {name} | `{json.dumps(value)}` |" for name, value in sorted(card["parameters"].items())]
    return "\n".join(lines) + "\n"


def _metrics(metrics: Mapping[str, Mapping[str, float]]) -> list[str]:
    names = sorted({name for part in metrics.values() for name in part})
    if not names:
        return ["Nothing was measured."]
    lines = ["| | " + " | ".join(metrics) + " |", "| --- |" + " --- |" * len(metrics)]
    for name in names:
        cells = [f"{part[name]:.5g}" if name in part else "" for part in metrics.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _quantized(quantized: Mapping[str, Any]) -> str:
    text = f"Quantised ({quantized['kind']}): largest difference from float32 {quantized['largestDifference']:.2g}"
    if "accuracy" in quantized:
        text += (
            f"; accuracy {quantized['accuracy']:.4f} instead of {quantized['accuracyFloat32']:.4f} on "
            f"{quantized['samples']:,} test samples"
        )
    return text + "."


def _checked(card: Mapping[str, Any]) -> list[str]:
    checked = card.get("checked")
    if not checked:
        return []
    sizes = ", ".join(str(shapes[0]) for shapes in checked["shapes"])
    return [
        f"The ONNX file was compared with torch on inputs of {sizes}: largest difference "
        f"{checked['largestDifference']:.2g}, allowed {checked['tolerance']:g}.",
        "",
    ]


def _origin(card: Mapping[str, Any], data: Mapping[str, Any]) -> list[tuple[str, str]]:
    samples = ", ".join(f"{name} {count:,}" for name, count in data.get("samples", {}).items())
    return [
        ("date", card["createdAt"]),
        ("data", f"{data['uri']} ({samples})"),
        ("data SHA-256", data["sha256"] or "not read"),
        ("checkpoint", f"{card['checkpoint']} (step {card['step']:,})"),
        ("weights", f"{card['weights']['count']:,}, of them {card['weights']['nonzero']:,} not 0"),
        ("compression", json.dumps(card["export"])),
    ]
