"""`python -m dlcloud_trainer.contract`: every workload's parameters as JSON, for the API package that checks manifests.

May import the package's workloads. Its output depends on the source alone: the same bytes every time.
"""

from __future__ import annotations

import json
import sys
from typing import Any

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
        "parameters": {
            name: {key: properties[name][key] for key in _KEPT if key in properties[name]} for name in sorted(properties)
        },
    }


if __name__ == "__main__":
    sys.stdout.write(contract_text())
