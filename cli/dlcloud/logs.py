"""Follow the log files of the pods.

May import the standard library only. Never reads a file twice, and never raises for one that is gone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

_CHUNK = 256 * 1024
_LONGEST_LINE = 4096


class LogFollower:
    """Hands out the lines each file gained since the last look."""

    def __init__(self) -> None:
        self._offsets: dict[Path, int] = {}
        self._rest: dict[Path, bytes] = {}

    def poll(self, paths: Iterable[Path]) -> list[str]:
        """New complete lines, file by file; when a file grew by more than 256 KiB, its newest ones."""
        lines: list[str] = []
        for path in paths:
            lines += self._poll_one(path)
        return lines

    def skip(self, paths: Iterable[Path]) -> None:
        """Leave out what these files hold already."""
        for path in paths:
            with contextlib.suppress(OSError):
                self._offsets[path] = path.stat().st_size

    def _poll_one(self, path: Path) -> list[str]:
        offset = self._offsets.get(path, 0)
        try:
            with path.open("rb") as file:
                end = file.seek(0, 2)
                if end == offset:
                    return []
                if end - offset > _CHUNK:
                    offset = end - _CHUNK
                    self._rest[path] = b""
                file.seek(offset)
                data = self._rest.get(path, b"") + file.read(end - offset)
        except OSError:
            return []
        self._offsets[path] = end
        *complete, rest = data.split(b"\n")
        if len(rest) > _LONGEST_LINE:  # a progress bar that never ends its line
            complete.append(rest)
            rest = b""
        self._rest[path] = rest
        # What a carriage return overwrote would not be seen on a terminal either.
        texts = (raw.rstrip(b"\r").rsplit(b"\r", 1)[-1].decode("utf-8", "replace") for raw in complete)
        return [text[:_LONGEST_LINE] for text in texts if text.strip()]
