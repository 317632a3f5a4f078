"""Builds the CustomResourceDefinition of TrainingJob from the models: `python -m dlcloud_operator.api.crd`.

May import this package, and PyYAML for its output. It must never say of a field what the models and rules do not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from .base import GROUP, VERSION
from .rules import CHANGE_RULES, OBJECT_RULES, SPEC_RULES
from .status import TrainingJobStatus
from .trainingjob import TrainingJobSpec

Schema = dict[str, Any]

_KEPT = (
    "type", "description", "enum", "pattern", "format",
    "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "x-kubernetes-int-or-string",
    "x-kubernetes-validations", "x-kubernetes-list-type", "x-kubernetes-list-map-keys",
)  # fmt: skip

_COLUMNS = (
    ("Phase", "string", ".status.phase", "Where the job stands.", 0),
    ("Workers", "string", ".status.workers.text", "Workers ready, of those desired.", 0),
    ("Epoch", "integer", ".status.progress.epoch", "Epoch in training.", 0),
    ("Step", "integer", ".status.progress.step", "Steps done.", 0),
    ("Loss", "number", ".status.progress.loss", "Training loss.", 0),
    ("Rate", "number", ".status.progress.samplesPerSecond", "Samples per second, all ranks.", 0),
    ("Restarts", "integer", ".status.restarts", "Rounds begun again.", 0),
    ("Age", "date", ".metadata.creationTimestamp", "Time since the job was created.", 0),
    ("ETA", "string", ".status.progress.eta", "Time left.", 1),
    ("Checkpoint", "integer", ".status.checkpoint.step", "Step of the last committed checkpoint.", 1),
    ("Message", "string", ".status.message", "What the job waits for, or why it ended.", 1),
)


def _node(schema: Mapping[str, Any], definitions: Mapping[str, Any], defaults: bool) -> Schema:
    """One node of pydantic's JSON schema as a structural one."""
    if "$ref" in schema:
        target = definitions[schema["$ref"].rsplit("/", 1)[1]]
        schema = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
    if "anyOf" in schema:
        branches = [branch for branch in schema["anyOf"] if branch != {"type": "null"}]
        if len(branches) != 1:
            raise ValueError(f"a field with {len(branches)} types cannot be structural: {branches}")
        around = {key: value for key, value in schema.items() if key not in ("anyOf", "title")}
        return _node({**branches[0], **around}, definitions, defaults)

    node: Schema = {key: schema[key] for key in _KEPT if key in schema}
    if "const" in schema:
        node["enum"] = [schema["const"]]
    for bound, limit in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if bound in schema:  # a number in JSON schema, a flag in OpenAPI v3.0
            node |= {limit: schema[bound], bound: True}
    if node.get("x-kubernetes-int-or-string"):
        del node["type"]
        node["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if node.get("type") == "array":
        node["items"] = _node(schema["items"], definitions, defaults)
    if node.get("type") == "object":
        node |= _object(schema, definitions, defaults)
    if defaults and (default := _default(schema, node)) is not None:
        node["default"] = default
    return node


def _object(schema: Mapping[str, Any], definitions: Mapping[str, Any], defaults: bool) -> Schema:
    if "properties" in schema:  # beside these, additionalProperties is refused; unknown fields are pruned
        node: Schema = {
            "properties": {name: _node(field, definitions, defaults) for name, field in schema["properties"].items()}
        }
        return node | ({"required": schema["required"]} if schema.get("required") else {})
    values = schema.get("additionalProperties", True)
    if values is True or values == {}:
        return {"x-kubernetes-preserve-unknown-fields": True}
    return {"additionalProperties": _node(values, definitions, defaults)}


def _default(schema: Mapping[str, Any], node: Schema) -> Any:
    """What the API server fills in: nothing for empty values, `{}` for an object whose fields have defaults."""
    default = schema.get("default")
    if "properties" in node:
        return {} if isinstance(default, dict) else None
    return None if default in (None, "", [], {}) else default


@cache
def schema_of(model: type[BaseModel], defaults: bool = True) -> Schema:
    """The structural schema of a model. Raises ValueError for what has no structural form."""
    schema = model.model_json_schema(by_alias=True, mode="validation")
    return _node({key: value for key, value in schema.items() if key != "$defs"}, schema.get("$defs", {}), defaults)


def _validation(path: str, below: str, cel: str, message: str) -> Schema:
    """An entry of x-kubernetes-validations for a node at `below`, speaking of the field at `path`."""
    entry = {"rule": cel, "message": message}
    path = "metadata" if path.startswith("metadata.") else path  # the schema of metadata is the API server's own
    return entry | {"fieldPath": "." + path.removeprefix(below).lstrip(".")}


def build_crd() -> Schema:
    """The whole CustomResourceDefinition."""
    spec = dict(schema_of(TrainingJobSpec))
    spec["x-kubernetes-validations"] = [
        _validation(rule.path, "spec", rule.cel, rule.message) for rule in SPEC_RULES
    ] + [_validation(rule.path, "spec", rule.cel, rule.message) for rule in CHANGE_RULES if not rule.on_object]
    root = {
        "type": "object",
        "description": "A training over many pods, which goes on from its last checkpoint when any of them is lost.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": schema_of(TrainingJobStatus, defaults=False),
        },
        "x-kubernetes-validations": [
            *(_validation(rule.path, "", rule.cel, rule.message) for rule in OBJECT_RULES),
            *(_validation(rule.path, "", rule.cel, rule.message) for rule in CHANGE_RULES if rule.on_object),
        ],
    }
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [
            {"name": name, "type": kind, "jsonPath": path, "description": text}
            | ({"priority": priority} if priority else {})
            for name, kind, path, text, priority in _COLUMNS
        ],
        "subresources": {
            "status": {},
            "scale": {
                "specReplicasPath": ".spec.workers.count",
                "statusReplicasPath": ".status.workers.ready",
                "labelSelectorPath": ".status.selector",
            },
        },
        "schema": {"openAPIV3Schema": root},
    }
    names = {
        "kind": "TrainingJob",
        "listKind": "TrainingJobList",
        "plural": "trainingjobs",
        "singular": "trainingjob",
        "shortNames": ["tj"],
        "categories": ["all"],
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"trainingjobs.{GROUP}",
            "annotations": {"helm.sh/resource-policy": "keep"},  # uninstalling the chart must not delete jobs
        },
        "spec": {"group": GROUP, "scope": "Namespaced", "names": names, "versions": [version]},
    }


def crd_text() -> str:
    """The file, as it lies in the chart."""
    import yaml

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    head = "# Written by `make crd` from dlcloud_operator/api; change the models there.\n"
    # Helm acts on the two lines below; for kubectl they are comments, so that the file can be applied as it is.
    begin, end = "# {{- if .Values.crds.install }} crds.install\n", "# {{- end }}\n"
    return head + begin + yaml.dump(build_crd(), Dumper=Plain, sort_keys=False, width=120, allow_unicode=True) + end


def main(arguments: list[str] | None = None) -> int:
    """Write the file, or with --check compare it: 1 when it is stale."""
    parser = argparse.ArgumentParser(prog="python -m dlcloud_operator.api.crd", description=__doc__)
    default = Path(__file__).parents[3] / "charts" / "templates" / "crd-trainingjobs.yaml"
    parser.add_argument("--out", type=Path, default=default, help="file to write or to compare with; - prints it")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 when the file is stale")
    options = parser.parse_args(arguments)
    text = crd_text()
    if str(options.out) == "-":
        sys.stdout.write(text)
    elif options.check:
        if not options.out.is_file() or options.out.read_text(encoding="utf-8") != text:
            sys.stderr.write(f"{options.out} is not what the models say; run make crd\n")
            return 1
    else:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
