"""Small reviews made for tests: one word in each tells whether it is good, the others say nothing."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from .made import write_files

TELLING = (("awful", "dull"), ("lovely", "fine"))  # by label
FILLERS = tuple(f"w{number}" for number in range(40))


def reviews(count: int, seed: int = 0, longest: int = 30) -> tuple[list[str], list[int]]:
    """Texts of 3 to `longest` words and their labels, both classes in turn."""
    random = np.random.RandomState(seed)
    texts, labels = [], [index % 2 for index in range(count)]
    for label in labels:
        words = [FILLERS[i] for i in random.randint(0, len(FILLERS), random.randint(2, longest))]
        words.insert(random.randint(0, len(words) + 1), TELLING[label][random.randint(2)])
        texts.append(" ".join(words).capitalize() + ".")
    return texts, labels


def table(**columns: Sequence[Any]) -> bytes:
    """A Parquet file with these columns."""
    held = io.BytesIO()
    parquet.write_table(pa.table({name: list(values) for name, values in columns.items()}), held)
    return held.getvalue()


def parquet_files(train: int = 60, test: int = 20) -> dict[str, bytes]:
    """`train.parquet` and `test.parquet`."""
    made = {"train": reviews(train, 1), "test": reviews(test, 2)}
    return {f"{part}.parquet": table(text=texts, label=labels) for part, (texts, labels) in made.items()}


def text_files(train: int = 60, test: int = 20) -> dict[str, bytes]:
    """The same reviews as aclImdb has them: `train/pos/0_9.txt` and so on, with files that are no reviews."""
    files = {"imdb.vocab": b"the", "train/unsup/0_0.txt": b"Nobody knows.", "train/urls_pos.txt": b"http://"}
    for part, (texts, labels) in {"train": reviews(train, 1), "test": reviews(test, 2)}.items():
        for index, (text, label) in enumerate(zip(texts, labels, strict=True)):
            files[f"{part}/{('neg', 'pos')[label]}/{index}_{8 if label else 2}.txt"] = text.encode()
    return files


def write_reviews(folder: Path, train: int = 60, test: int = 20) -> str:
    """The URI of a folder with both Parquet files."""
    return write_files(folder, parquet_files(train, test))
