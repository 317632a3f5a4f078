"""Images in folders by class: what is read, and what is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dlcloud_trainer.assignment import StoreAddress
from dlcloud_trainer.data import load_colour_images, load_grey_images
from dlcloud_trainer.errors import InvalidInput
from dlcloud_trainer.parameters import TrainingParameters

from .made import NAMES, cifar_files, folder_files, parquet_file, picture, tar_gz, write_files

HERE = StoreAddress()
PARAMETERS = TrainingParameters()


def colour(tmp_path: Path, files: dict[str, bytes], parameters: TrainingParameters = PARAMETERS) -> Any:
    return load_colour_images(write_files(tmp_path, files), HERE, parameters)


def below(folder: str, files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{folder}/{name}": data for name, data in files.items()}


def test_folders_are_classes(tmp_path: Path) -> None:
    data = colour(tmp_path, folder_files())
    assert data.classes == tuple(sorted(NAMES))
    assert [len(part.labels) for part in (data.train, data.validation, data.test)] == [11, 1, 3]
    assert data.test.images.shape == (3, 3, 6, 5)
    assert [data.classes[label] for label in data.test.labels] == ["red", "green", "blue"]
    assert data.test.images[:, :, 2, 2].tolist() == [[100, 0, 0], [0, 101, 0], [0, 0, 102]]


def test_images_keep_the_order_of_their_numbers(tmp_path: Path) -> None:
    data = colour(tmp_path, folder_files(30), TrainingParameters(validation="last"))
    brightest = data.train.images.flatten(1).max(1).values.tolist()
    assert brightest == list(range(100, 127))
    assert data.validation.images.flatten(1).max(1).values.tolist() == [127, 128, 129]


@pytest.mark.parametrize("folder", ["", "birds"])
def test_archives_hold_the_same_as_folders(tmp_path: Path, folder: str) -> None:
    files = folder_files()
    packed = {"birds.tar.gz": tar_gz(below(folder, files) if folder else files)}
    loose, other = colour(tmp_path / "a", files), colour(tmp_path / "b", packed)
    assert loose.classes == other.classes
    for part, same in zip(
        (loose.train, loose.validation, loose.test), (other.train, other.validation, other.test), strict=True
    ):
        assert torch.equal(part.images, same.images)
        assert torch.equal(part.labels, same.labels)


def test_a_part_may_have_an_archive_of_its_own(tmp_path: Path) -> None:
    files = folder_files()
    packed = {
        f"{part}.tgz": tar_gz({name: data for name, data in files.items() if name.startswith(part)})
        for part in ("train", "test")
    }
    assert len(colour(tmp_path, packed).test.labels) == 3


def test_classes_that_are_numbers_are_in_their_order(tmp_path: Path) -> None:
    files = {f"{part}/{n}/{n}.png": picture(n, shade=100 + n) for part in ("train", "test") for n in range(12)}
    data = colour(tmp_path, files)
    assert data.classes == tuple(str(number) for number in range(12))


def test_jpeg_files_are_read(tmp_path: Path) -> None:
    files = {name.replace(".png", ".JPG"): data for name, data in folder_files().items()}
    files = {name: picture(index, (16, 16), form="JPEG") for index, name in enumerate(files)}
    assert colour(tmp_path, files).train.images.shape == (11, 3, 16, 16)


def test_grey_images_are_read(tmp_path: Path) -> None:
    uri = write_files(tmp_path, folder_files(mode="L"))
    data = load_grey_images(uri, HERE, PARAMETERS)
    assert data.train.images.shape == (11, 1, 6, 5)
    assert len(data.normalisation[0]) == 1


def test_an_image_of_another_size_is_refused_with_both_sizes(tmp_path: Path) -> None:
    files = folder_files() | {"train/red/00003.png": picture(0, (6, 9))}
    with pytest.raises(InvalidInput, match=r"train/red/00003.png: 6x9 pixels, .*train/red/00000.png has 6x5"):
        colour(tmp_path, files)


def test_an_image_of_the_test_must_have_that_size_too(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"test/red/00000.png: 9x9 pixels, .*train/red/00000.png has 6x5"):
        colour(tmp_path, folder_files() | {"test/red/00000.png": picture(0, (9, 9))})


def test_a_damaged_image_is_refused_by_name_loose_and_in_an_archive(tmp_path: Path) -> None:
    files = folder_files()
    files["train/blue/00005.png"] = files["train/blue/00005.png"][:40]
    with pytest.raises(InvalidInput, match=r"train/blue/00005.png: not readable as PNG or JPEG"):
        colour(tmp_path / "a", files)
    with pytest.raises(InvalidInput, match=r"x.tar.gz: train/blue/00005.png: not readable as PNG or JPEG"):
        colour(tmp_path / "b", {"x.tar.gz": tar_gz(files)})


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"no image as test/CLASS/name.png"):
        colour(tmp_path, folder_files(test=0))


def test_a_class_that_only_the_test_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="class 'pink' is in no training image"):
        colour(tmp_path, folder_files() | {"test/pink/1.png": picture(0)})


def test_what_lies_among_the_images_and_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"train/red/list.csv: no PNG or JPEG as train/CLASS/name.png"):
        colour(tmp_path, folder_files() | {"train/red/list.csv": b"a,b"})


def test_hidden_files_and_what_lies_beside_the_parts_are_left_alone(tmp_path: Path) -> None:
    colour(tmp_path, folder_files() | {"train/.DS_Store": b"x", "train/red/.a.png": b"x", "README.md": b"x"})


def test_two_data_sets_in_one_place_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"CIFAR-10 and image folders are in .*; put each data set in a folder"):
        colour(tmp_path / "a", folder_files() | cifar_files())
    with pytest.raises(InvalidInput, match="images below one and two; put one data set there"):
        colour(tmp_path / "b", below("one", folder_files()) | below("two", folder_files()))
    with pytest.raises(InvalidInput, match=r"Parquet files in \. and in x"):
        colour(tmp_path / "c", {"train.parquet": parquet_file([0]), "x/test.parquet": parquet_file([0])})


@pytest.mark.parametrize(("files", "words"), [({}, "nothing is in"), ({"a.txt": b"x"}, "1 files, none that this")])
def test_a_place_without_data_is_told_with_what_may_be_there(
    tmp_path: Path, files: dict[str, bytes], words: str
) -> None:
    with pytest.raises(InvalidInput, match=f"data.uri: {words}.*CIFAR-10"):
        colour(tmp_path, files)


def test_an_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"its archives hold no images as train/CLASS/name.png"):
        colour(tmp_path, {"x.tar.gz": tar_gz({"a/b.txt": b"text"})})


def test_digits_and_colours_do_not_mix(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="grey images; this workload takes colour: cnn reads them"):
        colour(tmp_path, {"train-images-idx3-ubyte": b"x"})
