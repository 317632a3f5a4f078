"""What is wrong with a manifest file, and where in it.

May import the operator's api package and the caret. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from dlcloud_operator.api import Problem

from .caret import excerpt


@dataclass(frozen=True)
class Place:
    """A line and a column of a file, counted from 1, and how many characters from there on are meant."""

    line: int
    column: int
    length: int = 1


@dataclass(frozen=True)
class ManifestError:
    """One mistake. `place` is None when it is about the whole file."""

    file: str
    place: Place | None
    problem: Problem

    def __str__(self) -> str:
        where = f"{self.file}:{self.place.line}:{self.place.column}" if self.place else self.file
        return f"{where}: {self.problem}" if self.problem.path else f"{where}: {self.problem.message}"

    def as_json(self) -> dict[str, object]:
        """For `dlcloud validate -o json`; line and column are null when it is about the whole file."""
        place = self.place
        return {
            "file": self.file,
            "line": place.line if place else None,
            "column": place.column if place else None,
            "path": self.problem.path,
            "message": self.problem.message,
        }


class ManifestErrors(Exception):
    """A file is no TrainingJob; all its mistakes, in the order of their lines. `text` is what the file holds;
    `foreign`: it is sound YAML of other kinds alone."""

    def __init__(self, errors: list[ManifestError], text: str = "", *, foreign: bool = False) -> None:
        self.errors = tuple(sorted(errors, key=lambda e: (e.place.line, e.place.column) if e.place else (0, 0)))
        self.text = text
        self.foreign = foreign
        super().__init__("\n".join(map(str, self.errors)))

    def explained(self, width: int = 100) -> str:
        """Every mistake, and below it its line with a caret under the place, no wider than `width` columns."""
        lines: list[str] = []
        for error in self.errors:
            lines.append(str(error))
            if error.place is not None:
                place = error.place
                lines += excerpt(self.text, place.line, place.column, place.length, width=width)
        return "\n".join(lines)
