"""Output of a command for people (aligned columns) and for machines (`-o json`, `-o yaml`).

May import PyYAML when asked for YAML. Machine output is stable: camelCase keys, RFC 3339 times, bytes and seconds as
numbers, no colours, nothing else on standard output.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Format(StrEnum):
    """The values of `-o`."""

    TEXT = "text"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"

    @property
    def for_machines(self) -> bool:
        """Whether standard output holds one document and nothing else."""
        return self in (Format.JSON, Format.YAML)


@dataclass(frozen=True)
class Column:
    """A column's title; a `wide` one is shown with `-o wide` only, numbers are aligned `right`."""

    title: str
    wide: bool = False
    right: bool = False


def table_lines(columns: Sequence[Column], rows: Sequence[Sequence[str]], *, wide: bool = False) -> list[str]:
    """A header and a line for each row, two blanks between columns, no blanks at the end."""
    shown = [i for i, column in enumerate(columns) if wide or not column.wide]
    cells = [[columns[i].title for i in shown], *([row[i] for i in shown] for row in rows)]
    widths = [max(len(line[n]) for line in cells) for n in range(len(shown))]
    return [
        "  ".join(
            cell.rjust(widths[n]) if columns[shown[n]].right else cell.ljust(widths[n]) for n, cell in enumerate(line)
        ).rstrip()
        for line in cells
    ]


def document_text(value: Any, form: Format) -> str:
    """One JSON or YAML document, without a line end behind it."""
    if form is Format.YAML:
        import yaml

        return yaml.safe_dump(value, sort_keys=False, allow_unicode=True).rstrip("\n")
    return json.dumps(value, indent=2, ensure_ascii=not _takes_unicode(), allow_nan=False)


def _takes_unicode() -> bool:
    return "utf" in (sys.stdout.encoding or "").lower()
