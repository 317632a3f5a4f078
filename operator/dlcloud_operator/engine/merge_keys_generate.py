"""Writes `merge_keys.json`: `python -m dlcloud_operator.engine.merge_keys_generate SWAGGER.json --release vX.Y.Z`.

May import the standard library only. The document is api/openapi-spec/swagger.json of the Kubernetes repository.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .merge import KEYS_FILE, ROOT

_ROOT = f"io.k8s.api.core.v1.{ROOT}"


def build_merge_keys(swagger: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Type -> field -> what merging must know, for all that PodTemplateSpec reaches. Raises KeyError without it."""
    definitions = swagger["definitions"]
    types: dict[str, dict[str, Any]] = {}
    left, seen = [_ROOT], {_ROOT}
    while left:
        name = left.pop()
        fields = {}
        for field, schema in sorted(definitions[name].get("properties", {}).items()):
            target, entry = _target(schema), _entry(schema)
            if target and target not in seen:
                seen.add(target)
                left.append(target)
            if target or entry:
                fields[field] = ({"type": _short(target)} if target else {}) | entry
        types[_short(name)] = fields
    return _useful(types)


def _useful(types: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Without the fields and types below which nothing but plain merging happens."""
    useful: set[str] = set()

    def matters(entry: Mapping[str, Any]) -> bool:
        return entry.get("type") in useful or any(key != "type" for key in entry)

    while True:
        more = {name for name, fields in types.items() if any(map(matters, fields.values()))}
        if more == useful:
            break
        useful = more
    return {name: {field: entry for field, entry in types[name].items() if matters(entry)} for name in sorted(useful)}


def _short(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _target(schema: Mapping[str, Any]) -> str:
    """The type a field holds, directly or in a list."""
    reference = schema.get("$ref") or schema.get("items", {}).get("$ref") or ""
    return str(reference).rsplit("/", 1)[-1]


def _entry(schema: Mapping[str, Any]) -> dict[str, Any]:
    strategy = schema.get("x-kubernetes-patch-strategy", "").split(",")
    entry: dict[str, Any] = {}
    if "merge" in strategy and "x-kubernetes-patch-merge-key" in schema:
        entry["mergeKey"] = schema["x-kubernetes-patch-merge-key"]
    elif "merge" in strategy:
        entry["merge"] = True
    if "retainKeys" in strategy:
        entry["retainKeys"] = True
    return entry


def main(arguments: list[str] | None = None) -> int:
    """Write the table; with --check compare it, 1 when it differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("swagger", type=Path, help="swagger.json of a Kubernetes release")
    parser.add_argument("--release", default="unknown", help="the release it is from, to be noted in the table")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when the table differs")
    options = parser.parse_args(arguments)
    types = build_merge_keys(json.loads(options.swagger.read_text(encoding="utf-8")))
    if options.check:
        same = json.loads(KEYS_FILE.read_text(encoding="utf-8"))["types"] == types
        sys.stderr.write("" if same else f"{KEYS_FILE.name} differs from {options.swagger}; write it anew\n")
        return 0 if same else 1
    table = {"source": f"Kubernetes {options.release}, api/openapi-spec/swagger.json", "types": types}
    KEYS_FILE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
