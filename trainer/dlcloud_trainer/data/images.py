"""Which format a data set of images has, by the names of its files, and its reader.

May import the readers. A place that holds two data sets is refused: nobody would know which was trained on.
"""

from __future__ import annotations

from ..errors import InvalidInput
from .cifar import is_cifar, load_cifar
from .files import Files
from .folders import find_images, has_archives, load_archives, load_folders
from .mnist import is_mnist, load_mnist
from .parquet import find_shards, load_parquet
from .splits import Images, Splits

WANTED = {
    1: "the four files of MNIST, train.parquet and test.parquet, or grey images as train/CLASS/name.png",
    3: "CIFAR-10 (binary version), train.parquet and test.parquet, or images as train/CLASS/name.png",
}


def load_images(files: Files, channels: int, validation: str) -> Splits[Images]:
    """Images of so many channels in three parts; raises `InvalidInput` naming what is wrong, or the store's error."""
    where = files.uri()
    kinds = {
        "MNIST's files": is_mnist(files),
        "CIFAR-10": is_cifar(files),
        "Parquet files": bool(find_shards(files.names, where)),
        "image folders": bool(find_images(files.names)),
    }
    found = [kind for kind, there in kinds.items() if there]
    if len(found) > 1:
        raise InvalidInput(
            f"data.uri: {found[0]} and {found[1]} are in {where}; put each data set in a folder of its own"
        )
    if found == ["MNIST's files"]:
        if channels != 1:
            raise InvalidInput(
                f"data.uri: MNIST's files are in {where}, grey images; this workload takes colour: cnn reads them"
            )
        return load_mnist(files, validation)
    if found == ["CIFAR-10"]:
        if channels != 3:
            raise InvalidInput(
                f"data.uri: CIFAR-10 is in {where}, images of 3 channels; this workload takes grey ones: cifar reads it"
            )
        return load_cifar(files, validation)
    if found == ["Parquet files"]:
        return load_parquet(files, channels, validation)
    if found:
        return load_folders(files, channels, validation)
    if has_archives(files):
        return load_archives(files, channels, validation)
    if files.unfinished:
        raise InvalidInput(f"data.uri: an upload to {where} is not done; start `dlcloud data put` again")
    there = f"{len(files.names)} files, none that this workload reads," if files.names else "nothing"
    verb = "are" if files.names else "is"
    raise InvalidInput(f"data.uri: {there} {verb} in {where}; put there {WANTED[channels]}")
