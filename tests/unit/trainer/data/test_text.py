"""Reviews from every form they come in, and what is refused."""

from __future__ import annotations

import gzip
import io
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dlcloud_trainer.assignment import StoreAddress
from dlcloud_trainer.data import Splits
from dlcloud_trainer.data.text import Texts, load_texts
from dlcloud_trainer.data.words import SPECIAL
from dlcloud_trainer.errors import InvalidInput

from .made import tar_gz, write_files
from .made_texts import FILLERS, TELLING, parquet_files, reviews, table, text_files

HERE = StoreAddress()
SETTINGS: dict[str, Any] = {"vocabulary": 1000, "length": 8}


def load(uri: str, **settings: Any) -> Splits[Texts]:
    return load_texts(uri, HERE, **SETTINGS | settings)


def as_lists(splits: Splits[Texts]) -> list[list[list[Any]]]:
    return [[tensor.tolist() for tensor in part] for part in (splits.train, splits.validation, splits.test)]


def test_the_parts_have_their_shapes_and_types(tmp_path: Path) -> None:
    splits = load(write_files(tmp_path, parquet_files()))
    assert [tuple(part.tokens.shape) for part in (splits.train, splits.validation, splits.test)] == [
        (54, 8),
        (6, 8),
        (20, 8),
    ]
    for part in (splits.train, splits.validation, splits.test):
        assert [tensor.dtype for tensor in part] == [torch.int32, torch.int64, torch.int64]
        assert torch.equal((part.tokens != 0).sum(1), part.lengths)
        assert part.lengths.min() >= 1
        assert sorted(part.labels.unique().tolist()) == [0, 1]
    assert splits.classes == ("negative", "positive")
    assert splits.vocabulary[:2] == SPECIAL
    assert set(splits.vocabulary[2:]) <= {*FILLERS, *TELLING[0], *TELLING[1]}


def test_the_tokens_say_what_the_text_says(tmp_path: Path) -> None:
    splits = load(write_files(tmp_path, parquet_files()), length=100)
    texts, labels = reviews(20, 2)
    for row, (text, label) in enumerate(zip(texts, labels, strict=True)):
        said = [splits.vocabulary[token] for token in splits.test.tokens[row, : splits.test.lengths[row]]]
        assert said == text.lower().rstrip(".").split()
        assert splits.test.labels[row] == label


def test_folder_and_archive_give_the_same_tensors(tmp_path: Path) -> None:
    files = text_files()
    folder = load(write_files(tmp_path / "folder", files))
    nested = load(write_files(tmp_path / "nested", {f"aclImdb/{name}": data for name, data in files.items()}))
    backwards = {f"aclImdb/{name}": files[name] for name in sorted(files, reverse=True)}
    packed = load(write_files(tmp_path / "packed", {"aclImdb_v1.tar.gz": tar_gz(backwards)}))
    named = load(write_files(tmp_path / "named", {"mine.tgz": tar_gz(backwards)}) + "/mine.tgz")
    assert as_lists(folder) == as_lists(packed) == as_lists(named) == as_lists(nested)
    assert folder.vocabulary == packed.vocabulary
    assert len(folder.train.labels) == 54


def test_an_archive_is_never_unpacked_to_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = write_files(tmp_path / "data", {"aclImdb_v1.tar.gz": tar_gz(text_files())})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    load(uri)
    assert [path.name for path in tmp_path.rglob("*")] == ["data", "aclImdb_v1.tar.gz"]


def test_the_vocabulary_knows_nothing_of_validation_and_test(tmp_path: Path) -> None:
    texts, labels = reviews(40, 1)
    texts = [f"{text} only{index}" for index, text in enumerate(texts)]
    files = {
        "train.parquet": table(text=texts, label=labels),
        "test.parquet": table(text=["secret", "w1"], label=[0, 1]),
    }
    splits = load(write_files(tmp_path, files), length=100)
    assert "secret" not in splits.vocabulary
    assert sum(word.startswith("only") for word in splits.vocabulary) == len(splits.train.labels) == 36


def test_a_vocabulary_that_is_given_is_kept_as_it_is(tmp_path: Path) -> None:
    given = (*SPECIAL, "lovely", "never", "w3")
    splits = load(write_files(tmp_path, parquet_files()), vocabulary=list(given))
    assert splits.vocabulary == given
    assert splits.train.tokens.max() == 4
    assert not (splits.train.tokens == 3).any()


def test_the_last_tenth_is_of_both_classes_though_the_file_is_sorted_by_them(tmp_path: Path) -> None:
    texts, labels = reviews(60, 1)
    order = np.argsort(labels, kind="stable")
    files = parquet_files() | {"train.parquet": table(text=[texts[i] for i in order], label=[labels[i] for i in order])}
    splits = load(write_files(tmp_path, files), validation="last")
    assert len(splits.validation.labels) == 6
    assert 0 < splits.validation.labels.sum() < 6
    again = load(f"file://{tmp_path}", validation="last")
    assert as_lists(splits) == as_lists(again)


def refused(folder: Path, files: dict[str, bytes], uri: str = "") -> str:
    write_files(folder, files)
    with pytest.raises(InvalidInput) as found:
        load(uri or f"file://{folder}")
    message = str(found.value)
    assert "\n" not in message
    assert "; " in message, "it says what to do"
    return message


TEXTS, LABELS = reviews(20)
DAMAGED = {
    "only one part": ({"train.parquet": table(text=TEXTS, label=LABELS)}, "no test.parquet"),
    "not parquet": (parquet_files() | {"test.parquet": b"nothing"}, "test.parquet: not readable as Parquet"),
    "cut short": (parquet_files() | {"train.parquet": parquet_files()["train.parquet"][:-400]}, "train.parquet: not"),
    "no label": (parquet_files() | {"train.parquet": table(text=TEXTS)}, "exactly one of label must be among them"),
    "other name": (parquet_files() | {"train.parquet": table(review=TEXTS, label=LABELS)}, "columns review, label"),
    "text is numbers": (parquet_files() | {"train.parquet": table(text=LABELS, label=LABELS)}, "row 0 has int as its"),
    "label is text": (parquet_files() | {"train.parquet": table(text=TEXTS, label=TEXTS)}, "row 0 has label 'W"),
    "label 2": (
        parquet_files() | {"test.parquet": table(text=TEXTS, label=[*LABELS[:-1], 2])},
        "test.parquet: row 19 has label 2; allowed are 0 (negative) and 1 (positive)",
    ),
    "unlabelled": (parquet_files() | {"test.parquet": table(text=TEXTS, label=[-1] * 20)}, "row 0 has label -1"),
    "no label there": (parquet_files() | {"test.parquet": table(text=TEXTS, label=[0, 1, None, *LABELS[3:]])}, "row 2"),
    "no text there": (parquet_files() | {"test.parquet": table(text=[None, *TEXTS[1:]], label=LABELS)}, "has no text"),
    "empty text": (parquet_files() | {"test.parquet": table(text=["", *TEXTS[1:]], label=LABELS)}, "an empty text"),
    "one class": (
        parquet_files() | {"train.parquet": table(text=TEXTS, label=[1] * 20)},
        "no negative reviews to train on; at least 2",
    ),
    "one class to test": (parquet_files() | {"test.parquet": table(text=TEXTS, label=[0] * 20)}, "no positive reviews"),
    "nothing": ({"readme.md": b"x"}, "no reviews are in"),
    "empty file": (text_files() | {"train/neg/0_2.txt": b""}, "train/neg/0_2.txt: the file is empty"),
    "no utf-8": (text_files() | {"test/pos/1_8.txt": b"good \xff"}, "test/pos/1_8.txt: byte 5 is no UTF-8"),
    "class missing": (
        {name: data for name, data in text_files().items() if "train/pos" not in name},
        "no positive reviews to train on",
    ),
    "part missing": (
        {name: data for name, data in text_files().items() if not name.startswith("test/")},
        "no negative reviews to test on",
    ),
    "archive cut short": ({"aclImdb_v1.tar.gz": tar_gz(text_files())[:-20]}, "aclImdb_v1.tar.gz: "),
    "archive flipped": (
        {"aclImdb_v1.tar.gz": (lambda data: data[:-6] + bytes([data[-6] ^ 1]) + data[-5:])(tar_gz(text_files()))},
        "aclImdb_v1.tar.gz: not readable as tar.gz",
    ),
    "two archives": ({"a.tar.gz": b"", "b.tgz": b""}, "2 archives (a.tar.gz, b.tgz)"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_what_is_damaged_or_something_else_is_refused_by_name(tmp_path: Path, case: str) -> None:
    files, words = DAMAGED[case]
    assert words in refused(tmp_path, files)


def test_an_archive_that_ends_between_two_files_is_refused(tmp_path: Path) -> None:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for name, data in text_files().items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
        end = archive.offset
    assert "cut short" in refused(tmp_path, {"aclImdb_v1.tar.gz": gzip.compress(held.getvalue()[:end])})


def test_another_kind_of_uri_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"data\.uri: 'imdb' is nothing this workload reads"):
        load("imdb")


def test_ten_thousand_reviews_of_230_words_are_read_within_seconds(tmp_path: Path) -> None:
    random = np.random.RandomState(3)
    words = np.array([f"word{number}" for number in range(30_000)])
    texts = [" ".join(words[(random.pareto(1.0, 230) * 20).astype(int) % 30_000]) for _ in range(5000)]
    labels = [index % 2 for index in range(5000)]
    uri = write_files(tmp_path, {f"{part}.parquet": table(text=texts, label=labels) for part in ("train", "test")})
    began = time.process_time()  # 1 s alone; the processor's time, for others compute as well
    splits = load(uri, vocabulary=5000, length=200)
    assert time.process_time() - began < 6
    assert len(splits.vocabulary) == 5002
    assert splits.train.tokens.shape == (4500, 200)
