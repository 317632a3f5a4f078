"""The CRD is what the API server takes: structural, with the models' defaults, and as it lies in the chart."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, Field

from dlcloud_operator.api import TrainingJobSpec, docs
from dlcloud_operator.api.crd import build_crd, crd_text, main, schema_of
from dlcloud_operator.api.parameters import load_contract
from dlcloud_operator.api.rules import CHANGE_RULES, OBJECT_RULES, SPEC_RULES

CHART = Path(__file__).parents[3] / "charts"
VERSION = build_crd()["spec"]["versions"][0]
ROOT = VERSION["schema"]["openAPIV3Schema"]
FORBIDDEN = {"$ref", "$defs", "definitions", "title", "const", "oneOf", "allOf", "not", "uniqueItems", "dependencies",
             "patternProperties", "deprecated", "readOnly", "id"}  # fmt: skip


def nodes(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, inner in node.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(node.get(key), dict):
            yield from nodes(node[key], f"{path}[{key}]")


def at(path: str) -> dict[str, Any]:
    node = ROOT
    for step in path.split("."):
        node = node["properties"][step]
    return node


@pytest.mark.parametrize(("path", "node"), list(nodes(ROOT)), ids=lambda value: value if isinstance(value, str) else "")
def test_every_node_is_structural(path: str, node: dict[str, Any]) -> None:
    assert not FORBIDDEN & set(node)
    if node.get("x-kubernetes-int-or-string"):
        assert "type" not in node
        assert node["anyOf"] == [{"type": "integer"}, {"type": "string"}]
    else:
        assert node["type"] in ("object", "array", "string", "integer", "number", "boolean")
        assert "anyOf" not in node
    assert not ("properties" in node and "additionalProperties" in node)
    assert all(isinstance(node.get(key, True), bool) for key in ("exclusiveMinimum", "exclusiveMaximum"))
    if node.get("type") == "array":
        assert "items" in node
    if node.get("type") == "object" and path not in ("", ".metadata"):
        known = {"properties", "additionalProperties", "x-kubernetes-preserve-unknown-fields"} & set(node)
        assert len(known) == 1, "an object without any of these loses everything in it"
    assert node.get("default", 0) is not None


def test_everything_the_rules_compare_is_bounded() -> None:
    for field in ("workload", "script", "data", "checkpoint", "resumeFrom", "objectStore", "workers"):
        for path, node in nodes(at(f"spec.{field}")):
            if node.get("type") == "string" or "anyOf" in node:
                assert "maxLength" in node or "enum" in node, f"spec.{field}{path}"
            if node.get("type") == "array":
                assert "maxItems" in node, f"spec.{field}{path}"


def filled(node: dict[str, Any], value: Any) -> Any:
    """What the API server makes of a value: the defaults, from the outside in."""
    if not isinstance(value, dict):
        return value
    result = dict(value)
    for name, inner in node.get("properties", {}).items():
        if name not in result and "default" in inner:
            result[name] = inner["default"]
        if name in result:
            result[name] = filled(inner, result[name])
    return result


def test_the_api_servers_defaults_are_the_models() -> None:
    given = {"workload": "cnn", "checkpoint": {"uri": "s3://checkpoints/"}, "data": {"uri": "builtin://digits"}}
    server_side = filled(ROOT["properties"]["spec"], given)
    assert TrainingJobSpec.model_validate(server_side) == TrainingJobSpec.model_validate(given)
    assert server_side["workers"] == {"count": 1, "gpus": 0, "cpu": "1", "memory": "2Gi"}
    assert "script" not in server_side


def test_the_status_has_no_defaults() -> None:
    assert not [path for path, node in nodes(at("status")) if "default" in node]


def test_conditions_are_a_map_by_type() -> None:
    conditions = at("status.conditions")
    assert conditions["x-kubernetes-list-type"] == "map"
    assert conditions["x-kubernetes-list-map-keys"] == ["type"]
    assert "type" in conditions["items"]["required"]


def test_every_rule_is_in_the_definition_and_speaks_of_a_field() -> None:
    spec_rules = [rule["rule"] for rule in at("spec")["x-kubernetes-validations"]]
    root_rules = [rule["rule"] for rule in ROOT["x-kubernetes-validations"]]
    changes = [rule.cel for rule in CHANGE_RULES if not rule.on_object]
    assert spec_rules == [rule.cel for rule in SPEC_RULES] + changes
    assert root_rules == [rule.cel for rule in (*OBJECT_RULES, *(rule for rule in CHANGE_RULES if rule.on_object))]
    for rule in at("spec")["x-kubernetes-validations"]:
        assert at("spec" + rule["fieldPath"])
        assert rule["message"]


def test_the_columns_are_those_promised() -> None:
    columns = VERSION["additionalPrinterColumns"]
    assert [column["name"].upper() for column in columns if not column.get("priority")] == (
        ["PHASE", "WORKERS", "EPOCH", "STEP", "LOSS", "RATE", "RESTARTS", "AGE"]
    )
    assert [column["name"].upper() for column in columns if column.get("priority")] == ["ETA", "CHECKPOINT", "MESSAGE"]


def test_every_column_and_subresource_reads_a_field_there_is() -> None:
    paths = [column["jsonPath"] for column in VERSION["additionalPrinterColumns"]]
    paths += VERSION["subresources"]["scale"].values()
    for path in paths:
        if path != ".metadata.creationTimestamp":
            assert at(path.removeprefix(".")), path


def test_the_file_in_the_chart_is_current() -> None:
    assert main(["--check"]) == 0, "run make crd"


def test_a_stale_file_is_noticed_and_written_anew(tmp_path: Path) -> None:
    file = tmp_path / "new" / "crd.yaml"
    assert main(["--check", "--out", str(file)]) == 1
    assert main(["--out", str(file)]) == 0
    assert main(["--check", "--out", str(file)]) == 0
    file.write_text(file.read_text().replace("Queued", "Waiting"))
    assert main(["--check", "--out", str(file)]) == 1


def test_helm_may_leave_the_definition_out_and_changes_nothing_in_it() -> None:
    text = crd_text()
    acted_on = [line for line in text.splitlines() if "{{" in line or "}}" in line]
    assert acted_on == ["# {{- if .Values.crds.install }} crds.install", "# {{- end }}"]  # comments for kubectl
    assert yaml.safe_load(text) == build_crd()
    assert build_crd()["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_the_chart_says_what_it_is() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["apiVersion"] == "v2"
    assert re.fullmatch(r"\d+\.\d+\.\d+", chart["version"])
    assert yaml.safe_load((CHART / "values.yaml").read_text()) is not None


class Strange(BaseModel):
    both: int | str = 1


class Bounded(BaseModel):
    x: float = Field(1.0, gt=0, lt=5)


def test_a_field_of_two_types_is_refused_by_the_generator() -> None:
    with pytest.raises(ValueError, match="2 types"):
        schema_of(Strange)


def test_an_exclusive_bound_becomes_a_flag() -> None:
    assert schema_of(Bounded)["properties"]["x"] == {
        "type": "number",
        "minimum": 0,
        "exclusiveMinimum": True,
        "maximum": 5,
        "exclusiveMaximum": True,
        "default": 1.0,
    }


def test_the_page_of_the_api_is_current_and_a_stale_one_is_noticed(tmp_path: Path) -> None:
    assert docs.main(["--check"]) == 0, "run make crd"
    page = tmp_path / "api.md"
    assert docs.main(["--check", "--out", str(page)]) == 1
    assert docs.main(["--out", str(page)]) == 0
    assert docs.main(["--check", "--out", str(page)]) == 0


def test_the_page_names_every_field_and_every_parameter() -> None:
    page = docs.docs_text()
    for name in schema_of(TrainingJobSpec)["properties"]:
        assert f"| `{name}` |" in page
    for workload in load_contract().values():
        assert all(f"| `{name}` |" in page for name in workload.parameters)
