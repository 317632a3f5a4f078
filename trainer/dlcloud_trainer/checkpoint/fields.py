"""Strict reading of parsed JSON: every accessor checks the type and names the field that is wrong.

May import the standard library and errors. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from .errors import Damaged

T = TypeVar("T")


@dataclass(frozen=True)
class Fields:
    """A JSON object and where it came from."""

    values: Mapping[str, Any]
    where: str

    def any(self, name: str) -> Any:
        if name not in self.values:
            raise Damaged(f"{self.where}: {name} is missing")
        return self.values[name]

    def text(self, name: str) -> str:
        return self._typed(name, str, "text")

    def flag(self, name: str) -> bool:
        return self._typed(name, bool, "true or false")

    def integer(self, name: str) -> int:
        value = self._typed(name, int, "an integer")
        if isinstance(value, bool):
            raise Damaged(f"{self.where}: {name} is {value}, not an integer")
        return value

    def natural(self, name: str) -> int:
        value = self.integer(name)
        if value < 0:
            raise Damaged(f"{self.where}: {name} is {value}, not 0 or more")
        return value

    def number(self, name: str) -> float:
        value = self.any(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise Damaged(f"{self.where}: {name} is {value!r}, not a finite number")
        return float(value)

    def time(self, name: str) -> datetime:
        value = self.text(name)
        try:
            time = datetime.fromisoformat(value)
        except ValueError:
            raise Damaged(f"{self.where}: {name} is {value!r}, not a time") from None
        if time.tzinfo is None:
            raise Damaged(f"{self.where}: {name} is {value!r}, a time without its zone")
        return time

    def optional(self, name: str, read: Callable[[Fields, str], T]) -> T | None:
        return None if self.any(name) is None else read(self, name)

    def mapping(self, name: str) -> Fields:
        return Fields(self._typed(name, dict, "an object"), f"{self.where}: {name}")

    def members(self) -> Iterator[tuple[str, Fields]]:
        """All members, each an object."""
        return ((name, self.mapping(name)) for name in self.values)

    def items(self, name: str, read: Callable[[Fields, str], T]) -> list[T]:
        listed = self._typed(name, list, "a list")
        return [read(Fields({f"{name}[{i}]": value}, self.where), f"{name}[{i}]") for i, value in enumerate(listed)]

    def _typed(self, name: str, kind: type[T], what: str) -> T:
        value = self.any(name)
        if not isinstance(value, kind):
            raise Damaged(f"{self.where}: {name} is {type(value).__name__}, not {what}")
        return value
