"""tar.gz archives, read as a stream: what is asked for is handed over, nothing is written to a disk.

May import the standard library only. Memory is bounded by `MAX_MEMBER_BYTES` and time by `MAX_BYTES`, whatever an
archive claims or unpacks to; its end and its checksum are always read. Never follows a link.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Callable, Iterator

from ..errors import InvalidInput

MAX_MEMBER_BYTES = 1 << 30
MAX_BYTES = 16 << 30
END = 1024  # zero bytes end an archive
PIECE_BYTES = 1 << 20
AGAIN = "copy it again"


def unpack(data: bytes, name: str, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Name and content of each wanted file, in the archive's order; raises `InvalidInput` naming the archive."""
    stream = _Bounded(data, name)
    seen: set[str] = set()
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=PIECE_BYTES) as archive:
            for member in archive:
                archive.members.clear()  # type: ignore[attr-defined] # it would keep all it has seen
                path = member.name.removeprefix("./")
                if not member.isreg() or not wanted(path):
                    continue
                if member.size > MAX_MEMBER_BYTES:
                    raise InvalidInput(
                        f"{name}: {path} has {member.size} bytes, at most {MAX_MEMBER_BYTES} are read; leave it out"
                    )
                if path in seen:
                    raise InvalidInput(f"{name}: {path} is in it twice; make the archive again")
                seen.add(path)
                file = archive.extractfile(member)
                assert file is not None  # a regular file
                yield path, file.read()
        while stream.read(PIECE_BYTES):
            pass  # to the checksum
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError, OverflowError) as error:
        raise InvalidInput(f"{name}: not readable as tar.gz ({_reason(error)}); the file is damaged, {AGAIN}") from None
    if stream.tail != bytes(END):
        raise InvalidInput(f"{name}: the archive breaks off; the file is cut short, {AGAIN}")


def _reason(error: BaseException) -> str:
    return (str(error).rsplit(": ", 1)[-1] or type(error).__name__).rstrip(".").lower()


class _Bounded(io.RawIOBase):
    """The unpacked bytes, with their last ones kept; raises `InvalidInput` when there are too many."""

    def __init__(self, data: bytes, name: str) -> None:
        self._file = gzip.GzipFile(fileobj=io.BytesIO(data))
        self._name, self._left, self.tail = name, MAX_BYTES, b""

    def read(self, size: int = -1) -> bytes:
        part = self._file.read(PIECE_BYTES if size < 0 else min(size, PIECE_BYTES))
        self._left -= len(part)
        if self._left < 0:
            raise InvalidInput(f"{self._name}: unpacks to more than {MAX_BYTES} bytes; make a smaller archive")
        self.tail = (self.tail + part)[-END:]
        return part
