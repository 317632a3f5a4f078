"""The files of a folder that is to be uploaded.

May import the standard library and the index. Reads names and sizes only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..checkpoint_tool.lines import ToolError
from .index import INDEX, PARTIAL, is_name

PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Local:
    """A file by its name in the data set, as it was found."""

    name: str
    path: Path
    size_bytes: int
    changed_ns: int

    def pieces(self) -> Iterator[bytes]:
        """Its content; raises `ToolError` when the file was changed since it was found."""
        with self.path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                yield piece
            stat = os.fstat(file.fileno())
        if (stat.st_size, stat.st_mtime_ns) != (self.size_bytes, self.changed_ns):
            raise ToolError(f"{self.path}: it was changed while it was read; start again when nobody writes it")


def find_files(source: Path) -> list[Local]:
    """One file, or all of a folder and the folders in it, by their names; hidden ones stay. Links to files are
    followed, links to folders not. Raises `ToolError`."""
    if source.is_file():
        return [_local(source.name, source)]
    if not source.is_dir():
        raise ToolError(f"{source}: there is no such file or folder; give the data set's", usage=True)

    def refuse(error: OSError) -> None:
        raise ToolError(f"{error.filename}: {error.strerror}; make the folder readable")

    found = []
    for folder, folders, names in os.walk(source, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(folder) / name
            if not name.startswith(".") and name not in (INDEX, PARTIAL):
                found.append(_local(path.relative_to(source).as_posix(), path))
    if not found:
        raise ToolError(f"{source}: no files are in it; give the folder of a data set", usage=True)
    return sorted(found, key=lambda file: file.name)


def _local(name: str, path: Path) -> Local:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ToolError(f"{str(path)!a}: its name is no UTF-8; rename it") from None
    if not is_name(name):
        raise ToolError(f"{str(path)!a}: a name of printable characters is needed; rename it")
    if not path.is_file():
        raise ToolError(f"{path}: it is no file; take it out of the folder")
    stat = path.stat()
    return Local(name, path, stat.st_size, stat.st_mtime_ns)
