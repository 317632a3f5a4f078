"""A rendered pod is what docs/protocol.md and the restricted Pod Security Standard ask for, whatever users write."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlcloud_operator.api import (
    CheckpointStatus,
    InvalidManifest,
    ObjectStore,
    Problem,
    Script,
    TrainingJobSpec,
    TrainingJobStatus,
)
from dlcloud_operator.core.model import JobKey, JobView
from dlcloud_operator.engine.filling import YamlTemplate
from dlcloud_operator.engine.render import AGENT_COPY, PodRenderer, RenderSettings

NOW = datetime(2026, 1, 2, tzinfo=UTC)
SETTINGS = RenderSettings(
    rendezvous_url="https://dlcloud.dlcloud:8443", trainer_image="trainer:1", ca="-----BEGIN\nX\n"
)
RENDERER = PodRenderer(SETTINGS)
BUILT_IN: dict[str, Any] = {"workload": "cnn", "data": {"uri": "builtin://digits"}}
SCRIPT: dict[str, Any] = {"script": {"command": ["python", "train.py"]}}


def job(spec: dict[str, Any] | TrainingJobSpec, **fields: Any) -> JobView:
    parsed = spec if isinstance(spec, TrainingJobSpec) else TrainingJobSpec.model_validate(spec)
    values = {"key": JobKey("team-a", "mnist"), "uid": "uid-1", "generation": 1, "status": TrainingJobStatus()} | fields
    return JobView(resource_version="7", created_at=NOW, spec=parsed, **values)


def render(
    spec: dict[str, Any] | TrainingJobSpec, index: int = 3, incarnation: int = 2, **fields: Any
) -> dict[str, Any]:
    return PodRenderer(SETTINGS).render(job(spec, **fields), index, incarnation)


def trainer(pod: dict[str, Any]) -> dict[str, Any]:
    (found,) = [container for container in pod["spec"]["containers"] if container["name"] == "trainer"]
    return found


def env(pod: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in trainer(pod)["env"]}


def volume(pod: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [volume for volume in pod["spec"]["volumes"] if volume["name"] == name]
    return found


def mounts(container: dict[str, Any]) -> dict[str, str]:
    return {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}


def test_a_pod_is_named_by_job_index_and_incarnation() -> None:
    metadata = render(BUILT_IN)["metadata"]
    assert (metadata["name"], metadata["namespace"]) == ("mnist-3-2", "team-a")
    assert metadata["labels"] == {
        "app.kubernetes.io/name": "dlcloud-worker",
        "app.kubernetes.io/managed-by": "dlcloud",
        "dlcloud.dev/job": "mnist",
        "dlcloud.dev/index": "3",
        "dlcloud.dev/incarnation": "2",
    }


def test_the_longest_name_still_fits_into_labels_and_host_names() -> None:
    metadata = render(BUILT_IN, 1023, 999_999, key=JobKey("n" * 63, "a" * 50))["metadata"]
    assert len(metadata["name"]) <= 63
    assert all(len(value) <= 63 for value in metadata["labels"].values())


def test_a_pod_is_owned_by_its_job_which_may_go_at_any_time() -> None:
    assert render(BUILT_IN)["metadata"]["ownerReferences"] == [
        {"apiVersion": "dlcloud.dev/v1", "kind": "TrainingJob", "name": "mnist", "uid": "uid-1", "controller": True}
    ]


def test_the_environment_is_the_protocols() -> None:
    found = env(render({**BUILT_IN, "workers": {"gpus": 4}}))
    assert {name: value for name, value in found.items() if name.startswith("DLCLOUD_")} == {
        "DLCLOUD_RENDEZVOUS_URL": "https://dlcloud.dlcloud:8443",
        "DLCLOUD_TOKEN_FILE": "/dlcloud/token/token",
        "DLCLOUD_CA": "-----BEGIN\nX\n",
        "DLCLOUD_NAMESPACE": "team-a",
        "DLCLOUD_JOB": "mnist",
        "DLCLOUD_JOB_UID": "uid-1",
        "DLCLOUD_INDEX": "3",
        "DLCLOUD_POD": {"fieldRef": {"fieldPath": "metadata.name"}},
        "DLCLOUD_POD_UID": {"fieldRef": {"fieldPath": "metadata.uid"}},
        "DLCLOUD_POD_IP": {"fieldRef": {"fieldPath": "status.podIP"}},
        "DLCLOUD_WORKLOAD": "cnn",
        "DLCLOUD_PROCESSES": "4",
        "DLCLOUD_DRAIN_S": "60",
        "DLCLOUD_TERMINATION_LOG": "/dev/termination-log",
    }
    for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME", "TORCH_HOME", "MPLCONFIGDIR"):
        assert found[name].startswith("/dlcloud/scratch")
    assert found["USER"] == "dlcloud"


def test_no_authority_is_named_where_there_is_none() -> None:
    pod = PodRenderer(RenderSettings("http://127.0.0.1:1")).render(job(BUILT_IN), 0, 1)
    assert "DLCLOUD_CA" not in env(pod)


def test_a_script_has_an_empty_workload() -> None:
    assert env(render(SCRIPT))["DLCLOUD_WORKLOAD"] == ""


def test_a_built_in_workload_runs_the_agent_of_the_trainer_image() -> None:
    pod = render(BUILT_IN)
    assert trainer(pod)["image"] == "trainer:1"
    assert trainer(pod)["command"] == ["python3", "-S", "-E", "/opt/dlcloud/agent.pyz"]
    assert "initContainers" not in pod["spec"]
    assert "/dlcloud/bin" not in mounts(trainer(pod))


def test_a_script_without_an_image_runs_in_the_trainer_image() -> None:
    pod = render(SCRIPT)
    assert trainer(pod)["image"] == "trainer:1"
    assert "initContainers" not in pod["spec"]


def test_a_script_with_an_image_gets_the_agent_copied_into_it() -> None:
    pod = render({"script": {"command": ["python"], "image": "mine:2"}})
    (init,) = pod["spec"]["initContainers"]
    assert (init["image"], init["command"]) == ("trainer:1", ["cp", "/opt/dlcloud/agent.pyz", AGENT_COPY])
    assert trainer(pod)["image"] == "mine:2"
    assert trainer(pod)["command"] == ["python3", "-S", "-E", AGENT_COPY]
    assert mounts(init)["/dlcloud/bin"] == mounts(trainer(pod))["/dlcloud/bin"] == "bin"
    assert volume(pod, "bin")["emptyDir"] == {}


def test_resources_are_requested_and_limited_alike() -> None:
    resources = trainer(render({**BUILT_IN, "workers": {"gpus": 2, "cpu": "4", "memory": "8Gi"}}))["resources"]
    assert resources["limits"] == {"cpu": "4", "memory": "8Gi", "nvidia.com/gpu": "2"}
    assert resources["requests"] == resources["limits"]


def test_without_gpus_none_are_named() -> None:
    assert "nvidia.com/gpu" not in json.dumps(render(BUILT_IN))


@pytest.mark.parametrize("spec", [BUILT_IN, SCRIPT, {"script": {"command": ["x"], "image": "y"}}])
def test_the_restricted_pod_security_standard_is_met(spec: dict[str, Any]) -> None:
    pod = render(spec)["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 65532
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


def test_everything_a_program_writes_to_is_a_volume() -> None:
    pod = render(BUILT_IN)
    assert mounts(trainer(pod)) == {
        "/dlcloud/scratch": "scratch",
        "/dlcloud/token": "token",
        "/tmp": "tmp",
        "/dev/shm": "shm",
    }
    assert volume(pod, "scratch")["emptyDir"] == volume(pod, "tmp")["emptyDir"] == {}


def test_shared_memory_is_half_of_the_memory() -> None:
    pod = render({**BUILT_IN, "workers": {"memory": "8Gi"}})
    assert volume(pod, "shm")["emptyDir"] == {"medium": "Memory", "sizeLimit": "4096Mi"}


def test_the_token_is_for_dlcloud_alone() -> None:
    (source,) = volume(render(BUILT_IN), "token")["projected"]["sources"]
    assert source == {"serviceAccountToken": {"audience": "dlcloud", "expirationSeconds": 3600, "path": "token"}}


def test_a_dead_pod_stays_dead_and_tells_why() -> None:
    pod = render(BUILT_IN)
    assert pod["spec"]["restartPolicy"] == "Never"
    assert trainer(pod)["terminationMessagePolicy"] == "FallbackToLogsOnError"


def test_a_lost_node_is_tolerated_for_30_seconds() -> None:
    found = render(BUILT_IN)["spec"]["tolerations"]
    assert {(t["key"], t["effect"], t["tolerationSeconds"]) for t in found} == {
        ("node.kubernetes.io/not-ready", "NoExecute", 30),
        ("node.kubernetes.io/unreachable", "NoExecute", 30),
    }


def test_a_users_word_on_lost_nodes_is_kept() -> None:
    own = {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "tolerationSeconds": 300}
    found = render({**BUILT_IN, "scheduling": {"tolerations": [own]}})["spec"]["tolerations"]
    assert [t["tolerationSeconds"] for t in found] == [300, 30]


@pytest.mark.parametrize(
    ("drain", "size_bytes", "drain_s"),
    [("1m", None, 60), ("90s", 0, 90), ("500ms", None, 1), ("1m", 2_000_000_000, 160), ("1m", 10**13, 660)],
)
def test_the_time_to_end_follows_the_state_to_be_saved(drain: str, size_bytes: int | None, drain_s: int) -> None:
    checkpoint = CheckpointStatus(step=1, uri="s3://b/m", committed_at=NOW, size_bytes=size_bytes)
    pod = render({**BUILT_IN, "limits": {"drain": drain}}, status=TrainingJobStatus(checkpoint=checkpoint))
    assert env(pod)["DLCLOUD_DRAIN_S"] == str(drain_s)
    assert pod["spec"]["terminationGracePeriodSeconds"] == drain_s + 10


def test_credentials_come_from_the_named_secret() -> None:
    found = env(render({**BUILT_IN, "objectStore": {"credentialsSecret": "s3"}}))
    assert found["AWS_ACCESS_KEY_ID"] == {"secretKeyRef": {"name": "s3", "key": "AWS_ACCESS_KEY_ID"}}
    assert found["AWS_SECRET_ACCESS_KEY"] == {"secretKeyRef": {"name": "s3", "key": "AWS_SECRET_ACCESS_KEY"}}
    assert found["AWS_SESSION_TOKEN"]["secretKeyRef"]["optional"] is True
    assert not [name for name in env(render(BUILT_IN)) if name.startswith("AWS_")]


def test_the_named_secret_is_mounted_for_the_ranks_user_alone_and_no_other_key_of_it() -> None:
    pod = render({**BUILT_IN, "objectStore": {"credentialsSecret": "s3"}})
    secret = volume(pod, "store-credentials")["secret"]
    keys = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"]
    assert secret == {
        "secretName": "s3", "defaultMode": 0o440, "optional": True, "items": [{"key": key, "path": key} for key in keys]
    }  # fmt: skip
    assert pod["spec"]["securityContext"]["fsGroup"] == 65532
    assert mounts(trainer(pod))["/dlcloud/store-credentials"] == "store-credentials"
    assert env(pod)["DLCLOUD_STORE_CREDENTIALS_DIR"] == "/dlcloud/store-credentials"
    assert "DLCLOUD_STORE_CREDENTIALS_DIR" not in env(render(BUILT_IN))


def test_a_key_of_the_users_own_comes_from_the_secret_only_where_it_encrypts() -> None:
    store = {"endpoint": "https://s3", "credentialsSecret": "s3"}
    name = "AWS_SSE_CUSTOMER_KEY_BASE64"
    pod = render({**BUILT_IN, "objectStore": {**store, "encryption": {"type": "SSE-C"}}})
    assert env(pod)[name] == {"secretKeyRef": {"name": "s3", "key": name}}
    assert {"key": name, "path": name} in volume(pod, "store-credentials")["secret"]["items"]
    assert name not in env(render({**BUILT_IN, "objectStore": {**store, "encryption": {"type": "SSE-KMS"}}}))


def test_a_pod_of_a_web_identity_keeps_its_service_account_and_gets_no_token_of_the_api_server() -> None:
    pod = render({**BUILT_IN, "podTemplate": {"spec": {"serviceAccountName": "trainer"}}})
    assert pod["spec"]["serviceAccountName"] == "trainer"
    assert pod["spec"]["automountServiceAccountToken"] is False


def test_the_stores_authority_comes_from_the_named_config_map() -> None:
    pod = render({**BUILT_IN, "objectStore": {"caConfigMap": "ca"}})
    assert volume(pod, "store-ca")["configMap"] == {"name": "ca", "items": [{"key": "ca.crt", "path": "ca.crt"}]}
    assert mounts(trainer(pod))["/dlcloud/store-ca"] == "store-ca"
    assert env(pod)["DLCLOUD_STORE_CA_FILE"] == "/dlcloud/store-ca/ca.crt"


def test_scheduling_fields_reach_the_pod() -> None:
    scheduling = {
        "priorityClassName": "high",
        "nodeSelector": {"zone": "a"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "affinity": {"podAffinity": {"x": [1, 2.5, None, True]}},
    }
    spec = render({**BUILT_IN, "scheduling": scheduling})["spec"]
    assert spec["priorityClassName"] == "high"
    assert spec["nodeSelector"] == {"zone": "a"}
    assert spec["tolerations"][0] == {"key": "gpu", "operator": "Exists"}
    assert spec["affinity"] == scheduling["affinity"]


def test_what_is_not_asked_for_is_absent() -> None:
    assert not {"priorityClassName", "nodeSelector", "affinity"} & set(render(BUILT_IN)["spec"])


# --- podTemplate ---


def with_template(template: dict[str, Any], base: dict[str, Any] = BUILT_IN) -> dict[str, Any]:
    return render({**base, "podTemplate": template})


def in_trainer(**fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "trainer", **fields}]}}


def test_a_pod_template_is_merged_over_the_pod() -> None:
    pod = with_template(
        {
            "metadata": {"labels": {"team": "vision"}, "annotations": {"a": "b"}},
            "spec": {
                "imagePullSecrets": [{"name": "registry"}],
                "containers": [
                    {
                        "name": "trainer",
                        "env": [{"name": "TEAM", "value": "vision"}, {"name": "HOME", "value": "/data"}],
                        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                    },
                    {"name": "sidecar", "image": "logs:1"},
                ],
                "volumes": [
                    {"name": "data", "persistentVolumeClaim": {"claimName": "d"}},
                    {"name": "shm", "emptyDir": {"sizeLimit": "1Gi"}},
                ],
            },
        }
    )
    assert pod["metadata"]["labels"]["team"] == "vision"
    assert pod["metadata"]["labels"]["dlcloud.dev/index"] == "3"
    assert pod["metadata"]["annotations"] == {"a": "b"}
    assert pod["spec"]["imagePullSecrets"] == [{"name": "registry"}]
    assert [container["name"] for container in pod["spec"]["containers"]] == ["trainer", "sidecar"]
    assert (env(pod)["TEAM"], env(pod)["HOME"]) == ("vision", "/data")
    assert {"/data", "/tmp", "/dlcloud/token"} <= set(mounts(trainer(pod)))
    assert volume(pod, "data")["persistentVolumeClaim"] == {"claimName": "d"}
    assert volume(pod, "shm")["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}


HOSTILE: list[dict[str, Any]] = [
    {"metadata": {"name": "other", "namespace": "kube-system", "generateName": "x-"}},
    {"metadata": {"labels": {"dlcloud.dev/job": "other", "dlcloud.dev/index": "0", "dlcloud.dev/incarnation": None}}},
    {"metadata": {"labels": {"$patch": "delete"}}},
    {"metadata": {"$patch": "delete"}},
    {"metadata": {"ownerReferences": [{"uid": "uid-1", "name": "other"}, {"uid": "uid-2"}]}},
    {"metadata": {"ownerReferences": None}},
    {"spec": {"restartPolicy": "Always"}},
    {"spec": {"restartPolicy": None}},
    {"spec": {"volumes": [{"name": "token", "emptyDir": {}}]}},
    {"spec": {"volumes": [{"name": "token", "$patch": "delete"}]}},
    {"spec": {"volumes": [{"$patch": "replace"}]}},
    {"spec": {"volumes": None}},
    in_trainer(volumeMounts=[{"mountPath": "/dlcloud/token", "name": "scratch"}]),
    in_trainer(volumeMounts=[{"mountPath": "/dlcloud/token", "$patch": "delete"}]),
    in_trainer(volumeMounts=None),
    in_trainer(command=["sh"], args=["-c", "x"]),
    in_trainer(command=None),
    in_trainer(env=[{"name": "DLCLOUD_INDEX", "value": "0"}, {"name": "DLCLOUD_POD_UID", "value": "u"}]),
    in_trainer(env=[{"name": "DLCLOUD_TOKEN_FILE", "$patch": "delete"}, {"name": "DLCLOUD_OTHER", "value": "x"}]),
    in_trainer(env=[{"$patch": "replace"}, {"name": "A", "value": "b"}]),
    in_trainer(env=None),
    {"spec": {"containers": [{"name": "first", "image": "x"}, {"name": "trainer", "image": "y"}]}},
]


@pytest.mark.parametrize("template", HOSTILE, ids=json.dumps)
def test_what_the_operator_lives_by_cannot_be_overridden(template: dict[str, Any]) -> None:
    plain, pod = render(BUILT_IN), with_template(template)
    assert pod["metadata"]["name"] == plain["metadata"]["name"]
    assert pod["metadata"]["namespace"] == plain["metadata"]["namespace"]
    assert "generateName" not in pod["metadata"]
    assert pod["metadata"]["ownerReferences"] == plain["metadata"]["ownerReferences"]
    assert plain["metadata"]["labels"].items() <= pod["metadata"]["labels"].items()
    assert pod["spec"]["restartPolicy"] == "Never"
    assert volume(pod, "token") == volume(plain, "token")
    assert mounts(trainer(pod))["/dlcloud/token"] == "token"
    assert trainer(pod)["command"] == trainer(plain)["command"]
    assert "args" not in trainer(pod)
    ours = {name: value for name, value in env(plain).items() if name.startswith("DLCLOUD_")}
    assert {name: value for name, value in env(pod).items() if name.startswith("DLCLOUD_")} == ours


@pytest.mark.parametrize(
    ("template", "path"),
    [
        ({"spec": {"containers": [{"image": "x"}]}}, "spec.podTemplate.spec.containers[0]"),
        ({"spec": {"containers": [{"name": "trainer", "$patch": "delete"}]}}, "spec.podTemplate.spec.containers"),
        (in_trainer(env=[{"value": "x"}]), "spec.podTemplate.spec.containers[0].env[0]"),
    ],
)
def test_a_template_that_cannot_be_merged_is_refused_by_path(template: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidManifest) as caught:
        with_template(template)
    assert [problem.path for problem in caught.value.problems] == [path]


def test_a_job_that_did_not_parse_is_refused_with_its_own_problems() -> None:
    problem = Problem("spec.x", "is wrong")
    view = JobView(JobKey("a", "b"), "u", "1", 1, NOW, TrainingJobStatus(), None, (problem,))
    with pytest.raises(InvalidManifest) as caught:
        RENDERER.render(view, 0, 1)
    assert caught.value.problems == (problem,)


def test_the_cache_for_data_is_the_users_to_set() -> None:
    given = {"DLCLOUD_CACHE": "/cache", "DLCLOUD_CACHE_BYTES": "1000"}
    pod = with_template(in_trainer(env=[{"name": name, "value": value} for name, value in given.items()]))
    assert given.items() <= env(pod).items()


# --- one template for many pods ---


def test_pods_of_one_job_differ_in_name_and_index_only_and_share_nothing() -> None:
    view = job(BUILT_IN)
    one, other = RENDERER.render(view, 0, 1), RENDERER.render(view, 1, 1)
    assert (env(one)["DLCLOUD_INDEX"], env(other)["DLCLOUD_INDEX"]) == ("0", "1")
    one["spec"]["containers"][0]["env"].clear()
    one["metadata"]["labels"]["x"] = "y"
    again = RENDERER.render(view, 1, 1)
    assert again == other


def test_a_changed_job_is_rendered_anew() -> None:
    renderer = PodRenderer(SETTINGS)
    renderer.render(job(BUILT_IN), 0, 1)
    changed = job({**BUILT_IN, "workers": {"memory": "4Gi"}}, generation=2)
    assert trainer(renderer.render(changed, 0, 1))["resources"]["limits"]["memory"] == "4Gi"


def test_a_job_created_again_under_the_same_name_is_rendered_anew() -> None:
    renderer = PodRenderer(SETTINGS)
    renderer.render(job(BUILT_IN), 0, 1)
    pod = renderer.render(job(BUILT_IN, uid="uid-2"), 0, 1)
    assert pod["metadata"]["ownerReferences"][0]["uid"] == "uid-2"


def test_more_jobs_than_the_cache_holds_are_still_rendered_right() -> None:
    renderer = PodRenderer(SETTINGS, cache_size=2)
    for _ in range(2):
        for n in range(5):
            pod = renderer.render(job(BUILT_IN, uid=f"uid-{n}"), 0, 1)
            assert env(pod)["DLCLOUD_JOB_UID"] == f"uid-{n}"
    assert len(renderer._cache) == 2


def test_a_pod_after_the_first_costs_no_template() -> None:
    view = job(BUILT_IN)
    RENDERER.render(view, 0, 1)
    costs = []
    for _ in range(5):
        begin = time.perf_counter()
        for index in range(100):
            RENDERER.render(view, index, 1)
        costs.append((time.perf_counter() - begin) / 100)
    # 0.05 ms on an idle machine; reading the template's YAML alone would take 4 ms.
    assert min(costs) < 0.001


# --- no text becomes structure ---

NASTY = [
    '"', "'", "\\", "{{ x }}", "{% raw %}", "a: b", "- a", "#", "\n  hostNetwork: true", "\x85", "\u2028", "\ufeff",
    "\U0001f600", "\x7f", "*a", "&a", "!!python/name:os.system", "null", "1e3", "%", "@", "`", "\t", "|\n",
]  # fmt: skip
texts = st.text(max_size=20) | st.sampled_from(NASTY) | st.tuples(*[st.sampled_from(NASTY)] * 3).map("".join)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300)
@given(value=json_values, key=texts)
def test_a_value_comes_out_of_a_template_as_it_went_in(filled: Callable[..., Any], value: Any, key: str) -> None:
    assert filled("a:\n  - {{ v | yaml }}\nb: 1\n? {{ k | yaml }}\n: 2\n", v=value, k=f"k{key}") == {
        "a": [value],
        "b": 1,
        f"k{key}": 2,
    }


def test_a_template_is_parsed_once_for_all_values_and_anew_for_another_branch(filled: Callable[..., Any]) -> None:
    text = "a: {{ v | yaml }}\n{% for x in more %}b{{ x }}: {{ x | yaml }}\n{% endfor %}"
    assert [filled(text, v=v, more=more) for v, more in ((1, ()), (2, ()), (3, (5,)), ([4], (6, 7)))] == [
        {"a": 1},
        {"a": 2},
        {"a": 3, "b5": 5},
        {"a": [4], "b6": 6, "b7": 7},
    ]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    folder, made = tmp_path_factory.mktemp("templates"), {}

    def fill(text: str, **names: Any) -> Any:
        if text not in made:
            path = folder / f"{len(made)}.yaml.j2"
            path.write_text(text)
            made[text] = YamlTemplate(path)
        return made[text].fill(names)

    return fill


def test_half_a_surrogate_pair_becomes_a_replacement_character() -> None:
    nodes = {"scheduling": {"nodeSelector": {"zone": "x\ud800y"}}}
    assert render({**BUILT_IN, **nodes})["spec"]["nodeSelector"] == {"zone": "x\ufffdy"}


def shape(value: Any, free: tuple[str, ...] = ("nodeSelector", "affinity")) -> Any:
    """The structure of a pod, without its texts."""
    if isinstance(value, dict):
        return {key: "free" if key in free else shape(item) for key, item in value.items()}
    return [shape(item) for item in value] if isinstance(value, list) else type(value).__name__


def written_by_a_user(text: str, labels: dict[str, str], affinity: dict[str, Any]) -> TrainingJobSpec:
    """All texts of a job at once; not validated, as if every pattern let everything through."""
    base = TrainingJobSpec.model_validate(SCRIPT | {"objectStore": {"credentialsSecret": "s", "caConfigMap": "c"}})
    return base.model_copy(
        update={
            "script": Script.model_construct(image=text, command=[text], args=[text]),
            "object_store": ObjectStore.model_construct(
                endpoint=text, region=text, credentials_secret=text, ca_config_map=text
            ),
            "scheduling": base.scheduling.model_copy(
                update={
                    "priority_class_name": text,
                    "node_selector": labels,
                    "affinity": affinity,
                    "tolerations": [{"key": text, "value": text}],
                }
            ),
            "workload": text,
        }
    )


@settings(max_examples=150)
@given(
    text=texts.filter(bool),
    labels=st.dictionaries(texts, texts, min_size=1, max_size=3),
    affinity=st.dictionaries(texts, json_values, min_size=1, max_size=3),
)
def test_no_text_of_a_user_changes_the_structure_of_a_pod(
    text: str, labels: dict[str, str], affinity: dict[str, Any]
) -> None:
    plain = render(written_by_a_user("plain", {"a": "b"}, {"c": "d"}))
    pod = render(written_by_a_user(text, labels, affinity), key=JobKey(text, text), uid=text)
    assert shape(pod) == shape(plain)
    assert trainer(pod)["image"] == text
    assert pod["metadata"]["namespace"] == text
    assert pod["metadata"]["name"] == f"{text}-3-2"
    assert pod["spec"]["nodeSelector"] == labels
    assert pod["spec"]["affinity"] == affinity
    assert env(pod)["AWS_ACCESS_KEY_ID"]["secretKeyRef"]["name"] == text


def test_pods_rendered_after_a_new_ca_trust_that_one() -> None:
    renderer = PodRenderer(SETTINGS)
    before = env(renderer.render(job(BUILT_IN), 0, 1))["DLCLOUD_CA"]
    renderer.trust("-----BEGIN\nY\n")
    assert (before, env(renderer.render(job(BUILT_IN), 0, 1))["DLCLOUD_CA"]) == (SETTINGS.ca, "-----BEGIN\nY\n")
