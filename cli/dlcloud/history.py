"""What lies on the store of a job: its kept checkpoints and its learning curve.

May import the objects, metrics and curve modules. Reads only; what is missing or damaged is left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from .curve import Curve, make_curve
from .metrics import Record, find_metric, metrics_of
from .objects import Reader

DEFAULT_METRICS = ("loss", "accuracy")


@dataclass(frozen=True)
class SavedCheckpoint:
    """One checkpoint that head.json lists."""

    step: int
    round: int
    manifest: str  # its key below the job's prefix
    size_bytes: int
    created_at: datetime | None
    metric: float | None = None
    pinned: bool = False


@dataclass(frozen=True)
class ListedCheckpoint:
    """What head.json says of a checkpoint; `size_bytes` and `created_at` are its manifest's, None when that cannot be
    read."""

    step: int
    round: int
    manifest: str  # its key below the job's prefix
    metric: float | None = None
    pinned: bool = False
    size_bytes: int | None = None
    created_at: datetime | None = None


def read_head(reader: Reader) -> list[ListedCheckpoint] | None:
    """What head.json lists, newest first, without a look at the manifests; [] without a head, None when it is damaged.
    Raises StoreError."""
    data = reader.read("head.json")
    if data is None:
        return []
    entries = _json(data).get("checkpoints")
    if not isinstance(entries, list):
        return None
    try:
        return [
            ListedCheckpoint(
                int(entry["step"]), int(entry["round"]), str(entry["manifest"]), entry.get("metric"),
                bool(entry.get("pinned")),
            )
            for entry in entries
        ]  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def read_listed(reader: Reader, entry: ListedCheckpoint) -> ListedCheckpoint:
    """The entry with size and time from its manifest. Raises StoreError."""
    manifest = _json(reader.read(entry.manifest))
    if not manifest:
        return entry
    return replace(entry, size_bytes=int(manifest.get("sizeBytes") or 0), created_at=_time(manifest.get("createdAt")))


def read_checkpoints(reader: Reader) -> list[SavedCheckpoint]:
    """The checkpoints that can be resumed from, newest first. Raises StoreError."""
    head = _json(reader.read("head.json"))
    found = []
    for entry in head.get("checkpoints", []):
        manifest = _json(reader.read(str(entry.get("manifest", ""))))
        if manifest:
            found.append(
                SavedCheckpoint(
                    step=int(entry["step"]),
                    round=int(entry["round"]),
                    manifest=str(entry["manifest"]),
                    size_bytes=int(manifest.get("sizeBytes") or 0),
                    created_at=_time(manifest.get("createdAt")),
                    metric=entry.get("metric"),
                    pinned=bool(entry.get("pinned")),
                )
            )
    return found


def head_round(reader: Reader) -> int:
    """The round that owns the job's objects; 0 when there are none. Raises StoreError."""
    number = _json(reader.read("head.json")).get("round")
    return number if isinstance(number, int) else 0


def curve_of(records: Sequence[Record], checkpoints: Sequence[SavedCheckpoint], name: str = "") -> Curve:
    """The learning curve of all rounds together: the training's loss and, where measured, an accuracy."""
    known = metrics_of(records)
    wanted = [metric for word in DEFAULT_METRICS if (metric := find_metric(word, known))]
    return make_curve(name, records, wanted, [checkpoint.step for checkpoint in checkpoints])


def _json(data: bytes | None) -> dict[str, Any]:
    try:
        value = json.loads(data) if data else None
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {}


def _time(text: object) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return None
