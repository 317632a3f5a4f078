"""A manifest is either a job, or a list of everything that is wrong with it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dlcloud_operator.api import InvalidManifest, Phase, TrainingJob, TrainingJobSpec
from dlcloud_operator.api.parameters import load_contract
from dlcloud_operator.api.rules import check_change
from dlcloud_operator.api.validation import parse_job, parse_spec

CASES: dict[str, Any] = yaml.safe_load(
    (Path(__file__).parents[2] / "data" / "trainingjob_cases.yaml").read_text(encoding="utf-8")
)
RUNNING: dict[str, Any] = CASES["running"]


def over(base: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    result = copy.deepcopy(base)
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = over(result[key], value)
        else:
            result[key] = value
    return result


def manifest(spec: Any, **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "dlcloud.dev/v1",
        "kind": "TrainingJob",
        "metadata": {"name": "a", **metadata},
        "spec": spec,
    }


def problems(given: Any, **options: bool) -> dict[str, str]:
    try:
        parse_job(given, **options)
    except InvalidManifest as invalid:
        return {problem.path: problem.message for problem in invalid.problems}
    return {}


def of_spec(patch: dict[str, Any]) -> dict[str, str]:
    return problems(manifest(over(CASES["base"], patch)))


@pytest.mark.parametrize("case", CASES["cases"], ids=lambda case: case["name"])
def test_a_case_is_judged_as_the_table_says(case: dict[str, Any]) -> None:
    found = of_spec(case["spec"])
    assert ([case["refused"]] if "refused" in case else []) == list(found), found


@pytest.mark.parametrize("case", CASES["names"], ids=lambda case: case["name"])
def test_a_name_is_judged_as_the_table_says(case: dict[str, Any]) -> None:
    found = problems(manifest(CASES["base"], name=case["name"]))
    assert ([] if case["accepted"] else ["metadata.name"]) == list(found)


@pytest.mark.parametrize("case", CASES["changes"], ids=lambda case: case["name"])
def test_a_change_is_judged_as_the_table_says(case: dict[str, Any]) -> None:
    phase = case.get("phase", "Running")
    old = TrainingJobSpec.model_validate(RUNNING)
    new = TrainingJobSpec.model_validate(over(RUNNING, case["spec"]))
    found = [problem.path for problem in check_change(old, new, Phase(phase) if phase else None)]
    assert case["refused"] in found if "refused" in case else not found


def test_all_mistakes_are_told_at_once() -> None:
    found = of_spec(
        {
            "workers": {"count": 0, "gpu": 1},
            "parameters": {"epoch": 3, "learningRate": -1},
            "limit": {},
            "podTemplate": {"spec": {"hostNetwork": True}},
        }
    )
    assert set(found) == {
        "spec.workers.count",
        "spec.workers.gpu",
        "spec.parameters.epoch",
        "spec.parameters.learningRate",
        "spec.limit",
        "spec.podTemplate.spec.hostNetwork",
    }


@pytest.mark.parametrize(
    ("spec", "path", "sentence"),
    [
        (
            {"workers": {"gpu": 1}},
            "spec.workers.gpu",
            "is not a field here (did you mean gpus?); there are count, gpus, cpu, memory",
        ),
        ({"workers": {"count": 0}}, "spec.workers.count", "0 is out of range; give a whole number from 1 to 1024"),
        (
            {"workers": {"count": "4"}},
            "spec.workers.count",
            "'4' is text; give a whole number from 1 to 1024, without quotes",
        ),
        (
            {"workers": {"cpu": 1.5}},
            "spec.workers.cpu",
            "1.5 is a number; give a quantity, for example 2, 500m or 2Gi, in quotes",
        ),
        (
            {"data": {"uri": "mnist"}},
            "spec.data.uri",
            "'mnist' is not allowed; give s3://bucket/prefix, file:///path or builtin://digits",
        ),
        (
            {"cleanPods": "all"},
            "spec.cleanPods",
            "'all' is not allowed (did you mean All?); give one of All, Running, None",
        ),
        ({"suspend": "yes"}, "spec.suspend", "'yes' is text; give true or false, without quotes"),
        ({"checkpoint": {}}, "spec.checkpoint.uri", "is missing; give s3://bucket/prefix or file:///path"),
        (
            {"restart": {"window": "1x"}},
            "spec.restart.window",
            "'1x' is not allowed; give a duration, for example 90s, 10m or 1h30m",
        ),
        (
            {"workers": 3},
            "spec.workers",
            "3 is a number; give a mapping with count, gpus, cpu, memory",
        ),
        (
            {"resumeFrom": "s3://" + "a" * 2000},
            "spec.resumeFrom",
            "has 2005 characters; at most 1024 are allowed",
        ),
        (
            {"workload": "cn"},
            "spec.workload",
            f"'cn' is not a built-in workload (did you mean cnn?); give one of {', '.join(load_contract())}",
        ),
    ],
)
def test_a_mistake_is_said_in_one_sentence(spec: dict[str, Any], path: str, sentence: str) -> None:
    assert of_spec(spec)[path] == sentence


@pytest.mark.parametrize(
    ("given", "path"),
    [
        (None, ""),
        ([], ""),
        ({}, "apiVersion"),
        (manifest(CASES["base"]) | {"kind": "TrainingJobs"}, "kind"),
        (manifest(CASES["base"]) | {"apiVersion": "dlcloud.dev/v2"}, "apiVersion"),
        (manifest(CASES["base"]) | {"spce": {}}, "spce"),
        (manifest(CASES["base"]) | {"metadata": None}, "metadata"),
        (manifest(None), "spec"),
        (manifest([]), "spec"),
        (manifest(CASES["base"], labels={"a.b/c": 1}), 'metadata.labels["a.b/c"]'),
        (manifest(CASES["base"], namespace="No"), "metadata.namespace"),
        (manifest(CASES["base"], generateName="a-"), "metadata.generateName"),
        (manifest({**CASES["base"], 3: 4}), "spec"),
    ],
)
def test_what_is_no_job_is_refused_by_path(given: Any, path: str) -> None:
    assert path in problems(given)


def test_an_object_read_back_from_a_cluster_is_accepted() -> None:
    live = manifest(CASES["base"], uid="x", resourceVersion="3", creationTimestamp="2026-01-01T00:00:00Z")
    assert problems(live | {"status": {"phase": "Running"}}) == {}


def test_an_empty_field_is_an_absent_one() -> None:
    job = parse_job(manifest(CASES["base"] | {"script": None, "resumeFrom": None, "limits": None}))
    assert job.spec == parse_job(manifest(CASES["base"])).spec


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**70, {1, 2}, "a\0b", "\ud800"])
def test_what_json_cannot_hold_is_refused_where_it_stands(value: Any) -> None:
    assert "spec.podTemplate.metadata.labels.a" in of_spec({"podTemplate": {"metadata": {"labels": {"a": value}}}})


def test_endless_nesting_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(500):
        deep = {"a": deep}
    assert any("nested" in message for message in of_spec({"podTemplate": {"spec": deep}}).values())


def test_the_operator_ignores_fields_of_a_newer_definition() -> None:
    spec = CASES["base"] | {"elastic": {"min": 1}, "workers": {"count": 2, "tpus": 1}}
    assert parse_spec(spec)[0] is None
    parsed, found = parse_spec(spec, ignore_unknown=True)
    assert found == ()
    assert parsed is not None
    assert parsed.workers.count == 2


def test_a_job_written_out_is_read_back_the_same() -> None:
    everything = next(case for case in CASES["cases"] if case["name"] == "everything set")
    job = parse_job(manifest(over(CASES["base"], everything["spec"])))
    assert parse_job(json.loads(json.dumps(job.to_json()))) == job


def pod_template(spec: dict[str, Any]) -> dict[str, str]:
    return of_spec({"podTemplate": {"spec": spec}})


SECURITY = "spec.podTemplate.spec.containers[0].securityContext"


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"hostNetwork": True}, "spec.podTemplate.spec.hostNetwork"),
        ({"hostPID": True}, "spec.podTemplate.spec.hostPID"),
        ({"hostIPC": True}, "spec.podTemplate.spec.hostIPC"),
        ({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}, "spec.podTemplate.spec.volumes[0].hostPath"),
        ({"containers": [{"name": "x", "securityContext": {"privileged": True}}]}, f"{SECURITY}.privileged"),
        (
            {"containers": [{"name": "x", "securityContext": {"allowPrivilegeEscalation": True}}]},
            f"{SECURITY}.allowPrivilegeEscalation",
        ),
        (
            {"containers": [{"name": "x", "securityContext": {"capabilities": {"add": ["SYS_ADMIN"]}}}]},
            f"{SECURITY}.capabilities.add[0]",
        ),
        (
            {"containers": [{"name": "x", "securityContext": {"windowsOptions": {"hostProcess": True}}}]},
            f"{SECURITY}.windowsOptions.hostProcess",
        ),
        (
            {"containers": [{"name": "x", "ports": [{"containerPort": 1, "hostPort": 1}]}]},
            "spec.podTemplate.spec.containers[0].ports[0].hostPort",
        ),
        (
            {"initContainers": [{"name": "x", "securityContext": {"privileged": True}}]},
            "spec.podTemplate.spec.initContainers[0].securityContext.privileged",
        ),
    ],
)
def test_rights_over_the_node_are_refused_unless_allowed(spec: dict[str, Any], path: str) -> None:
    assert list(pod_template(spec)) == [path]
    given = manifest(over(CASES["base"], {"podTemplate": {"spec": spec}}))
    assert problems(given, allow_privileged=True) == {}


@pytest.mark.parametrize(
    ("template", "path"),
    [
        ({"containers": []}, "spec.podTemplate.containers"),
        ({"spec": [1]}, "spec.podTemplate.spec"),
        ({"spec": {"containers": {"name": "trainer"}}}, "spec.podTemplate.spec.containers"),
        ({"spec": {"containers": [3]}}, "spec.podTemplate.spec.containers[0]"),
        ({"spec": {"containers": [{"image": "x"}]}}, "spec.podTemplate.spec.containers[0]"),
        ({"spec": {"volumes": [{"emptyDir": {}}]}}, "spec.podTemplate.spec.volumes[0]"),
        (
            {"spec": {"containers": [{"name": "trainer", "command": ["x"]}]}},
            "spec.podTemplate.spec.containers[0].command",
        ),
    ],
)
def test_a_pod_template_that_cannot_be_merged_is_refused(template: dict[str, Any], path: str) -> None:
    assert list(of_spec({"podTemplate": template})) == [path]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150)
@given(field=st.sampled_from(sorted(f.alias or n for n, f in TrainingJobSpec.model_fields.items())), value=json_values)
def test_no_value_of_any_field_ends_in_a_traceback(field: str, value: Any) -> None:
    try:
        job = parse_job(manifest({**CASES["base"], field: value}))
    except InvalidManifest as invalid:
        assert all(problem.message for problem in invalid.problems)
    else:
        assert isinstance(job, TrainingJob)


@settings(max_examples=100)
@given(value=json_values)
def test_no_document_ends_in_a_traceback(value: Any) -> None:
    for given_value in (value, manifest(value), {**manifest(CASES["base"]), "metadata": value}):
        try:
            parse_job(given_value)
        except InvalidManifest as invalid:
            assert invalid.problems
