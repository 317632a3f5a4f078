"""One thing wrong with a manifest, and the errors that carry them.

May import the standard library only.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """`path` as the user wrote it (`spec.workers.count`); `message` says what was given, what is allowed, what to do."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class InvalidManifest(Exception):
    """The manifest has problems; all of them are listed."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems
