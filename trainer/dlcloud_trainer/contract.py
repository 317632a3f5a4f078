"""`python -m dlcloud_trainer.contract`: every workload's parameters as JSON, for the API package that checks manifests.

May import the package's workloads. Its output depends on the source alone: the same bytes every time.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .parameters import names_of
from .workload import Workload
from .workloads import find_workload, workload_names

VERSION = 1
_KEPT = ("type", "default", "description", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "enum")


def contract() -> dict[str, Any]:
    """The contract of all workloads."""
    return {"version": VERSION, "workloads": {name: _describe(find_workload(name)) for name in workload_names()}}


def contract_text() -> str:
    """The file's content, with a final newline."""
    return json.dumps(contract(), indent=2, ensure_ascii=True) + "\n"


def _describe(workload: Workload) -> dict[str, Any]:
    properties = workload.Parameters.model_json_schema()["properties"]
    return {
        "description": workload.DESCRIPTION,
        "data": list(workload.DATA),
        "parameters": {name: _pick(properties[name]) for name in names_of(workload)},
        "presets": {name: dict(sorted(settings.items())) for name, settings in sorted(workload.PRESETS.items())},
        "refused": dict(sorted(workload.REFUSED.items())),
    }


def _pick(schema: dict[str, Any]) -> dict[str, Any]:
    return {key: schema[key] for key in _KEPT if key in schema}


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the contract, write it to a file, or compare it with one (exit code 1 when they differ)."""
    parser = argparse.ArgumentParser(prog="python -m dlcloud_trainer.contract", description=main.__doc__)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--out", type=Path, metavar="FILE", help="write it there")
    where.add_argument("--check", type=Path, metavar="FILE", help="compare it with this file")
    chosen = parser.parse_args(arguments)
    text = contract_text()
    if chosen.out is not None:
        chosen.out.write_text(text, encoding="utf-8")
    elif chosen.check is None:
        sys.stdout.write(text)
    elif not chosen.check.exists() or chosen.check.read_text(encoding="utf-8") != text:
        sys.stderr.write(f"{chosen.check} is not what the workloads say; run make contract\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
