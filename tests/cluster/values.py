"""The chart's values for a cluster: images that its nodes have. `chart_values`, `write_values`.

May import this package's place.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from .images import Images

FILE = "values.yaml"


def image_value(name: str) -> dict[str, str]:
    """An image as the chart takes it; never pulled where a node has it."""
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        repository, tag = name, "latest"
    return {"repository": repository, "tag": tag, "pullPolicy": "IfNotPresent"}


def chart_values(images: Images) -> dict[str, Any]:
    """For `helm install --values`: the images, and no more."""
    return {
        "image": image_value(images.operator),
        "trainerImage": image_value(images.trainer),
        "s3": {"seaweedfs": {"image": image_value(images.s3)}},
    }


def write_values(folder: Path, images: Images) -> Path:
    """Write them for helm; appears at once. Returns the file."""
    path = folder / FILE
    new = path.with_suffix(".new")
    new.write_text(yaml.safe_dump(chart_values(images), sort_keys=False))
    return new.replace(path)
