"""CIFAR-10 in its binary version, read strictly: five training files and one of test images, loose or in their archive.

May import numpy and the modules for files, archives and splits. Never unpickles: the Python version of CIFAR-10 is
refused by name. Format: https://www.cs.toronto.edu/~kriz/cifar.html (a record is a label and 3 x 32 x 32 bytes).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..errors import InvalidInput
from .archive import unpack
from .files import Files
from .splits import Images, Splits, make_splits

TRAIN = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST = "test_batch.bin"
NAMES = "batches.meta.txt"
FOLDER = "cifar-10-batches-bin/"
ARCHIVE = "cifar-10-binary.tar.gz"
PICKLED = ("cifar-10-python.tar.gz", "cifar-10-batches-py/data_batch_1", "data_batch_1")
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SHAPE = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32
MAX_BYTES = 1 << 30  # of one file; CIFAR-10's have 31 million


def is_cifar(files: Files) -> bool:
    """Whether CIFAR-10 lies there, in whatever version."""
    wanted = {*TRAIN, TEST, ARCHIVE, *(FOLDER + name for name in (*TRAIN, TEST)), *PICKLED}
    return any(name in wanted for name in files.names)


def load_cifar(files: Files, validation: str) -> Splits[Images]:
    """The three parts; `validation` as in `TrainingParameters`. Raises `InvalidInput` naming the file, or the store's
    error."""
    contents = _contents(files)
    for name in (*TRAIN, TEST):
        if name not in contents:
            raise InvalidInput(f"{files.uri(name)}: the file is missing; put all of {TRAIN[0]} to 5 and {TEST} there")
    train, labels = _train(contents, files)
    test, test_labels = read_batch(contents.pop(TEST), files.uri(TEST))
    return make_splits(
        train,
        labels,
        test,
        test_labels,
        classes=_classes(contents.get(NAMES, b"")),
        validation=validation,
        where=files.uri(),
    )


def _train(contents: dict[str, bytes], files: Files) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The training files as one; their contents are let go of."""
    parts = [read_batch(contents.pop(name), files.uri(name)) for name in TRAIN]
    counts = [len(labels) for _, labels in parts]
    for name, count in zip(TRAIN, counts, strict=True):
        if count != counts[0]:
            raise InvalidInput(
                f"{files.uri(name)}: {count} images, {TRAIN[0]} has {counts[0]}; one of them is cut short, copy both "
                "again"
            )
    return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])


def read_batch(data: bytes, name: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images (n, 3, 32, 32) and labels (n,) of one file; raises `InvalidInput` naming it."""
    if not data or len(data) % RECORD:
        raise InvalidInput(
            f"{name}: {len(data)} bytes, not a whole number of records of {RECORD}; it is cut short or no file of the "
            "binary version of CIFAR-10, copy it again"
        )
    if len(data) > MAX_BYTES:
        raise InvalidInput(f"{name}: {len(data)} bytes, at most {MAX_BYTES} are read; it is no file of CIFAR-10")
    records = np.frombuffer(data, np.uint8).reshape(-1, RECORD)
    labels = records[:, 0]
    wrong = np.flatnonzero(labels >= len(CLASSES))
    if len(wrong):
        first = int(wrong[0])
        raise InvalidInput(
            f"{name}: label {labels[first]} at record {first}; allowed are 0 to 9, the file is damaged or of another "
            "data set"
        )
    return records[:, 1:].reshape(-1, *SHAPE), labels.astype(np.int64)


def _contents(files: Files) -> dict[str, bytes]:
    wanted = (*TRAIN, TEST, NAMES)
    for folder in ("", FOLDER):
        if any(folder + name in files.names for name in (*TRAIN, TEST)):
            return files.read_all({name: folder + name for name in wanted if folder + name in files.names})
    if ARCHIVE in files.names:
        found: dict[str, bytes] = {}
        for name, data in unpack(files.read(ARCHIVE), files.uri(ARCHIVE), lambda name: name.split("/")[-1] in wanted):
            found[name.split("/")[-1]] = data
        return found
    pickled = next(name for name in PICKLED if name in files.names)
    raise InvalidInput(
        f"{files.uri(pickled)}: the Python version of CIFAR-10 holds pickles, which can run code and are not read; put "
        f"the binary version ({ARCHIVE}) there"
    )


def _classes(text: bytes) -> tuple[str, ...]:
    """Names by batches.meta.txt, where it has ten."""
    lines = [line.strip() for line in text.decode("utf-8", "replace").splitlines()]
    names = tuple(line for line in lines if line)
    return names if len(names) == len(CLASSES) and len(set(names)) == len(names) else CLASSES
