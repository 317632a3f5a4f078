"""The output of a local run's pods, from their files. May import the jobs' protocol and the standard library."""

from __future__ import annotations

from pathlib import Path

from .run_folder import is_held
from .source import LogLine


class FileLogs:
    """A LogReader over `run_dir/pods/*/log`; nothing is left out, however much it is."""

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._offsets: dict[Path, int] = {}

    def poll(self, *, rest: bool = False) -> list[LogLine]:
        """The complete lines that came since the last call; of a run that is over also the last, unended ones."""
        over = not is_held(self._run_dir)  # asked first: what is written before that is read below
        lines: list[LogLine] = []
        for path in sorted(self._run_dir.glob("pods/*/log"), key=_order):
            lines += [LogLine(path.parent.name, text) for text in self._new(path, over)]
        return lines

    def close(self) -> None:
        """Nothing is kept open."""

    def _new(self, path: Path, over: bool) -> list[str]:
        offset = self._offsets.get(path, 0)
        try:
            with path.open("rb") as file:
                file.seek(offset)
                data = file.read()
        except OSError:
            return []
        if not over:
            data = data[: data.rfind(b"\n") + 1]
        if not data:
            return []
        self._offsets[path] = offset + len(data)
        *texts, last = data.decode("utf-8", "replace").split("\n")
        return [text.rstrip("\r") for text in (*texts, *([last] if last else []))]


def _order(path: Path) -> tuple[int, int, str]:
    """Worker by worker, and in each one its pods in the order they were made."""
    _, index, incarnation = (["", "", *path.parent.name.rsplit("-", 2)])[-3:]
    return (int(index), int(incarnation), "") if index.isdigit() and incarnation.isdigit() else (0, 0, str(path))
