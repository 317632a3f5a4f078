"""A file that grows slice by slice under another name, and remembers across interruptions what it holds.

May import the standard library and this package's values. Beside `NAME.partial` lies `NAME.partial.jsonl`: what is
being written, and the CRC of what every finished slice put into the file. Trusted is only what still has its CRC.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from .lines import ToolError
from .tensors import FilePlan, Segment

CHUNK = 8 << 20


class PartialFile:
    """The growing file; use it with `with`. `finish` gives it its name, else it stays for the next time."""

    def __init__(self, file: Path, plan: FilePlan, mark: Mapping[str, Any]) -> None:
        """`mark` says what the file will be: a rest with another mark is begun anew."""
        self.path = file.with_name(f"{file.name}.partial")
        self._file, self._plan, self._mark = file, plan, dict(mark)
        self._journal = file.with_name(f"{file.name}.partial.jsonl")
        self._known: dict[int, int] = {}
        self._lock = threading.Lock()
        self._fd = -1

    def __enter__(self) -> Self:
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ToolError(
                    f"{self.path}: another dlcloud is writing it; wait for it, or give another --out"
                ) from None
            self._known = self._read_journal()
            if not self._known:
                os.ftruncate(self._fd, 0)
                self._journal.write_text(json.dumps(self._mark) + "\n")
            os.ftruncate(self._fd, self._plan.size_bytes)
            os.pwrite(self._fd, self._plan.header, 0)
        except BaseException:
            os.close(self._fd)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def allocated_bytes(self) -> int:
        """What of the file already lies on the disk."""
        return os.fstat(self._fd).st_blocks * 512

    def holds(self, index: int, segments: Sequence[Segment]) -> bool:
        """Whether this slice's bytes are in the file, as they were when they came."""
        return index in self._known and self._crc(segments) == self._known[index]

    def write(self, index: int, view: memoryview, begin: int, segments: Sequence[Segment]) -> None:
        """Put a slice (`view`, which begins at `begin` of the flat buffer) where it belongs. Raises OSError."""
        crc = 0
        for segment in segments:
            piece = view[segment.source - begin : segment.source - begin + segment.size]
            crc = zlib.crc32(piece, crc)
            at = segment.target
            while piece:
                written = os.pwrite(self._fd, piece, at)
                piece, at = piece[written:], at + written
        with self._lock, self._journal.open("a") as journal:
            journal.write(json.dumps({"slice": index, "crc32": crc}) + "\n")

    def finish(self) -> None:
        """Give the whole file its name. Raises OSError."""
        os.fsync(self._fd)
        self.path.replace(self._file)
        self._journal.unlink(missing_ok=True)

    def _read_journal(self) -> dict[int, int]:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            first, *rest = self._journal.read_text().splitlines()
            if json.loads(first) != self._mark:
                return {}
            found = {}
            for line in rest:
                with contextlib.suppress(ValueError):  # the last one may be half
                    entry = json.loads(line)
                    found[int(entry["slice"])] = int(entry["crc32"])
            return found
        return {}

    def _crc(self, segments: Sequence[Segment]) -> int:
        crc = 0
        for segment in segments:
            at, end = segment.target, segment.target + segment.size
            while at < end:
                data = os.pread(self._fd, min(CHUNK, end - at), at)
                if not data:
                    return -1
                crc = zlib.crc32(data, crc)
                at += len(data)
        return crc
