"""The confusion matrix as a table and as files, and the pictures that a job drew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dlcloud.confusion import KEY, Confusion, read_confusion, read_drawn, table, write
from dlcloud.objects import open_reader

TWO = Confusion(("cat", "dog"), ((8, 2), (0, 0)), 40)


def kept(folder: Path, value: Any, key: str = KEY) -> None:
    path = folder / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def test_the_table_tells_counts_and_what_was_found_of_each_class() -> None:
    assert table(TWO) == [
        "is  cat dog   right",
        "cat   8   2   80.0%",
        "dog   .   .       -",
        "8 of 10 right; columns: what it was taken for",
    ]


def test_what_a_job_wrote_is_read(tmp_path: Path) -> None:
    kept(tmp_path, {"set": "test", "step": 40, "classes": ["cat", "dog"], "counts": [[8, 2], [0, 0]]})
    assert read_confusion(open_reader(f"file://{tmp_path}/", None)) == TWO


@pytest.mark.parametrize(
    "value", ["", "{", "[]", {"classes": ["a"], "counts": [[1, 2]], "step": 1}, {"classes": ["a"], "step": 1}]
)
def test_a_damaged_table_is_none(tmp_path: Path, value: Any) -> None:
    kept(tmp_path, value)
    assert read_confusion(open_reader(f"file://{tmp_path}/", None)) is None


def test_a_job_without_one_has_none(tmp_path: Path) -> None:
    assert read_confusion(open_reader(f"file://{tmp_path}/", None)) is None


def test_files_hold_it_whole(tmp_path: Path) -> None:
    write(TWO, tmp_path / "a" / "c.csv", "cats")
    assert (tmp_path / "a" / "c.csv").read_text().splitlines() == ["is,cat,dog", "cat,8,2", "dog,0,0"]
    write(TWO, tmp_path / "c.png", "cats")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_pictures_are_named_with_the_epochs_there_are(tmp_path: Path) -> None:
    for key in ("samples-000001.png", "samples-000010.png", "walk-000010.png", "other.txt"):
        kept(tmp_path, "x", f"pictures/{key}")
    found = read_drawn(open_reader(f"file://{tmp_path}/", None))
    assert [(one.name, one.epochs, one.last) for one in found] == [
        ("samples", (1, 10), "pictures/samples-000010.png"), ("walk", (10,), "pictures/walk-000010.png"),
    ]  # fmt: skip
