"""Reviews and what they say, from the files of a data set: Parquet, or aclImdb as a folder or in its tar.gz.

May import the modules for files, archives and Parquet. Unpacks nothing to a disk. What is damaged, short or something
else is refused by name. Source of aclImdb:
https://ai.stanford.edu/~amaas/data/sentiment/
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from ..errors import InvalidInput
from .archive import unpack
from .files import ARCHIVES, Files
from .parquet import PARTS, Table, find_shards

CLASSES = ("negative", "positive")
ARCHIVE = "aclImdb_v1.tar.gz"
TEXT_FILE = re.compile(r"(?:.*/)?(train|test)/(neg|pos)/[^/.][^/]*\.txt")
TEXT, LABEL = "text", "label"
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
    if shards := find_shards(files.names, files.uri()):
        for part in PARTS:
            for number, name in enumerate(shards[part]):
                yield from _read_parquet(files, name, part, number)
    elif archive := _archive(files):
        for path, data in unpack(files.read(archive), files.uri(archive), lambda path: bool(TEXT_FILE.fullmatch(path))):
            yield _from_file(path, data, f"{files.uri(archive)}: {path}")
    else:
        yield from _read_folder(files)


def _read_parquet(files: Files, name: str, part: str, number: int) -> Iterator[Review]:
    table = Table(files.read(name), files.uri(name), ((TEXT,), (LABEL,)))
    for row, (text, label) in enumerate(table.rows()):
        _check_row(text, label, f"{table.name}: row {row}")
        yield Review(part, f"{number:06}/{row:012}", int(label), text)


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


def _check_row(text: object, label: object, where: str) -> None:
    if not isinstance(text, str) or not text:
        found = "an empty text" if text == "" else "no text" if text is None else f"{type(text).__name__} as its text"
        raise InvalidInput(f"{where} has {found}; leave such rows out")
    if not isinstance(label, int) or not 0 <= label < len(CLASSES):
        raise InvalidInput(f"{where} has label {label!r}; allowed are 0 (negative) and 1 (positive), leave others out")
