"""CIFAR-10's binary version: what is read, and what is refused by name."""

from __future__ import annotations

import gzip
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dlcloud_trainer.assignment import StoreAddress
from dlcloud_trainer.data import load_colour_images, load_grey_images
from dlcloud_trainer.data.cifar import CLASSES, read_batch
from dlcloud_trainer.errors import InvalidInput
from dlcloud_trainer.parameters import TrainingParameters

from .made import BATCHES, cifar_files, cifar_records, tar_gz, write_files

HERE = StoreAddress()
PARAMETERS = TrainingParameters()


def in_folder(files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"cifar-10-batches-bin/{name}": data for name, data in files.items()}


def in_archive(files: dict[str, bytes]) -> dict[str, bytes]:
    return {"cifar-10-binary.tar.gz": tar_gz(in_folder(files))}


@pytest.mark.parametrize("laid_out", [dict, in_folder, in_archive])
def test_the_six_files_are_read_loose_in_their_folder_and_in_their_archive(tmp_path: Path, laid_out: Any) -> None:
    data = load_colour_images(write_files(tmp_path, laid_out(cifar_files(24))), HERE, PARAMETERS)
    assert [len(part.labels) for part in (data.train, data.validation, data.test)] == [110, 10, 24]
    assert data.train.images.shape == (110, 3, 32, 32)
    assert (data.train.images.dtype, data.train.labels.dtype) == (torch.uint8, torch.int64)
    assert data.classes == CLASSES
    wanted = np.frombuffer(cifar_records(24, 5), np.uint8).reshape(24, 3073)
    assert data.test.labels.tolist() == wanted[:, 0].tolist()
    assert torch.equal(data.test.images.reshape(24, -1), torch.from_numpy(wanted[:, 1:].copy()))


def test_an_archive_is_also_found_by_its_own_uri(tmp_path: Path) -> None:
    uri = write_files(tmp_path, in_archive(cifar_files()) | {"other.tar.gz": b"something else"})
    assert len(load_colour_images(f"{uri}/cifar-10-binary.tar.gz", HERE, PARAMETERS).test.labels) == 20


def test_the_last_tenth_is_set_aside_where_that_is_asked_for(tmp_path: Path) -> None:
    uri = write_files(tmp_path, cifar_files(20))
    data = load_colour_images(uri, HERE, TrainingParameters(validation="last"))
    assert [len(part.labels) for part in (data.train, data.validation)] == [90, 10]
    last = np.frombuffer(cifar_records(20, 4), np.uint8).reshape(20, 3073)[10:]
    assert data.validation.labels.tolist() == last[:, 0].tolist()


def test_classes_have_the_names_that_the_set_gives_them(tmp_path: Path) -> None:
    names = [f"kind {number}" for number in range(10)]
    uri = write_files(tmp_path, cifar_files() | {"batches.meta.txt": "\n".join([*names, "", ""]).encode()})
    assert load_colour_images(uri, HERE, PARAMETERS).classes == tuple(names)


def test_pixels_are_normalised_by_the_training_part_channel_by_channel(tmp_path: Path) -> None:
    data = load_colour_images(write_files(tmp_path, cifar_files(40)), HERE, PARAMETERS)
    pixels = data.train.images.double()
    for channel in range(3):
        assert data.normalisation[0][channel] == pytest.approx(pixels[:, channel].mean().item(), rel=1e-12)
        wanted = pixels[:, channel].std(correction=0).item()
        assert data.normalisation[1][channel] == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize("name", BATCHES)
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    files = cifar_files()
    del files[name]
    for laid_out in (dict, in_archive):
        uri = write_files(tmp_path / laid_out.__name__, laid_out(files))
        with pytest.raises(InvalidInput, match=f"{name}: the file is missing"):
            load_colour_images(uri, HERE, PARAMETERS)


@pytest.mark.parametrize("name", ["data_batch_1", "cifar-10-batches-py/data_batch_1", "cifar-10-python.tar.gz"])
def test_the_pickled_version_is_refused_with_advice(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match=r"pickles, .* put the binary version \(cifar-10-binary.tar.gz\) there"):
        load_colour_images(write_files(tmp_path, {name: b"\x80\x02}q\x01."}), HERE, PARAMETERS)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "0 bytes, not a whole number of records of 3073"),
        (cifar_records(3)[:-1], "9218 bytes, not a whole number"),
        (cifar_records(3) + b"\0", "9220 bytes, not a whole number"),
        (b"<html>not found</html>", "22 bytes, not a whole number"),
        (b"\x0a" + bytes(3072), "label 10 at record 0; allowed are 0 to 9"),
        (cifar_records(2) + b"\xff" + bytes(3072), "label 255 at record 2"),
    ],
    ids=lambda value: value if isinstance(value, str) else len(value),
)
def test_a_damaged_file_is_refused_by_name(data: bytes, words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_batch(data, "data_batch_1.bin")
    assert str(refused.value).startswith("data_batch_1.bin: ")
    assert words in str(refused.value)


def test_a_file_cut_at_the_end_of_a_record_is_noticed(tmp_path: Path) -> None:
    files = cifar_files()
    files["data_batch_4.bin"] = files["data_batch_4.bin"][: 19 * 3073]
    with pytest.raises(InvalidInput, match=r"data_batch_4.bin: 19 images, data_batch_1.bin has 20"):
        load_colour_images(write_files(tmp_path, files), HERE, PARAMETERS)


def test_a_workload_for_grey_images_says_that_these_are_not(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"images of 3 channels; this workload takes grey ones: cifar reads it"):
        load_grey_images(write_files(tmp_path, cifar_files()), HERE, PARAMETERS)


@given(st.binary(max_size=6200))
def test_no_bytes_make_the_reader_fail_in_another_way(data: bytes) -> None:
    with suppress(InvalidInput):
        images, labels = read_batch(data, "file")
        assert images.shape == (len(labels), 3, 32, 32)


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_an_archive_with_a_byte_changed_is_refused_or_read_as_it_was(place: int, change: int) -> None:
    from dlcloud_trainer.data.archive import unpack

    files = {name: data[: 3073 * 2] for name, data in cifar_files(2).items()}
    packed = bytearray(tar_gz(files))
    packed[place % len(packed)] ^= change
    try:
        found = dict(unpack(bytes(packed), "archive", lambda name: True))
    except InvalidInput as refused:
        assert str(refused).startswith("archive: ")
    else:
        assert found == files  # a byte of the gzip header that says nothing


def test_a_cut_archive_is_refused_wherever_it_is_cut() -> None:
    from dlcloud_trainer.data.archive import unpack

    files = cifar_files(2)
    whole = tar_gz(files)
    raw = gzip.decompress(whole)
    cuts = [whole[:at] for at in range(0, len(whole), 997)]
    cuts += [gzip.compress(raw[:at]) for at in range(0, len(raw) - 10_240, 512)]
    for cut in cuts:
        with pytest.raises(InvalidInput, match="archive: "):
            dict(unpack(cut, "archive", lambda name: True))


def test_an_archive_that_unpacks_to_far_more_is_refused_and_costs_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    import tracemalloc

    from dlcloud_trainer.data import archive

    monkeypatch.setattr(archive, "MAX_BYTES", 50 << 20)
    bomb = tar_gz({"a.bin": bytes(60 << 20)})
    tracemalloc.start()
    with pytest.raises(InvalidInput, match="unpacks to more than"):
        dict(archive.unpack(bomb, "bomb", lambda name: name == "b.bin"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_a_link_in_an_archive_leads_nowhere(tmp_path: Path) -> None:
    import io
    import tarfile

    from dlcloud_trainer.data.archive import unpack

    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz") as packed:
        link = tarfile.TarInfo("secret")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        packed.addfile(link)
    assert list(unpack(held.getvalue(), "archive", lambda name: True)) == []
