"""What a job measured, from the JSON lines below its prefix (docs/protocol.md, section 4).

May import the objects module. Reading is forgiving: a line that is cut off or unknown is left out, never an error.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from .objects import Reader

METRICS_PREFIX = "metrics/"
KINDS = ("train", "validation", "test")
_PART = re.compile(r"^metrics/(\d+)/(\d+)\.jsonl$")
_PLACES = ("epoch", "samples")  # where a record belongs, nothing that was measured
_THREADS = 8


@dataclass(frozen=True)
class Record:
    """One measurement; `values` holds its finite numbers (`loss`, `accuracy` ...)."""

    kind: str
    round: int
    step: int
    values: Mapping[str, float] = field(default_factory=dict)
    at: datetime | None = None


@dataclass(frozen=True, order=True)
class Metric:
    """Something measured: `Metric("validation", "accuracy")`."""

    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}.{self.name}"


def parse_part(round_number: int, data: bytes) -> list[Record]:
    """The records of one part; lines that are no record are left out."""
    records = []
    for line in data.splitlines():
        try:
            fields = json.loads(line)
        except ValueError:
            continue
        if isinstance(fields, dict) and (record := _record(round_number, fields)):
            records.append(record)
    return records


def _record(round_number: int, fields: dict[str, Any]) -> Record | None:
    kind, step = fields.get("kind"), fields.get("step")
    if kind not in KINDS or not isinstance(step, int) or isinstance(step, bool):
        return None
    values = {
        key: float(value)
        for key, value in fields.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and key != "step"
    }
    return Record(str(kind), round_number, step, values, _time(fields.get("time")))


def _time(text: Any) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return found if found.tzinfo is not None else None


def merge(records: Iterable[Record]) -> list[Record]:
    """One record for each kind and step, by step: a later round's replaces an earlier one's."""
    newest: dict[tuple[str, int], Record] = {}
    for record in records:
        held = newest.get((record.kind, record.step))
        if held is None or record.round >= held.round:
            newest[record.kind, record.step] = record
    return sorted(newest.values(), key=lambda record: (record.step, KINDS.index(record.kind)))


def restarts(records: Iterable[Record]) -> list[int]:
    """The first step that each round after the first trained, by round."""
    first: dict[int, int] = {}
    for record in records:
        if record.kind == "train":
            first[record.round] = min(record.step, first.get(record.round, record.step))
    return [first[number] for number in sorted(first)[1:]]


def metrics_of(records: Iterable[Record]) -> list[Metric]:
    """All that was measured, training first."""
    found = {Metric(record.kind, name) for record in records for name in record.values if name not in _PLACES}
    return sorted(found, key=lambda metric: (KINDS.index(metric.kind), metric.name))


def find_metric(word: str, known: Iterable[Metric]) -> Metric | None:
    """What a user means by `loss`, `accuracy`, `validationLoss`, `test.accuracy`: a loss is the training's, all else
    the validation's, where both are there."""
    order = KINDS if _plain(word) == "loss" else ("validation", "train", "test")
    by_kind = sorted(known, key=lambda metric: order.index(metric.kind))
    for metric in by_kind:
        if _plain(metric.kind + metric.name) == _plain(word):
            return metric
    return next((metric for metric in by_kind if _plain(metric.name) == _plain(word)), None)


def _plain(text: str) -> str:
    return "".join(c for c in text.lower() if c.isalnum())


class MetricsReader:
    """The records of a job as they come: a part is read when it is new or has grown, and not again."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._sizes: dict[str, int] = {}
        self._parts: dict[str, list[Record]] = {}

    def records(self) -> list[Record]:
        """All records of all rounds by now, as written. Raises StoreError."""
        found = {i.key: i.size_bytes for i in self._reader.list(METRICS_PREFIX) if _PART.match(i.key)}
        new = [key for key, size in found.items() if self._sizes.get(key) != size]
        with ThreadPoolExecutor(_THREADS) as pool:
            for key, data in zip(new, pool.map(self._reader.read, new), strict=True):
                match = _PART.match(key)
                if match and data is not None:
                    self._parts[key] = parse_part(int(match[1]), data)
                    self._sizes[key] = found[key]
        return [record for key in sorted(self._parts) for record in self._parts[key]]


def read_records(reader: Reader) -> list[Record]:
    """All records of all rounds, as written. Raises StoreError."""
    return MetricsReader(reader).records()
