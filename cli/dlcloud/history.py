"""What lies on the store of a job: its kept checkpoints and its learning curve.

May import the objects, metrics and curve modules. Reads only; what is missing or damaged is left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .curve import Curve
from .metrics import Record, merge, restarts
from .objects import Reader


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


def curve_of(records: Sequence[Record], checkpoints: Sequence[SavedCheckpoint]) -> Curve:
    """The learning curve of all rounds together."""
    merged = merge(records)

    def series(kind: str, name: str) -> list[tuple[float, float]]:
        return [(r.step, r.values[name]) for r in merged if r.kind == kind and name in r.values]

    return Curve(
        loss=series("train", "loss"),
        accuracy=series("validation", "accuracy"),
        restarts=restarts(records),
        checkpoints=[checkpoint.step for checkpoint in checkpoints],
    )


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
