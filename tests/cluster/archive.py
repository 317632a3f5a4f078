"""Container images as files, without a daemon: `write_layer`, `write_image`.

May import the standard library only. The same input gives the same bytes: times are 0, owners root, entries sorted.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class File:
    """A file of a layer: a copy of one here, or these bytes."""

    content: Path | bytes
    mode: int = 0o644


@dataclass(frozen=True)
class Link:
    """A symbolic link."""

    target: str


@dataclass(frozen=True)
class Folder:
    """A folder, where it is to be empty or not 755."""

    mode: int = 0o755


Tree = Mapping[str, File | Link | Folder]  # path without a leading slash -> what is there


def write_layer(target: Path, tree: Tree) -> Path:
    """Write a layer with these files and the folders above them; appears at once. Returns `target`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(f".{target.name}.new")
    with tarfile.open(new, "w", format=tarfile.GNU_FORMAT) as tar:
        for path in sorted({*tree, *folders_above(tree)}):
            add(tar, path, tree.get(path, Folder()))
    return new.replace(target)


def folders_above(tree: Tree) -> Iterator[str]:
    for path in tree:
        yield from (str(parent) for parent in PurePosixPath(path).parents if str(parent) != ".")


def add(tar: tarfile.TarFile, path: str, what: File | Link | Folder) -> None:
    entry = tarfile.TarInfo(path)
    match what:
        case Folder(mode):
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            tar.addfile(entry)
        case Link(link):
            entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, link, 0o777
            tar.addfile(entry)
        case File(Path() as source, mode):
            entry.mode, entry.size = mode, source.stat().st_size
            with source.open("rb") as file:
                tar.addfile(entry, file)
        case File(bytes() as content, mode):
            entry.mode, entry.size = mode, len(content)
            tar.addfile(entry, io.BytesIO(content))


def write_image(target: Path, names: Sequence[str], config: Mapping[str, Any], layers: Sequence[Path]) -> Path:
    """Write an image (docker-archive: `docker load`, `ctr images import`) of these layers, lowest first.

    `config` is the image's "config" object, for example {"Entrypoint": ["/pause"]}. Returns `target`, which appears at
    once.
    """
    about = json.dumps(
        {
            "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest(layer)}" for layer in layers]},
        },
        sort_keys=True,
    ).encode()
    files = [f"layer{number}.tar" for number in range(len(layers))]
    manifest = json.dumps([{"Config": "config.json", "RepoTags": list(names), "Layers": files}]).encode()
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(f".{target.name}.new")
    with tarfile.open(new, "w", format=tarfile.GNU_FORMAT) as tar:
        add(tar, "manifest.json", File(manifest))
        add(tar, "config.json", File(about))
        for name, layer in zip(files, layers, strict=True):
            add(tar, name, File(layer))
    return new.replace(target)


def digest(path: Path) -> str:
    """The file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
