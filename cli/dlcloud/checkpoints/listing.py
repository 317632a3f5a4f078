"""`dlcloud checkpoints ls`: what head.json lists, and why each is kept.

May import history, formats and the views' words. Reads only.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from dlcloud_operator.api import TrainingJobSpec

from ..formats import Column, Format, document_text, table_lines
from ..history import ListedCheckpoint, read_head, read_listed
from ..jobs.errors import JobsError, Unreachable
from ..objects import StoreError
from ..output import Output
from ..target import Target
from ..view.words import duration, number, size

_THREADS = 8
_COLUMNS = (
    Column("STEP", right=True), Column("ROUND", right=True), Column("AGE", right=True), Column("SIZE", right=True),
    Column("METRIC", right=True), Column("PINNED"), Column("KEPT AS"), Column("CREATED", wide=True),
    Column("URI", wide=True),
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A checkpoint, and the rules that keep it: last, best, pinned."""

    saved: ListedCheckpoint
    kept: tuple[str, ...]
    uri: str

    def as_json(self) -> dict[str, Any]:
        saved = self.saved
        return {
            "step": saved.step,
            "round": saved.round,
            "createdAt": saved.created_at.isoformat() if saved.created_at else None,
            "sizeBytes": saved.size_bytes,
            "metric": saved.metric,
            "pinned": saved.pinned,
            "kept": list(self.kept),
            "uri": self.uri,
        }

    def cells(self, now: datetime) -> list[str]:
        saved = self.saved
        return [
            str(saved.step),
            str(saved.round),
            duration(now - saved.created_at) if saved.created_at else "?",
            size(saved.size_bytes) if saved.size_bytes is not None else "?",
            number(saved.metric) if saved.metric is not None else "-",
            "yes" if saved.pinned else "",
            ", ".join(self.kept) + ("" if saved.size_bytes is not None else "  (its manifest cannot be read)"),
            saved.created_at.astimezone().strftime("%Y-%m-%d %H:%M:%S") if saved.created_at else "?",
            self.uri,
        ]


def list_checkpoints(target: Target, form: Format, out: Output) -> None:
    """Write the list. Raises JobsError when the store cannot be read, or head.json is damaged."""
    reader = target.reader()
    try:
        head = read_head(reader)
        if head is None:
            raise JobsError(f"{target.prefix}head.json: is damaged; see `dlcloud checkpoints verify {target.label}`")
        with ThreadPoolExecutor(_THREADS) as pool:
            found = list(pool.map(lambda entry: read_listed(reader, entry), head))
    except StoreError as error:
        raise Unreachable(str(error)) from None
    rows = rows_of(found, target.record.job.spec if target.record else None, target.prefix)
    if form.for_machines:
        out.line(document_text([row.as_json() for row in rows], form))
    elif not rows:
        out.line(f"{target.label}: no checkpoint yet")
    else:
        now = datetime.now(UTC)
        for line in table_lines(_COLUMNS, [row.cells(now) for row in rows], wide=form is Format.WIDE):
            out.line(line)


def rows_of(found: Sequence[ListedCheckpoint], spec: TrainingJobSpec | None, prefix: str) -> list[Row]:
    """With the reasons by the job's own rules; without them the newest is the last and the highest metric the best."""
    plan = spec.checkpoint if spec else None
    keep_last, keep_best = (plan.keep_last, plan.keep_best) if plan else (1, 1)
    measured = [i for i, saved in enumerate(found) if saved.metric is not None]
    best = sorted(measured, key=lambda i: (-(found[i].metric or 0.0), i))[: max(0, keep_best)]
    rows = []
    for i, saved in enumerate(found):
        kept = ["last"] * (i < max(1, keep_last)) + ["best"] * (i in best) + ["pinned"] * saved.pinned
        rows.append(Row(saved, tuple(kept), prefix + saved.manifest))
    return rows
