"""`dlcloud plot --confusion`: how often a class of the test set was taken for which, as a table or a picture; and which
pictures a job drew.

May import the objects module; matplotlib only inside, because importing it takes half a second. Reads only.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .objects import Reader

KEY = "pictures/confusion.json"
PICTURES = "pictures/"
_PICTURE = re.compile(r"^pictures/(.+)-(\d+)\.png$")
_NAME = 12  # characters of a class's name in a table
_NUMBERS = 40  # classes, at most, for numbers in the fields of a picture
_DPI = 160


@dataclass(frozen=True)
class Confusion:
    """`counts[i][j]`: samples of class i that were taken for class j, after `step` steps."""

    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    step: int

    @property
    def recall(self) -> tuple[float | None, ...]:
        """Of each class, the part that was found; None for one that has no samples."""
        return tuple(row[i] / sum(row) if sum(row) else None for i, row in enumerate(self.counts))


@dataclass(frozen=True)
class Drawn:
    """Pictures of one name: of which epochs there are some, and the key of the last."""

    name: str
    epochs: tuple[int, ...]
    last: str


def read_confusion(reader: Reader) -> Confusion | None:
    """The table of the job's test; None when there is none, or it is damaged. Raises StoreError."""
    data = reader.read(KEY)
    try:
        found = json.loads(data or b"")
        classes = tuple(str(name) for name in found["classes"])
        counts = tuple(tuple(int(count) for count in row) for row in found["counts"])
        step = int(found["step"])
    except (ValueError, KeyError, TypeError):
        return None
    if len(counts) != len(classes) or any(len(row) != len(classes) for row in counts):
        return None
    return Confusion(classes, counts, step)


def read_drawn(reader: Reader) -> list[Drawn]:
    """The pictures below the prefix, by name. Raises StoreError."""
    found: dict[str, list[tuple[int, str]]] = {}
    for info in reader.list(PICTURES):
        if match := _PICTURE.match(info.key):
            found.setdefault(match[1], []).append((int(match[2]), info.key))
    return [
        Drawn(name, tuple(epoch for epoch, _ in sorted(some)), max(some)[1]) for name, some in sorted(found.items())
    ]


def table(confusion: Confusion) -> list[str]:
    """Lines for a terminal: a row for each class, its numbers by what it was taken for, and the part that was right."""
    names = [name if len(name) <= _NAME else name[: _NAME - 1] + "…" for name in confusion.classes]
    width = max([len(name) for name in names] + [len(str(count)) for row in confusion.counts for count in row])
    first = max(len(name) for name in [*names, "is"])
    lines = [" ".join([f"{'is':{first}}", *(f"{name:>{width}}" for name in names), f"{'right':>7}"])]
    for name, row, recall in zip(names, confusion.counts, confusion.recall, strict=True):
        cells = [f"{count or '.':>{width}}" for count in row]
        lines.append(" ".join([f"{name:{first}}", *cells, f"{'-' if recall is None else f'{recall:.1%}':>7}"]))
    total = sum(map(sum, confusion.counts))
    right = sum(row[i] for i, row in enumerate(confusion.counts))
    lines.append(f"{right:,} of {total:,} right; columns: what it was taken for")
    return lines


def write(confusion: Confusion, path: Path, title: str) -> None:
    """Write it as the path's ending says (.png, .svg, .csv); the folder is made, and the file whole or not at all.
    Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        if path.suffix.lower() == ".csv":
            _write_rows(new, [("is", *confusion.classes), *zip_rows(confusion)])
        else:
            _figure(confusion, title).savefig(new, dpi=_DPI, format=path.suffix.lstrip(".").lower())
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def zip_rows(confusion: Confusion) -> list[tuple[object, ...]]:
    """A row for each class, its name first."""
    return [(name, *row) for name, row in zip(confusion.classes, confusion.counts, strict=True)]


def _write_rows(path: Path, rows: Iterable[Iterable[object]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def _figure(confusion: Confusion, title: str) -> Any:
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    count = len(confusion.classes)
    side = min(16.0, max(5.0, 1.5 + 0.5 * count))
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.subplots()
    parts = [[value / (sum(row) or 1) for value in row] for row in confusion.counts]
    image = axes.imshow(parts, cmap="Blues", vmin=0, vmax=1)
    places = range(count)
    axes.set_xticks(places, confusion.classes, rotation=90 if max(map(len, confusion.classes)) > 3 else 0)
    axes.set_yticks(places, confusion.classes)
    axes.set_xlabel("taken for", fontsize=11)
    axes.set_ylabel("is", fontsize=11)
    axes.set_title(title, loc="left", fontsize=13, pad=10)
    if count <= _NUMBERS:
        for i, row in enumerate(confusion.counts):
            for j, value in enumerate(row):
                if value:
                    colour = "white" if parts[i][j] > 0.5 else "black"
                    axes.text(j, i, str(value), ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(image, ax=axes, shrink=0.7, label="part of the class")
    return figure
