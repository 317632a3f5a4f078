"""A podTemplate is merged as `kubectl` would: each kind of field by its own rule, from a generated table."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlcloud_operator.engine.merge import MergeError, load_merge_keys, merge
from dlcloud_operator.engine.merge_keys_generate import build_merge_keys, main


def pod(**fields: Any) -> dict[str, Any]:
    return {"spec": fields}


def container(**fields: Any) -> dict[str, Any]:
    return pod(containers=[{"name": "trainer", **fields}])


def first(merged: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = merged["spec"]["containers"][0]
    return result


def test_a_scalar_is_replaced() -> None:
    assert merge(pod(nodeName="a", priority=1), pod(nodeName="b")) == pod(nodeName="b", priority=1)


def test_a_map_is_merged() -> None:
    base, patch = {"metadata": {"labels": {"a": "1", "b": "2"}}}, {"metadata": {"labels": {"b": "3", "c": "4"}}}
    assert merge(base, patch) == {"metadata": {"labels": {"a": "1", "b": "3", "c": "4"}}}


def test_a_map_of_structures_is_merged_deeply() -> None:
    base = container(resources={"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1"}})
    merged = first(merge(base, container(resources={"limits": {"cpu": "2"}})))
    assert merged["resources"] == {"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "1"}}


def test_null_removes_a_field() -> None:
    base = pod(securityContext={"runAsUser": 1, "fsGroup": 2}, priority=1)
    assert merge(base, pod(securityContext={"fsGroup": None}, priority=None)) == pod(securityContext={"runAsUser": 1})


def test_null_for_what_is_not_there_changes_nothing() -> None:
    assert merge(pod(priority=1), pod(nodeName=None, dnsConfig={"x": None})) == pod(priority=1, dnsConfig={})


@pytest.mark.parametrize(
    ("field", "key", "one", "other"),
    [
        ("env", "name", "A", "B"),
        ("volumeMounts", "mountPath", "/a", "/b"),
        ("volumeDevices", "devicePath", "/dev/a", "/dev/b"),
        ("ports", "containerPort", 80, 81),
    ],
)
def test_lists_in_a_container_are_merged_by_their_key(field: str, key: str, one: Any, other: Any) -> None:
    base = container(**{field: [{key: one, "x": 1, "y": 1}, {key: other, "x": 1}]})
    patch = container(**{field: [{key: other, "x": 2}, {key: "new", "x": 3}, {key: one, "y": 4}]})
    assert first(merge(base, patch))[field] == [
        {key: one, "x": 1, "y": 4},
        {key: other, "x": 2},
        {key: "new", "x": 3},
    ]


@pytest.mark.parametrize(
    ("field", "key"),
    [
        ("containers", "name"),
        ("initContainers", "name"),
        ("ephemeralContainers", "name"),
        ("imagePullSecrets", "name"),
        ("hostAliases", "ip"),
        ("schedulingGates", "name"),
        ("topologySpreadConstraints", "topologyKey"),
    ],
)
def test_lists_in_a_pod_are_merged_by_their_key(field: str, key: str) -> None:
    base = pod(**{field: [{key: "a", "x": 1}, {key: "b", "x": 1}]})
    patch = pod(**{field: [{key: "b", "y": 2}, {key: "c"}]})
    assert merge(base, patch) == pod(**{field: [{key: "a", "x": 1}, {key: "b", "x": 1, "y": 2}, {key: "c"}]})


@pytest.mark.parametrize("field", ["tolerations", "readinessGates"])
def test_an_atomic_list_in_a_pod_is_replaced(field: str) -> None:
    assert merge(pod(**{field: [{"key": "a"}]}), pod(**{field: [{"key": "b"}]})) == pod(**{field: [{"key": "b"}]})


@pytest.mark.parametrize("field", ["command", "args", "envFrom"])
def test_an_atomic_list_in_a_container_is_replaced(field: str) -> None:
    assert first(merge(container(**{field: ["a", "b"]}), container(**{field: ["c"]})))[field] == ["c"]


def test_a_primitive_list_of_strategy_merge_is_a_union() -> None:
    base, patch = {"metadata": {"finalizers": ["a", "b"]}}, {"metadata": {"finalizers": ["b", "c"]}}
    assert merge(base, patch) == {"metadata": {"finalizers": ["a", "b", "c"]}}


def test_delete_from_primitive_list() -> None:
    base = {"metadata": {"finalizers": ["a", "b", "c"]}}
    assert merge(base, {"metadata": {"$deleteFromPrimitiveList/finalizers": ["b"]}}) == {
        "metadata": {"finalizers": ["a", "c"]}
    }


def test_set_element_order_is_ignored() -> None:
    patch = pod(**{"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "b", "x": 1}]})
    assert merge(pod(containers=[{"name": "a"}, {"name": "b"}]), patch) == pod(
        containers=[{"name": "a"}, {"name": "b", "x": 1}]
    )


def test_patch_delete_removes_an_item() -> None:
    patch = pod(containers=[{"name": "a", "$patch": "delete"}])
    assert merge(pod(containers=[{"name": "a"}, {"name": "b"}]), patch) == pod(containers=[{"name": "b"}])


def test_patch_delete_removes_a_map() -> None:
    assert merge(pod(securityContext={"fsGroup": 1}, x=1), pod(securityContext={"$patch": "delete"})) == pod(x=1)


def test_patch_delete_of_what_is_not_there_adds_nothing() -> None:
    assert merge(pod(containers=[]), pod(containers=[{"name": "a", "$patch": "delete"}])) == pod(containers=[])


def test_patch_replace_replaces_a_map() -> None:
    patch = pod(securityContext={"$patch": "replace", "runAsUser": 7})
    assert merge(pod(securityContext={"fsGroup": 1}), patch) == pod(securityContext={"runAsUser": 7})


def test_patch_replace_replaces_a_list() -> None:
    patch = pod(containers=[{"$patch": "replace"}, {"name": "c"}])
    assert merge(pod(containers=[{"name": "a"}, {"name": "b"}]), patch) == pod(containers=[{"name": "c"}])


def test_patch_merge_is_what_happens_anyway() -> None:
    patch = pod(securityContext={"$patch": "merge", "runAsUser": 7})
    assert merge(pod(securityContext={"fsGroup": 1}), patch) == pod(securityContext={"fsGroup": 1, "runAsUser": 7})


def test_a_volume_changes_its_source_by_naming_another() -> None:
    base = pod(volumes=[{"name": "scratch", "emptyDir": {"sizeLimit": "1Gi"}}, {"name": "tmp", "emptyDir": {}}])
    patch = pod(volumes=[{"name": "scratch", "persistentVolumeClaim": {"claimName": "big"}}])
    assert merge(base, patch)["spec"]["volumes"] == [
        {"name": "scratch", "persistentVolumeClaim": {"claimName": "big"}},
        {"name": "tmp", "emptyDir": {}},
    ]


def test_a_volume_of_the_same_source_is_merged() -> None:
    base = pod(volumes=[{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}])
    patch = pod(volumes=[{"name": "shm", "emptyDir": {"sizeLimit": "8Gi"}}])
    assert merge(base, patch) == pod(volumes=[{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}}])


def test_retain_keys_keeps_only_what_it_names() -> None:
    base = pod(strategy={"a": 1, "b": 2})
    assert merge(base, pod(strategy={"$retainKeys": ["b", "c"], "c": 3})) == pod(strategy={"b": 2, "c": 3})


@pytest.mark.parametrize(
    ("patch", "path"),
    [
        (pod(containers=[{"image": "x"}]), ("spec", "containers", 0)),
        (pod(containers=["x"]), ("spec", "containers", 0)),
        (pod(containers="x"), ("spec", "containers")),
        (container(env=[{"name": "A"}, {"value": "x"}]), ("spec", "containers", 0, "env", 1)),
        (pod(securityContext={"$patch": "remove"}), ("spec", "securityContext", "$patch")),
        (pod(securityContext={"$retainKeys": ["a"], "b": 1}), ("spec", "securityContext", "$retainKeys")),
        (pod(containers=[{"name": "a", "$patch": "replace"}]), ("spec", "containers", 0)),
        (
            {"metadata": {"$deleteFromPrimitiveList/finalizers": "a"}},
            ("metadata", "$deleteFromPrimitiveList/finalizers"),
        ),
    ],
)
def test_what_cannot_be_merged_is_refused_where_it_stands(patch: dict[str, Any], path: tuple[str | int, ...]) -> None:
    with pytest.raises(MergeError) as caught:
        merge(container(), patch)
    assert caught.value.path == path


values = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(st.integers(), max_size=2) | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=6,
)
maps = st.dictionaries(st.sampled_from("abcd"), values, max_size=4)


@settings(max_examples=100)
@given(base=maps, patch=maps)
def test_merging_twice_is_merging_once_and_changes_neither_side(base: dict[str, Any], patch: dict[str, Any]) -> None:
    before = copy.deepcopy((base, patch))
    once = merge(base, patch)
    assert merge(once, patch) == once
    assert (base, patch) == before


# --- the table ---

REFERENCE = "#/definitions/io.k8s.api.core.v1."
SWAGGER = {
    "definitions": {
        "io.k8s.api.core.v1.PodTemplateSpec": {"properties": {"spec": {"$ref": REFERENCE + "PodSpec"}}},
        "io.k8s.api.core.v1.PodSpec": {
            "properties": {
                "volumes": {
                    "items": {"$ref": REFERENCE + "Volume"},
                    "x-kubernetes-patch-merge-key": "name",
                    "x-kubernetes-patch-strategy": "merge,retainKeys",
                },
                "finalizers": {"items": {"type": "string"}, "x-kubernetes-patch-strategy": "merge"},
                "tolerations": {"items": {"$ref": REFERENCE + "Toleration"}},
                "nested": {"$ref": REFERENCE + "PodSpec"},
            }
        },
        "io.k8s.api.core.v1.Volume": {"properties": {"name": {"type": "string"}}},
        "io.k8s.api.core.v1.Toleration": {"properties": {"key": {"type": "string"}}},
        "io.k8s.api.core.v1.Service": {
            "properties": {"ports": {"x-kubernetes-patch-merge-key": "port", "x-kubernetes-patch-strategy": "merge"}}
        },
    }
}


def test_the_table_holds_what_a_pod_template_reaches_and_nothing_else() -> None:
    assert build_merge_keys(SWAGGER) == {
        "PodTemplateSpec": {"spec": {"type": "PodSpec"}},
        "PodSpec": {
            "finalizers": {"merge": True},
            "nested": {"type": "PodSpec"},
            "volumes": {"type": "Volume", "mergeKey": "name", "retainKeys": True},
        },
    }


def test_another_document_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "swagger.json"
    file.write_text(json.dumps(SWAGGER), encoding="utf-8")
    assert main([str(file), "--check"]) == 1


def test_the_table_in_use_knows_a_container() -> None:
    assert load_merge_keys()["Container"]["volumeMounts"] == {"type": "VolumeMount", "mergeKey": "mountPath"}
