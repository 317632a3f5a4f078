"""The reader of MNIST's files: what it takes and what it refuses by name."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlcloud_trainer.data.idx import read_images, read_labels
from dlcloud_trainer.errors import InvalidInput

IMAGES = struct.pack(">4I", 0x803, 3, 28, 28) + bytes(range(256)) * 9 + bytes(48)
LABELS = struct.pack(">2I", 0x801, 5) + bytes([0, 9, 5, 1, 1])


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_images_and_labels_are_read_plain_and_gzipped(pack: type[bytes]) -> None:
    images = read_images(pack(IMAGES), "images")
    assert (images.shape, images.dtype) == ((3, 28, 28), np.uint8)
    assert images.tobytes() == IMAGES[16:]
    assert read_labels(pack(LABELS), "labels").tolist() == [0, 9, 5, 1, 1]


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "0 bytes"),
        (LABELS[:7], "7 bytes"),
        (LABELS[:-1], "4 of 5 bytes"),
        (LABELS + b"\0", "more than the 5 bytes"),
        (b"\0\0\x0d\x01" + LABELS[4:], "00 00 0d 01"),
        (b"\1" + LABELS[1:], "01 00 08 01"),
        (IMAGES, "00 00 08 03"),
        (b"<html>not found</html>", "3c 68 74 6d"),
        (struct.pack(">2I", 0x801, 0), "nothing"),
        (struct.pack(">2I", 0x801, 2**32 - 1), "promises 4294967295"),
        (gzip.compress(LABELS)[:-12], "cut short"),
        (gzip.compress(LABELS[:-1]), "4 of 5 bytes"),
        (gzip.compress(LABELS + b"\0"), "more than the 5 bytes"),
        (gzip.compress(LABELS) + b"junk", "4 bytes after the end"),
        (gzip.compress(LABELS)[:-8] + b"\0" * 8, "gzip"),
        (gzip.compress(LABELS)[:20] + b"\xff" * 20, "damaged"),
        (LABELS[:-1] + b"\x0a", "label 10 at position 4"),
    ],
    ids=lambda value: value if isinstance(value, str) else len(value),
)
def test_a_damaged_file_is_refused_by_name(data: bytes, found: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_labels(data, "train-labels")
    assert str(refused.value).startswith("train-labels: ")
    assert found in str(refused.value)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(InvalidInput, match="32x28 pixels"):
        read_images(struct.pack(">4I", 0x803, 1, 32, 28) + bytes(32 * 28), "images")


def test_a_file_that_unpacks_to_more_than_it_promises_costs_no_memory() -> None:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = packer.compress(LABELS) + b"".join(packer.compress(bytes(1 << 20)) for _ in range(200)) + packer.flush()
    tracemalloc.start()
    with pytest.raises(InvalidInput, match="more than"):
        read_labels(bomb, "bomb")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 << 20


@given(st.binary(max_size=60), st.booleans())
def test_no_bytes_make_the_reader_fail_in_another_way(data: bytes, packed: bool) -> None:
    try:
        read_labels(gzip.compress(data) if packed else data, "file")
    except InvalidInput as refused:
        assert "file: " in str(refused)


@given(st.integers(0, len(gzip.compress(LABELS)) - 1), st.integers(1, 255))
def test_a_changed_byte_of_a_gzipped_file_never_gives_other_labels(position: int, change: int) -> None:
    data = bytearray(gzip.compress(LABELS, mtime=0))
    data[position] ^= change
    with suppress(InvalidInput):  # else it was a byte of the gzip header that says nothing
        assert read_labels(bytes(data), "file").tolist() == [0, 9, 5, 1, 1]
