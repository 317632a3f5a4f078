"""`dlcloud-data.json`, and the files of a folder that is uploaded."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlcloud_trainer.checkpoint_tool.lines import ToolError
from dlcloud_trainer.data_tool.index import Listed, index_text, is_name, parse_index
from dlcloud_trainer.data_tool.local import find_files
from dlcloud_trainer.errors import InvalidInput

from .made import write_files

SHA = "ab" * 32
NAMES = st.text(min_size=1, max_size=20).filter(is_name)
FILES = st.lists(
    st.builds(Listed, NAMES, st.integers(0, 2**50), st.just(SHA), st.sampled_from(["", '"1"'])), min_size=1
)


@given(FILES)
def test_an_index_says_what_was_listed(files: list[Listed]) -> None:
    named = {file.name: file for file in files}
    assert parse_index(index_text(named.values()).encode(), "index") == named


@given(st.binary(max_size=60) | st.builds(lambda value: json.dumps(value).encode(), st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just(1),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["version", "files", "name"]), inner),
)))  # fmt: skip
def test_no_bytes_make_the_parser_fail_in_another_way(data: bytes) -> None:
    with suppress(InvalidInput):
        parse_index(data, "index")


@pytest.mark.parametrize(
    "entry",
    [
        {"name": "../x"}, {"name": "/x"}, {"name": "a//b"}, {"name": ""}, {"name": "a\n"}, {"name": 3},
        {"size": -1}, {"size": 1.5}, {"size": True}, {"size": "1"},
        {"sha256": "AB" * 32}, {"sha256": "ab"}, {"sha256": None}, {"etag": 5},
    ],
    ids=str,
)  # fmt: skip
def test_an_entry_that_cannot_be_right_is_refused(entry: dict[str, Any]) -> None:
    good = {"name": "a", "size": 1, "sha256": SHA}
    text = json.dumps({"version": 1, "files": [good | entry]}).encode()
    with pytest.raises(InvalidInput, match=r"^index: no index of a data set \(ValueError: "):
        parse_index(text, "index")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"version": 2, "files": []}, "version 2; this dlcloud reads 1"),
        ({"version": 1, "files": []}, "it lists no file"),
        ({"version": 1, "files": [{"name": "a", "size": 1, "sha256": SHA}] * 2}, "it lists a file twice"),
    ],
)
def test_an_index_of_something_else_is_refused(body: Any, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        parse_index(json.dumps(body).encode(), "index")


def test_a_folder_is_uploaded_without_what_is_hidden_or_an_old_index(tmp_path: Path) -> None:
    files = {"b.bin": b"12", "a/c.bin": b"3", ".x": b"", ".git/config": b"", "dlcloud-data.json": b"{}"}
    write_files(tmp_path, files)
    (tmp_path / "link.bin").symlink_to(tmp_path / "b.bin")
    found = find_files(tmp_path)
    assert [(file.name, file.size_bytes) for file in found] == [("a/c.bin", 1), ("b.bin", 2), ("link.bin", 2)]
    assert b"".join(found[1].pieces()) == b"12"
    assert [file.name for file in find_files(tmp_path / "a" / "c.bin")] == ["c.bin"]


def test_a_file_that_was_changed_meanwhile_is_refused(tmp_path: Path) -> None:
    write_files(tmp_path, {"a": b"1"})
    (found,) = find_files(tmp_path)
    (tmp_path / "a").write_bytes(b"12")
    with pytest.raises(ToolError, match="it was changed while it was read"):
        list(found.pieces())


@pytest.mark.parametrize("name", [b"a\xff", b"a\nb"])
def test_a_name_that_no_store_would_give_back_is_refused(tmp_path: Path, name: bytes) -> None:
    Path(os.fsdecode(bytes(tmp_path) + b"/" + name)).write_bytes(b"1")
    with pytest.raises(ToolError, match="rename it"):
        find_files(tmp_path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ToolError, match="pipe: it is no file"):
        find_files(tmp_path)
