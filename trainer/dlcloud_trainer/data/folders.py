"""Images in folders by class, `train/CLASS/name.png` and `test/CLASS/name.png`, loose or in tar.gz archives.

May import numpy and the modules for files, archives, decoding and splits. Images are taken in the order of their names,
and only then of their classes: names that count through the whole data set keep its order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from ..errors import InvalidInput
from .archive import unpack
from .decode import Gallery
from .files import ARCHIVES, Files
from .labels import class_names, to_labels
from .splits import Images, Splits, make_splits

PARTS = ("train", "test")
ENDINGS = (".png", ".jpg", ".jpeg")
AT_ONCE = 512  # files read ahead of the decoder
MAX_ARCHIVED_BYTES = 4 << 30


@dataclass(frozen=True)
class Found:
    """An image; `order` sorts it."""

    part: str
    label: str
    order: tuple[str, str]
    name: str
    root: str


Contents = Callable[[Sequence[Found]], Iterable[tuple[bytes, str]]]


def find_images(names: Sequence[str] | frozenset[str]) -> list[Found]:
    """The images among files of these names, sorted; their folder may lie in another one."""
    found = []
    for name in names:
        *above, part, label, file = ("", "", *name.split("/"))
        root = "/".join(above[2:])
        if part in PARTS and len(above) <= 3 and name.lower().endswith(ENDINGS):
            found.append(Found(part, label, (file, label), name, root))
    return sorted(found, key=lambda one: (one.part, one.order, one.name))


def has_archives(files: Files) -> bool:
    """Whether there are archives that may hold such folders."""
    return any(name.endswith(ARCHIVES) for name in files.names)


def load_folders(files: Files, channels: int, validation: str) -> Splits[Images]:
    """Loose images; raises `InvalidInput` naming the file, or the store's error."""
    found = find_images(files.names)
    _refuse_others(files, found)

    def contents(images: Sequence[Found]) -> Iterator[tuple[bytes, str]]:
        for start in range(0, len(images), AT_ONCE):
            some = images[start : start + AT_ONCE]
            read = files.read_all({one.name: one.name for one in some})
            yield from ((read[one.name], files.uri(one.name)) for one in some)

    return _load(found, contents, channels, validation, files.uri())


def load_archives(files: Files, channels: int, validation: str) -> Splits[Images]:
    """The images of all archives; raises `InvalidInput` naming the archive or the image, or the store's error."""
    held: dict[str, tuple[bytes, str]] = {}
    room = MAX_ARCHIVED_BYTES
    for archive in sorted(name for name in files.names if name.endswith(ARCHIVES)):
        for name, data in unpack(files.read(archive), files.uri(archive), lambda name: bool(find_images([name]))):
            shown = f"{files.uri(archive)}: {name}"
            if name in held:
                raise InvalidInput(f"{shown}: it is in another archive as well; leave one of them")
            room -= len(data)
            if room < 0:
                raise InvalidInput(f"{shown}: more than {MAX_ARCHIVED_BYTES} bytes of images; put them there loose")
            held[name] = (data, shown)
    if not held:
        raise InvalidInput(
            f"{files.uri()}: its archives hold no images as train/CLASS/name.png or .jpg; make them with these folders"
        )

    def contents(images: Sequence[Found]) -> Iterable[tuple[bytes, str]]:
        return (held[one.name] for one in images)

    return _load(find_images(list(held)), contents, channels, validation, files.uri())


def _load(found: Sequence[Found], contents: Contents, channels: int, validation: str, where: str) -> Splits[Images]:
    roots = sorted({one.root for one in found})
    if len(roots) > 1:
        raise InvalidInput(f"{where}: images below {roots[0] or '.'} and {roots[1]}; put one data set there")
    parts = {part: [one for one in found if one.part == part] for part in PARTS}
    for part, images in parts.items():
        if not images:
            raise InvalidInput(f"{where}: no image as {part}/CLASS/name.png or .jpg; put the folder {part} there")
    classes = class_names({one.label for one in parts["train"]}, where)
    galleries: dict[str, Gallery] = {}
    for part, images in parts.items():
        galleries[part] = Gallery(channels, galleries.get("train"))
        for data, name in contents(images):
            galleries[part].add(data, name)
    labels = {part: to_labels([one.label for one in images], classes, where) for part, images in parts.items()}
    return make_splits(
        galleries["train"].pixels(),
        labels["train"],
        galleries["test"].pixels(),
        labels["test"],
        classes=classes,
        validation=validation,
        where=where,
    )


def _refuse_others(files: Files, found: Sequence[Found]) -> None:
    """What lies among the images and is none: a data set that is half of something else."""
    images = {one.name for one in found}
    roots = {f"{one.root}/{part}/".lstrip("/") for one in found for part in PARTS}
    for name in sorted(files.names - images):
        if any(name.startswith(root) for root in roots):
            raise InvalidInput(
                f"{files.uri(name)}: no PNG or JPEG as train/CLASS/name.png or .jpg; take it out of the folder"
            )
