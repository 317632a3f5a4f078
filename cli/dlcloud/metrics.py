"""What a job measured, from the JSON lines below its prefix (docs/protocol.md, section 4).

May import the objects module. Reading is forgiving: a line that is cut off or unknown is left out, never an error.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .objects import Reader

METRICS_PREFIX = "metrics/"
_PART = re.compile(r"^metrics/(\d+)/(\d+)\.jsonl$")
_KINDS = ("train", "validation", "test")


@dataclass(frozen=True)
class Record:
    """One measurement; `values` holds its finite numbers (`loss`, `accuracy` ...)."""

    kind: str
    round: int
    step: int
    values: Mapping[str, float] = field(default_factory=dict)


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
    if kind not in _KINDS or not isinstance(step, int) or isinstance(step, bool):
        return None
    values = {
        key: float(value)
        for key, value in fields.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and key != "step"
    }
    return Record(str(kind), round_number, step, values)


def merge(records: Iterable[Record]) -> list[Record]:
    """One record for each kind and step, by step: a later round's replaces an earlier one's."""
    newest: dict[tuple[str, int], Record] = {}
    for record in records:
        held = newest.get((record.kind, record.step))
        if held is None or record.round >= held.round:
            newest[record.kind, record.step] = record
    return sorted(newest.values(), key=lambda record: (record.step, _KINDS.index(record.kind)))


def restarts(records: Iterable[Record]) -> list[int]:
    """The first step that each round after the first trained, by round."""
    first: dict[int, int] = {}
    for record in records:
        if record.kind == "train":
            first[record.round] = min(record.step, first.get(record.round, record.step))
    return [first[number] for number in sorted(first)[1:]]


def read_records(reader: Reader) -> list[Record]:
    """All records of all rounds, as written. Raises StoreError."""
    records: list[Record] = []
    for info in reader.list(METRICS_PREFIX):
        match = _PART.match(info.key)
        data = reader.read(info.key) if match else None
        if match and data:
            records += parse_part(int(match[1]), data)
    return records
