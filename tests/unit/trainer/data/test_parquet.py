"""Images in Parquet files: what is read, and what is refused by name."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from dlcloud_trainer.assignment import StoreAddress
from dlcloud_trainer.data import load_colour_images, load_grey_images
from dlcloud_trainer.data.parquet import IMAGE, LABEL, Table
from dlcloud_trainer.errors import InvalidInput
from dlcloud_trainer.parameters import TrainingParameters

from .made import parquet_file, picture, write_files

HERE = StoreAddress()
PARAMETERS = TrainingParameters()
LABELS = [0, 1, 2] * 8
GOOD = parquet_file([0, 1, 2])
ROWS = [(picture(index, shade=100 + index), index) for index in range(3)]


def colour(tmp_path: Path, **files: bytes) -> Any:
    named = {name.replace("_", "-") + ".parquet": data for name, data in files.items()}
    return load_colour_images(write_files(tmp_path, named), HERE, PARAMETERS)


def with_bytes(count: int, path: str | None = "x.png") -> list[Any]:
    return [{"bytes": picture(index, shade=100 + index), "path": path} for index in range(count)]


def test_bytes_and_labels_are_read(tmp_path: Path) -> None:
    data = colour(tmp_path, train=parquet_file(LABELS), test=parquet_file([2, 1]))
    assert [len(part.labels) for part in (data.train, data.validation, data.test)] == [22, 2, 2]
    assert data.train.images.shape == (22, 3, 6, 5)
    assert data.classes == ("0", "1", "2")
    assert data.test.labels.tolist() == [2, 1]
    assert data.test.images[:, :, 0, 0].tolist() == [[100, 0, 0], [0, 101, 0]]


def test_a_struct_of_bytes_and_path_is_read_as_well(tmp_path: Path) -> None:
    one = colour(tmp_path / "a", train=parquet_file(LABELS), test=parquet_file([0]))
    images = with_bytes(24)
    other = colour(tmp_path / "b", train=parquet_file(LABELS, images=images, column="img"), test=parquet_file([0]))
    assert torch.equal(one.train.images, other.train.images)


def test_shards_are_read_in_their_order(tmp_path: Path) -> None:
    halves = {"train_00000_of_00002": parquet_file([0, 1, 2, 0]), "train_00001_of_00002": parquet_file([2, 2, 1, 1])}
    uri = write_files(
        tmp_path, {f"data/{name.replace('_', '-')}.parquet": data for name, data in halves.items()}
        | {"data/test-00000-of-00001.parquet": parquet_file([1])}
    )  # fmt: skip
    data = load_colour_images(uri, HERE, TrainingParameters(validation="last"))
    assert [*data.train.labels.tolist(), *data.validation.labels.tolist()] == [0, 1, 2, 0, 2, 2, 1, 1]


def test_a_missing_shard_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="1 files of the train part, their names say 2"):
        colour(tmp_path, train_00000_of_00002=GOOD, test=GOOD)


def test_a_missing_part_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"no test.parquet and no test-\*.parquet"):
        colour(tmp_path, train=GOOD)


def test_names_of_classes_come_from_the_file_where_it_has_them(tmp_path: Path) -> None:
    about = {"info": {"features": {"label": {"names": ["cat", "dog", "bird"], "_type": "ClassLabel"}}}}
    train = parquet_file(LABELS, metadata={"huggingface": json.dumps(about)})
    data = colour(tmp_path, train=train, test=parquet_file([1, 2]))
    assert data.classes == ("cat", "dog", "bird")
    assert data.test.labels.tolist() == [1, 2]


def test_a_label_without_a_name_is_refused(tmp_path: Path) -> None:
    about = {"info": {"features": {"label": {"names": ["cat", "dog"]}}}}
    with pytest.raises(InvalidInput, match="label 2 in the train part; the files name 2 classes"):
        colour(tmp_path, train=parquet_file(LABELS, metadata={"huggingface": json.dumps(about)}), test=GOOD)


def test_labels_may_be_names(tmp_path: Path) -> None:
    data = colour(tmp_path, train=parquet_file(["b", "a"] * 6), test=parquet_file(["a"]))
    assert (data.classes, data.test.labels.tolist()) == (("a", "b"), [0])


def test_a_class_that_only_the_test_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="class '7' is in no training image"):
        colour(tmp_path, train=parquet_file(LABELS), test=parquet_file([7]))


def test_one_class_is_none_to_tell_apart(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="1 classes in its training part; 2 to 1000 are allowed"):
        colour(tmp_path, train=parquet_file([4] * 12), test=parquet_file([4]))


def test_grey_images_are_read_as_such_and_taken_as_colour(tmp_path: Path) -> None:
    grey = [picture(index, mode="L", shade=40 + index) for index in range(24)]
    files = {f"{part}.parquet": parquet_file(LABELS, images=grey) for part in ("train", "test")}
    uri = write_files(tmp_path, files)
    assert load_grey_images(uri, HERE, PARAMETERS).test.images.shape == (24, 1, 6, 5)
    assert load_colour_images(uri, HERE, PARAMETERS).test.images.shape == (24, 3, 6, 5)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (b"", "row 2: not readable as PNG or JPEG"),
        (b"GIF89a", "row 2: not readable as PNG or JPEG"),
        (picture(1)[:-30], "row 2: not readable as PNG or JPEG"),
        (picture(1, size=(7, 5)), r"row 2: 7x5 pixels, .*row 0 has 6x5; all images of a data set must have one size"),
        (picture(1, mode="RGBA"), "mode RGBA; this workload reads colour images"),
        (picture(1, mode="CMYK", form="JPEG"), "mode CMYK; this workload reads colour images"),
        (picture(1, mode="I;16"), "mode I;16; this workload reads colour images"),
        (picture(1, form="BMP"), "row 2: not readable as PNG or JPEG"),
        (None, "row 2: the image is NoneType; allowed are bytes"),
    ],
    ids=range(9),
)
def test_an_image_that_is_not_like_the_others_is_refused_by_its_row(
    tmp_path: Path, image: bytes | None, words: str
) -> None:
    images = [picture(0), picture(1), image, picture(0)]
    with pytest.raises(InvalidInput, match=f"train.parquet: {words}|train.parquet: row 2: {words}"):
        colour(tmp_path, train=parquet_file([0, 1, 0, 1], images=images), test=GOOD)


def test_a_colour_image_is_no_grey_one(tmp_path: Path) -> None:
    uri = write_files(tmp_path, {"train.parquet": GOOD, "test.parquet": GOOD})
    with pytest.raises(InvalidInput, match="mode RGB; this workload reads grey images of 8 bits a channel"):
        load_grey_images(uri, HERE, PARAMETERS)


def test_a_path_without_bytes_is_refused(tmp_path: Path) -> None:
    images = [{"bytes": None, "path": "/etc/passwd"} for _ in range(3)]
    with pytest.raises(InvalidInput, match="row 0: the image is a path without bytes"):
        colour(tmp_path, train=parquet_file([0, 1, 2], images=images), test=GOOD)


@pytest.mark.parametrize("label", [1.5, True, None])
def test_a_label_of_another_kind_is_refused(tmp_path: Path, label: Any) -> None:
    with pytest.raises(InvalidInput, match="row 0: the label is "):
        colour(tmp_path, train=parquet_file([label] * 3), test=GOOD)


def test_columns_of_other_names_are_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="columns photo, label; exactly one of image, img must be among them"):
        colour(tmp_path, train=parquet_file([0, 1], column="photo"), test=GOOD)


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    held = io.BytesIO()
    schema = pa.schema([("image", pa.binary()), ("label", pa.int64())])
    parquet.write_table(schema.empty_table(), held)
    with pytest.raises(InvalidInput, match="0 rows"):
        colour(tmp_path, train=held.getvalue(), test=GOOD)


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255), st.booleans())
def test_a_damaged_file_is_refused_by_name_or_read_as_it_was(place: int, change: int, cut: bool) -> None:
    data = bytearray(GOOD)
    if cut:
        del data[place:]
    else:
        data[place] ^= change
    try:
        rows = list(Table(bytes(data), "train.parquet", (IMAGE, LABEL)).rows())
    except InvalidInput as refused:
        assert str(refused).startswith("train.parquet: ")
        assert "\n" not in str(refused)
    else:
        assert not cut
        assert rows == ROWS  # a statistic or a description was changed, which says nothing about what is read


@given(st.binary(max_size=200))
def test_no_bytes_make_the_reader_fail_in_another_way(data: bytes) -> None:
    with suppress(InvalidInput):
        list(Table(b"PAR1" + data + b"PAR1", "file", (IMAGE, LABEL)).rows())
