"""Reviews and what they say, from the files of a data set: Parquet, or aclImdb as a folder or in its tar.gz.

May import pyarrow (in functions: the zygote imports this) and the modules for files and archives. Unpacks nothing to a
disk. What is damaged, short or something else is refused by name. Source of aclImdb:
https://ai.stanford.edu/~amaas/data/sentiment/
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..errors import InvalidInput
from .archive import unpack
from .files import ARCHIVES, Files

CLASSES = ("negative", "positive")
PARTS = ("train", "test")
ARCHIVE = "aclImdb_v1.tar.gz"
TEXT_FILE = re.compile(r"(?:.*/)?(train|test)/(neg|pos)/[^/.][^/]*\.txt")
TEXT, LABEL = "text", "label"
ROWS = 1024
MAX_TEXT_BYTES = 16 << 20
READ_AT_ONCE = 256  # files
LAYOUT = f"train.parquet and test.parquet (columns {TEXT} and {LABEL}), {ARCHIVE}, or the folders of aclImdb"
AGAIN = "copy it again"


class Review(NamedTuple):
    """A text of a part (train or test); `name` orders those of a part, `label` is 0 (negative) or 1."""

    part: str
    name: str
    label: int
    text: str


def read_reviews(files: Files) -> Iterator[Review]:
    """Every review there is; raises `InvalidInput` naming the file, or the store's error."""
    parquets = [f"{part}.parquet" for part in PARTS]
    if any(name in files.names for name in parquets):
        for part, name in zip(PARTS, parquets, strict=True):
            if name not in files.names:
                raise InvalidInput(f"{files.uri(name)}: the file is missing; put {' and '.join(parquets)} there")
            yield from read_parquet(files.read(name), files.uri(name), part)
    elif archive := _archive(files):
        for path, data in unpack(files.read(archive), files.uri(archive), lambda path: bool(TEXT_FILE.fullmatch(path))):
            yield _from_file(path, data, f"{files.uri(archive)}: {path}")
    else:
        yield from _read_folder(files)


def _archive(files: Files) -> str:
    """The archive's name; empty when there is none. Raises `InvalidInput` when it is not clear which."""
    archives = sorted(name for name in files.names if name.endswith(ARCHIVES))
    if ARCHIVE in archives or len(archives) == 1:
        return ARCHIVE if ARCHIVE in archives else archives[0]
    if archives:
        shown = ", ".join(archives[:3])
        raise InvalidInput(f"{files.uri()}: {len(archives)} archives ({shown}); give the URI of one of them")
    return ""


def _read_folder(files: Files) -> Iterator[Review]:
    names = sorted(name for name in files.names if TEXT_FILE.fullmatch(name))
    if not names:
        raise InvalidInput(f"data.uri: no reviews are in {files.uri()}; put there {LAYOUT}")
    for start in range(0, len(names), READ_AT_ONCE):
        chosen = names[start : start + READ_AT_ONCE]
        for name, data in files.read_all({name: name for name in chosen}).items():
            yield _from_file(name, data, files.uri(name))


def _from_file(path: str, data: bytes, where: str) -> Review:
    found = TEXT_FILE.fullmatch(path)
    assert found is not None  # only such are asked for
    if not data:
        raise InvalidInput(f"{where}: the file is empty; {AGAIN}")
    if len(data) > MAX_TEXT_BYTES:
        raise InvalidInput(f"{where}: {len(data)} bytes, a review has at most {MAX_TEXT_BYTES}; take it out")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{where}: byte {error.start} is no UTF-8; the file is damaged, {AGAIN}") from None
    return Review(found[1], path, ("neg", "pos").index(found[2]), text)


def read_parquet(data: bytes, where: str, part: str) -> Iterator[Review]:
    """The rows of a Parquet file with the columns text and label (0 or 1); raises `InvalidInput` naming it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        _check_columns(file.schema_arrow, where)
        row = 0
        for batch in file.iter_batches(ROWS, columns=[TEXT, LABEL], use_threads=False):
            texts, labels = batch.column(TEXT).to_pylist(), batch.column(LABEL).to_pylist()
            for text, label in zip(texts, labels, strict=True):
                yield _from_row(text, label, where, row, part)
                row += 1
        if row < file.metadata.num_rows:
            raise InvalidInput(f"{where}: {row} of {file.metadata.num_rows} rows; the file is cut short, {AGAIN}")
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise InvalidInput(f"{where}: not readable as Parquet ({reason}); the file is damaged, {AGAIN}") from None


def _check_columns(schema: Any, where: str) -> None:
    """Raises `InvalidInput` unless there are text and whole numbers or truth values under their names."""
    import pyarrow.types as types

    for name, kind, fits in (
        (TEXT, "text", lambda found: types.is_string(found) or types.is_large_string(found)),
        (LABEL, "whole numbers", lambda found: types.is_integer(found) or types.is_boolean(found)),
    ):
        if schema.names.count(name) != 1:
            columns = ", ".join(schema.names)
            raise InvalidInput(f"{where}: no column {name!r}, it has {columns}; call the columns {TEXT} and {LABEL}")
        found = schema.field(name).type
        if not fits(found):
            raise InvalidInput(f"{where}: column {name!r} holds {found}, it must hold {kind}; write it with that type")


def _from_row(text: str | None, label: int | None, where: str, row: int, part: str) -> Review:
    if not text:
        what = "no text" if text is None else "an empty text"
        raise InvalidInput(f"{where}: row {row} has {what}; leave such rows out")
    if label is None or not 0 <= label < len(CLASSES):
        raise InvalidInput(
            f"{where}: row {row} has label {label}; allowed are 0 (negative) and 1 (positive), leave others out"
        )
    return Review(part, f"{row:012}", int(label), text)
