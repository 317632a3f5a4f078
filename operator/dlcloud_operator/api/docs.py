"""Writes docs/api.md from the models, the rules and the parameters: `python -m dlcloud_operator.api.docs [--check]`.

May import this package only. It says nothing of its own about a field.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .base import API_VERSION, QUANTITY_PATTERN
from .crd import Schema, schema_of
from .parameters import Workload, load_contract
from .pod_template import TRAINER
from .rules import CHANGE_RULES, OBJECT_RULES, SPEC_RULES
from .sentences import allowed
from .status import TrainingJobStatus
from .trainingjob import TrainingJobSpec

FILE = Path(__file__).parents[3] / "docs" / "api.md"

_HEAD = f"""# TrainingJob

`apiVersion: {API_VERSION}`, `kind: TrainingJob`, short name `tj`. Written by `make crd` from the models; change
those.

`dlcloud validate JOB.yaml` checks all of this, and the parameters, with line and column. The API server checks the
fields and the rules; what it cannot see (parameters, podTemplate) the operator checks before any pod exists (phase
`Failed`, reason `InvalidSpec`).

Who may create TrainingJobs may create pods in the namespace: the jobs' pods are the users' own programs.
"""

_POD_TEMPLATE = f"""## podTemplate

Merged strategically over the rendered pod, as `kubectl patch` does: containers, environment variables and volumes by
`name`, mounts by `mountPath`, ports by `containerPort`; other lists are replaced; `$patch: delete` removes an item. A
volume that names another source loses the old one. The job's container is named `{TRAINER}`. What the operator lives
by stays as rendered: the pod's name, owner and `dlcloud.dev` labels, `restartPolicy`, the token and the agent's
volume and mounts, the container's command and `DLCLOUD_*` variables (but for the two of the
[cache for data](data.md#the-cache)). Host namespaces, `hostPath`, host ports,
privileged containers, privilege escalation and added capabilities are refused, unless the operator was installed to
allow them.
"""


def _rows(node: Schema, path: str) -> Iterator[tuple[str, Schema, bool]]:
    required = node.get("required", [])
    for name, field in node.get("properties", {}).items():
        yield f"{path}{name}", field, name in required
        if "properties" in field:
            yield from _rows(field, f"{path}{name}.")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _kind(node: Schema) -> str:
    if "properties" in node:
        return "mapping"
    if node.get("x-kubernetes-preserve-unknown-fields"):
        return "any mapping"
    if "additionalProperties" in node:
        return "mapping of " + _kind(node["additionalProperties"])
    if node.get("type") == "array":
        return "list of " + _kind(node["items"])
    if node.get("format") == "date-time":
        return "time"
    return "a quantity" if node.get("pattern") == QUANTITY_PATTERN else allowed(node)


def _table(node: Schema, with_defaults: bool) -> str:
    head = ["field", "what", *(["default"] if with_defaults else []), "meaning"]
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    for path, field, required in _rows(node, ""):
        default = "**required**" if required else f"`{_text(field['default'])}`" if _told(field) else ""
        cells = [f"`{path}`", _kind(field), *([default] if with_defaults else []), field.get("description", "")]
        lines.append("| " + " | ".join(map(_cell, cells)) + " |")
    return "\n".join(lines)


def _told(field: Schema) -> bool:
    return "default" in field and "properties" not in field


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _workload(workload: Workload) -> str:
    lines = [
        f"### {workload.name}",
        "",
        f"{workload.description} Data: {', '.join(f'`{uri}`' for uri in workload.data)}.",
    ]
    lines += ["", "| parameter | what | default | meaning |", "| --- | --- | --- | --- |"]
    for name, one in sorted(workload.parameters.items()):
        default = "" if one.default is None else f"`{_text(one.default)}`"
        lines.append(f"| `{name}` | {_cell(one.allowed)} | {default} | {_cell(one.description)} |")
    for name, preset in sorted(workload.presets.items()):
        settings = ", ".join(f"{key}: {_text(value)}" for key, value in sorted(preset.items()))
        lines += ["", f"`preset: {name}` sets `{{{settings}}}`."]
    for name, reason in sorted(workload.refused.items()):
        lines += ["", f"There is no `{name}`: {reason}."]
    return "\n".join(lines)


def docs_text() -> str:
    """The whole page."""
    rules = "\n".join(f"- `{rule.path}`: {rule.message}" for rule in (*OBJECT_RULES, *SPEC_RULES))
    changes = "\n".join(f"- `{rule.path}`: {rule.message}" for rule in CHANGE_RULES)
    workloads = "\n\n".join(_workload(workload) for _, workload in sorted(load_contract().items()))
    parts = (
        _HEAD,
        "## spec\n\n" + _table(schema_of(TrainingJobSpec), with_defaults=True) + "\n",
        f"## Rules\n\n{rules}\n\nOf a job that exists:\n\n{changes}\n",
        _POD_TEMPLATE,
        f"## Workloads\n\n{workloads}\n",
        "## status\n\n" + _table(schema_of(TrainingJobStatus, defaults=False), with_defaults=False) + "\n",
    )
    return "\n".join(parts)


def main(arguments: list[str] | None = None) -> int:
    """Write the page, or with --check compare it: 1 when it is stale."""
    parser = argparse.ArgumentParser(prog="python -m dlcloud_operator.api.docs", description=__doc__)
    parser.add_argument("--out", type=Path, default=FILE, help="file to write or to compare with")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when the page is stale")
    options = parser.parse_args(arguments)
    if options.check:
        if not options.out.is_file() or options.out.read_text(encoding="utf-8") != docs_text():
            sys.stderr.write(f"{options.out} is not what the models say; run make crd\n")
            return 1
        return 0
    options.out.write_text(docs_text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
