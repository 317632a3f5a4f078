"""The data sets of cnn: the digits of the package, and MNIST's files in a store."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dlcloud_trainer.assignment import StoreAddress
from dlcloud_trainer.data import DIGITS_URI, digits, load_grey_images
from dlcloud_trainer.data.splits import split_off
from dlcloud_trainer.errors import InvalidInput
from dlcloud_trainer.parameters import TrainingParameters

HERE = StoreAddress()
PARAMETERS = TrainingParameters()


def write(folder: Path, name: str, labels: list[int], *, images: int | None = None, pack: bool = False) -> None:
    """`name` is `train-{}-{}` or so: the two places are filled with images, idx3 and labels, idx1."""
    count = len(labels) if images is None else images
    pixels = struct.pack(">4I", 0x803, count, 28, 28) + bytes(count * 784)
    classes = struct.pack(">2I", 0x801, len(labels)) + bytes(labels)
    for kind, rank, data in (("images", 3, pixels), ("labels", 1, classes)):
        (folder / name.format(kind, rank)).write_bytes(gzip.compress(data) if pack else data)


def test_the_digits_are_split_into_three_parts_of_their_sizes() -> None:
    parts = digits.load_digits()
    assert [len(part.labels) for part in (parts.train, parts.validation, parts.test)] == [1258, 180, 359]
    assert parts.train.images.shape == (1258, 1, 28, 28)
    assert (parts.train.images.dtype, parts.train.labels.dtype) == (torch.uint8, torch.int64)


def test_every_digit_has_its_share_of_every_part() -> None:
    parts = digits.load_digits()
    for part in (parts.train, parts.validation, parts.test):
        shares = torch.bincount(part.labels, minlength=10) / len(part.labels)
        assert shares.min() > 0.09
        assert shares.max() < 0.11


def test_no_digit_is_in_two_parts() -> None:
    parts = digits.load_digits()
    images = torch.cat([parts.train.images, parts.validation.images, parts.test.images]).flatten(1)
    assert len(torch.unique(images, dim=0)) == len(images) == 1797


def test_the_digits_come_with_source_and_licence() -> None:
    text = digits.FILE.with_suffix(".txt").read_text()
    assert "10.24432/C50P49" in text
    assert "CC BY 4.0" in text
    assert digits.FILE.stat().st_size < 60_000


def test_enlarging_keeps_corners_ends_and_order() -> None:
    ramp = np.broadcast_to(np.linspace(0, 16, 8).round().astype(np.uint8), (1, 8, 8))
    large = digits.enlarge(ramp)
    assert large.shape == (1, 28, 28)
    assert (large[0, 0, 0], large[0, -1, -1]) == (0, 255)
    assert (np.diff(large[0].astype(int), axis=1) >= 0).all()
    assert (large[0] == large[0, 0]).all()


@given(st.lists(st.integers(0, 9), min_size=1, max_size=300), st.floats(0.01, 0.9), st.integers(0, 100))
def test_a_split_takes_its_fraction_of_all_and_nearly_of_every_class(
    labels: list[int], fraction: float, seed: int
) -> None:
    classes = np.array(labels, dtype=np.uint8)
    stays, taken = split_off(classes, fraction, seed)
    assert sorted([*stays, *taken]) == list(range(len(labels)))
    assert len(taken) == max(1, round(len(labels) * fraction))
    for label in set(labels):
        expected = labels.count(label) * fraction
        assert abs(sum(classes[taken] == label) - expected) <= 1


def test_the_same_seed_gives_the_same_split_and_another_another() -> None:
    labels = np.arange(100, dtype=np.uint8) % 10
    assert split_off(labels, 0.3, 5)[1].tolist() == split_off(labels, 0.3, 5)[1].tolist()
    assert split_off(labels, 0.3, 5)[1].tolist() != split_off(labels, 0.3, 6)[1].tolist()


@pytest.mark.parametrize(
    ("form", "pack"),
    [("{}-idx{}-ubyte", False), ("{}-idx{}-ubyte.gz", True), ("{}.idx{}-ubyte", False), ("{}.idx{}-ubyte.gz", True)],
)
def test_mnist_is_found_under_each_of_its_usual_names(tmp_path: Path, form: str, pack: bool) -> None:
    write(tmp_path, f"train-{form}", [i % 10 for i in range(120)], pack=pack)
    write(tmp_path, f"t10k-{form}", list(range(10)), pack=pack)
    parts = load_grey_images(f"file://{tmp_path}", HERE, PARAMETERS)
    assert [len(part.labels) for part in (parts.train, parts.validation, parts.test)] == [110, 10, 10]
    assert sorted(parts.validation.labels.tolist()) == list(range(10))


def test_a_missing_file_is_named_with_the_names_it_may_have(tmp_path: Path) -> None:
    write(tmp_path, "train-{}-idx{}-ubyte", [1, 2])
    with pytest.raises(InvalidInput, match=r"t10k-images-idx3-ubyte, .*t10k-images\.idx3-ubyte\.gz"):
        load_grey_images(f"file://{tmp_path}", HERE, PARAMETERS)


def test_labels_that_do_not_match_their_images_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "train-{}-idx{}-ubyte", [1, 2, 3], images=4)
    write(tmp_path, "t10k-{}-idx{}-ubyte", [1])
    with pytest.raises(InvalidInput, match="3 labels for the 4 images"):
        load_grey_images(f"file://{tmp_path}", HERE, PARAMETERS)


@pytest.mark.parametrize("uri", ["", "mnist", "http://host/mnist", "builtin://letters"])
def test_an_address_of_another_kind_is_refused_with_the_allowed_ones(uri: str) -> None:
    with pytest.raises(InvalidInput, match="builtin://digits"):
        load_grey_images(uri, HERE, PARAMETERS)


def test_the_builtin_digits_need_no_store() -> None:
    assert load_grey_images(DIGITS_URI, StoreAddress("http://127.0.0.1:1"), PARAMETERS) is digits.load_digits()


@pytest.mark.parametrize(("preset", "least", "largest"), [("faithful", 0.0, 1.0), ("default", -0.42, 2.82)])
def test_pixels_go_from_0_to_1_in_the_faithful_preset_alone(preset: str, least: float, largest: float) -> None:
    (mean,), (deviation,) = load_grey_images(
        DIGITS_URI, StoreAddress(), TrainingParameters(preset=preset)
    ).normalisation
    assert (0 - mean) / deviation == pytest.approx(least, abs=0.01)
    assert (255 - mean) / deviation == pytest.approx(largest, abs=0.01)
