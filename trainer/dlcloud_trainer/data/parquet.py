"""Parquet files, read strictly: `train.parquet` and `test.parquet`, or shards `train-00000-of-00005.parquet`.

May import numpy, the modules for files, decoding and splits and, with the first file, pyarrow. Rows are read in small
batches: memory is that of one row group's columns and of the pixels.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import InvalidInput
from .decode import Gallery
from .files import Files
from .labels import class_names, to_labels
from .splits import Images, Splits, make_splits

PARTS = ("train", "test")
IMAGE = ("image", "img")
LABEL = ("label", "labels", "fine_label")
ROWS = 256
MAX_ROWS = 100_000_000
NAME = re.compile(r"(?:.*/)?(train|test)(?:-.*)?\.parquet")
SHARD = re.compile(r"-(\d+)-of-(\d+)\.parquet$")


def find_shards(names: Sequence[str] | frozenset[str], where: str) -> dict[str, list[str]]:
    """The files of each part, in order; empty when there are none. Raises `InvalidInput` for missing ones."""
    found = sorted((match[1], name) for name in names if (match := NAME.fullmatch(name)))
    folders = sorted({name.rpartition("/")[0] for _, name in found})
    if len(folders) > 1:
        raise InvalidInput(
            f"{where}: Parquet files in {folders[0] or '.'} and in {folders[1]}; put one data set there, or name its "
            "folder in data.uri"
        )
    shards = {part: [name for own, name in found if own == part] for part in PARTS}
    if not found:
        return {}
    for part, files in shards.items():
        if not files:
            raise InvalidInput(f"{where}: no {part}.parquet and no {part}-*.parquet; put the {part} part there")
        numbered = [match for name in files if (match := SHARD.search(name))]
        totals = {int(match[2]) for match in numbered}
        if numbered and (len(numbered) != len(files) or totals != {len(files)}):
            raise InvalidInput(
                f"{where}: {len(files)} files of the {part} part, their names say {max(totals)}; put all of one data "
                "set there"
            )
    return shards


def load_parquet(files: Files, channels: int, validation: str) -> Splits[Images]:
    """Images as PNG or JPEG bytes with their labels; raises `InvalidInput` naming file and row, or the store's
    error."""
    shards = find_shards(files.names, files.uri())
    galleries: dict[str, Gallery] = {}
    labels: dict[str, list[Any]] = {part: [] for part in PARTS}
    names: tuple[str, ...] = ()
    for part in PARTS:
        galleries[part] = Gallery(channels, galleries.get("train"))
        for shard in shards[part]:
            table = Table(files.read(shard), files.uri(shard), (IMAGE, LABEL))
            names = names or table.class_names
            for row, (image, label) in enumerate(table.rows()):
                galleries[part].add(_bytes(image, table.name, row), f"{table.name}: row {row}")
                labels[part].append(_label(label, table.name, row))
    where = files.uri()
    texts = {part: [str(label) for label in labels[part]] for part in PARTS}
    if names and not isinstance(labels["train"][0], str):
        # numbers that the file has names for
        for part in PARTS:
            wrong = next((label for label in labels[part] if not 0 <= label < len(names)), None)
            if wrong is not None:
                raise InvalidInput(f"{where}: label {wrong} in the {part} part; the files name {len(names)} classes")
            texts[part] = [names[label] for label in labels[part]]
        classes = names
    else:
        classes = class_names(set(texts["train"]), where)
    return make_splits(
        galleries["train"].pixels(),
        to_labels(texts["train"], classes, where),
        galleries["test"].pixels(),
        to_labels(texts["test"], classes, where),
        classes=classes,
        validation=validation,
        where=where,
    )


class Table:
    """A Parquet file with one column of each kind: `columns` are the names that each may have."""

    def __init__(self, data: bytes, name: str, columns: Sequence[Sequence[str]]) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        self.name = name
        try:
            self._file = parquet.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
            schema = self._file.schema_arrow
            self._count = int(self._file.metadata.num_rows)
        except Exception as error:  # arrow raises its own errors, OSError, ValueError and more for a damaged file
            raise self._damaged(error) from None
        self._columns = []
        for choices in columns:
            there = [choice for choice in choices if choice in schema.names]
            if len(there) != 1:
                raise InvalidInput(
                    f"{name}: columns {', '.join(schema.names)[:200]}; exactly one of {', '.join(choices)} must be "
                    "among them, rename or drop columns"
                )
            self._columns.append(there[0])
        if not 0 < self._count <= MAX_ROWS:
            raise InvalidInput(f"{name}: {self._count} rows; 1 to {MAX_ROWS} are allowed")
        self.class_names = _class_names(schema.metadata or {}, self._columns[-1])

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """The columns' values, row by row; raises `InvalidInput` for a damaged file."""
        count = 0
        try:
            for batch in self._file.iter_batches(batch_size=ROWS, columns=self._columns, use_threads=False):
                values = [batch.column(batch.schema.get_field_index(name)).to_pylist() for name in self._columns]
                count += batch.num_rows
                yield from zip(*values, strict=True)
        except InvalidInput:
            raise
        except Exception as error:
            raise self._damaged(error) from None
        if count != self._count:
            raise InvalidInput(f"{self.name}: {count} of {self._count} rows; the file is damaged, copy it again")

    def _damaged(self, error: Exception) -> InvalidInput:
        reason = (str(error).splitlines() or [""])[0][:120].rstrip(".") or type(error).__name__
        return InvalidInput(f"{self.name}: not readable as Parquet ({reason}); the file is damaged, copy it again")


def _class_names(metadata: dict[bytes, bytes], column: str) -> tuple[str, ...]:
    """What the Hugging Face libraries note about a column of labels."""
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][column]["names"]
    except (KeyError, ValueError, TypeError):
        return ()
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return ()
    return tuple(names) if 2 <= len(set(names)) == len(names) <= 1000 else ()


def _bytes(value: Any, name: str, row: int) -> bytes:
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes):
        found = "a path without bytes" if isinstance(value, dict) else type(data).__name__
        raise InvalidInput(
            f"{name}: row {row}: the image is {found}; allowed are bytes of a PNG or JPEG file, or a struct with them"
        )
    return data


def _label(value: Any, name: str, row: int) -> int | str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise InvalidInput(
            f"{name}: row {row}: the label is {type(value).__name__}; allowed are whole numbers and names of classes"
        )
    return value
