"""Small data sets made for tests: images whose colour tells their class."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

BATCHES = (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin")
NAMES = ("red", "green", "blue")
Pixels = npt.NDArray[np.uint8]


def cifar_records(count: int, seed: int = 0) -> bytes:
    """Records of CIFAR-10's binary version: the brightest row of the image tells its class."""
    random = np.random.RandomState(seed)
    labels = np.arange(count) % 10
    images = random.randint(0, 60, (count, 3, 32, 32))
    images[np.arange(count), :, 3 * labels + 1] = 250
    return np.concatenate([labels[:, None], images.reshape(count, -1)], axis=1).astype(np.uint8).tobytes()


def cifar_files(count: int = 20) -> dict[str, bytes]:
    """The six files, `count` images each."""
    return {name: cifar_records(count, seed) for seed, name in enumerate(BATCHES)}


def write_files(folder: Path, files: Mapping[str, bytes]) -> str:
    """The folder's URI."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return f"file://{folder}"


def tar_gz(files: Mapping[str, bytes]) -> bytes:
    """An archive of these files, the same bytes every time."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        for name, data in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    return gzip.compress(held.getvalue(), mtime=0)


def picture(
    label: int, size: tuple[int, int] = (6, 5), mode: str = "RGB", form: str = "PNG", shade: int = 200
) -> bytes:
    """A file of one colour, `size` is height and width."""
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[..., label % 3] = shade
    held = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(held, form)
    return held.getvalue()


def folder_files(train: int = 12, test: int = 3, mode: str = "RGB") -> dict[str, bytes]:
    """`train/red/00000.png` and so on, numbered through all classes."""
    return {
        f"{part}/{NAMES[index % 3]}/{index:05d}.png": picture(index, mode=mode, shade=100 + index)
        for part, count in (("train", train), ("test", test))
        for index in range(count)
    }


def parquet_file(
    labels: Sequence[Any], *, images: Sequence[Any] | None = None, column: str = "image", metadata: Any = None
) -> bytes:
    """A Parquet file of images (bytes of PNG by default) and their labels."""
    values = [picture(index, shade=100 + index) for index in range(len(labels))] if images is None else list(images)
    table = pa.table({column: values, "label": list(labels)})
    held = io.BytesIO()
    parquet.write_table(table.replace_schema_metadata(metadata), held, write_page_checksum=True)
    return held.getvalue()
