"""What the chart renders: an API server takes it, its rights are those documented, the operator knows its flags."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml

from dlcloud_operator.engine.network_policy import parse_egress
from dlcloud_operator.kube.options import parse_options

from ...rig.cluster import RESTRICTED, Cluster
from ...rig.helm import HelmError
from .helm import CHART, Object, arguments, helm, of_kind, one, pods, render
from .matrix import EGRESS, MATRIX, REFUSED

STUBS = {
    "monitoring.coreos.com": ("ServiceMonitor", "PrometheusRule"),
    "cert-manager.io": ("Certificate", "Issuer"),
}


def stub(group: str, kind: str) -> Object:
    """A definition that takes everything."""
    plural = f"{kind.lower()}s"
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"},
            "versions": [version],
        },
    }


@pytest.fixture(scope="module")
def cluster(control_plane: Cluster) -> Cluster:
    """With the namespaces and the foreign definitions that the matrix speaks of."""
    kinds = [stub(group, kind) for group, kinds in STUBS.items() for kind in kinds]
    names = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}}
             for name in ("team-a", "team-b", "dlcloud-system")]  # fmt: skip
    missing = [one for one in kinds if control_plane.api.find(f"{DEFINITIONS}/{one['metadata']['name']}") is None]
    given = {"apiVersion": "v1", "kind": "List", "items": [*missing, *names]}
    control_plane.kubectl("apply", "--server-side", "-f", "-", given=given)
    for each in kinds:
        control_plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", f"crd/{each['metadata']['name']}")
    return control_plane


DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def test_the_chart_passes_helm_lint() -> None:
    assert "1 chart(s) linted, 0 chart(s) failed" in helm("lint", "--strict", str(CHART))


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX.keys())
def test_an_api_server_takes_what_is_rendered(cluster: Cluster, values: dict[str, Any]) -> None:
    items = [
        o for o in render(values) if not values or o["kind"] != "CustomResourceDefinition"
    ]  # large, and always the same
    given = {"apiVersion": "v1", "kind": "List", "items": items}
    command = ("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--validate=strict", "-f", "-")
    answer = cluster.kubectl(*command, given=given)
    assert answer.count("serverside-applied") == len(given["items"])


@pytest.mark.parametrize(
    "name", ["default", "certificate given", "external S3", "minio", "egress", "everything of a pod"]
)
def test_a_pod_is_taken_where_the_restricted_standard_rules(cluster: Cluster, name: str) -> None:
    for number, pod in enumerate(pods(render(MATRIX[name]))):
        pod["metadata"] |= {"name": f"pod-{number}", "namespace": "team-a"}
        pod["spec"] |= {"serviceAccountName": "default", "priorityClassName": ""}
        cluster.api.create("/api/v1/namespaces/team-a/pods", pod, dryRun="All", fieldValidation="Strict")


@pytest.mark.parametrize("values", MATRIX.values(), ids=MATRIX.keys())
def test_the_operator_knows_its_flags(values: dict[str, Any], tmp_path: Any) -> None:
    (tmp_path / "egress.json").write_text("[]")
    given = [
        argument.replace("$(POD_NAMESPACE)", "dlcloud-system")
        .replace("/etc/dlcloud/egress", str(tmp_path))
        .replace("/etc/dlcloud/tls", str(tmp_path))
        for argument in arguments(render(values))
    ]
    assert parse_options(given, {}).own_namespace == "dlcloud-system"


@pytest.mark.parametrize(("values", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_wrong_values_are_refused_with_their_place(values: dict[str, Any], message: str) -> None:
    with pytest.raises(HelmError) as refused:
        render(values)
    assert message in str(refused.value)


# --- rights ---

JOB_RIGHTS = {
    ("dlcloud.dev", "trainingjobs"): {"get", "list", "watch", "delete"},
    ("dlcloud.dev", "trainingjobs/status"): {"get", "patch", "update"},
    ("dlcloud.dev", "trainingjobs/finalizers"): {"update"},
    ("", "pods"): {"get", "list", "watch", "create", "delete"},
    ("", "events"): {"create", "patch", "list"},
    ("networking.k8s.io", "networkpolicies"): {"get", "list", "watch", "create", "patch"},
}
OWN_RIGHTS = {
    ("coordination.k8s.io", "leases"): {"create"},
    ("coordination.k8s.io", "leases/dlcloud-operator"): {"get", "update"},
    ("", "pods"): {"get", "list", "patch"},
}


def rights(role: Object) -> dict[tuple[str, str], set[str]]:
    """By group and resource, with the names of objects behind a slash."""
    found: dict[tuple[str, str], set[str]] = {}
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for name in rule.get("resourceNames", [""]):
                    key = (group, f"{resource}/{name}" if name else resource)
                    found.setdefault(key, set()).update(rule["verbs"])
    return found


def operators_roles(objects: list[Object]) -> dict[str, dict[tuple[str, str], set[str]]]:
    """What is bound to the operator's service account, by namespace; "" for the whole cluster."""
    roles = {(o["kind"], o["metadata"].get("namespace", ""), o["metadata"]["name"]): o
             for o in of_kind(objects, "Role", "ClusterRole")}  # fmt: skip
    found = {}
    for binding in of_kind(objects, "RoleBinding", "ClusterRoleBinding"):
        assert [subject["name"] for subject in binding["subjects"]] == ["dlcloud-operator"]
        namespace = binding["metadata"].get("namespace", "")
        role = roles[(binding["roleRef"]["kind"], namespace, binding["roleRef"]["name"])]
        assert namespace not in found
        found[namespace] = rights(role)
    return found


def test_the_operator_has_exactly_the_documented_rights() -> None:
    assert operators_roles(render()) == {"": JOB_RIGHTS, "dlcloud-system": OWN_RIGHTS}


def test_the_documentation_lists_these_rights() -> None:
    text = (CHART.parent / "docs" / "install.md").read_text()
    table = text.partition("| on | verbs |\n| --- | --- |\n")[2].partition("\n\n")[0]
    rows = [re.fullmatch(r"\| `(\S+)` \| ([a-z, ]+?)(?: \(.*\))? \|", line) for line in table.splitlines()]
    documented = {row[1]: set(row[2].split(", ")) for row in rows if row}
    assert documented == {resource: verbs for (_, resource), verbs in JOB_RIGHTS.items()}


def test_with_namespaces_given_nothing_is_cluster_wide() -> None:
    objects = render(MATRIX["some namespaces"])
    assert operators_roles(objects) == {"team-a": JOB_RIGHTS, "team-b": JOB_RIGHTS, "dlcloud-system": OWN_RIGHTS}
    assert of_kind(objects, "ClusterRole", "ClusterRoleBinding") == []


def test_without_network_policies_the_operator_cannot_touch_any() -> None:
    policies = ("networking.k8s.io", "networkpolicies")
    found = operators_roles(render(MATRIX["no network policies"]))[""]
    assert found == {key: verbs for key, verbs in JOB_RIGHTS.items() if key != policies}


def test_token_review_adds_that_right_alone() -> None:
    objects = render(MATRIX["token review in some namespaces"])
    assert [rights(role) for role in of_kind(objects, "ClusterRole")] == [
        {("authentication.k8s.io", "tokenreviews"): {"create"}}
    ]


def test_names_in_the_whole_cluster_differ_between_namespaces() -> None:
    def names(namespace: str) -> set[tuple[str, str]]:
        objects = render({"crds": {"install": False}}, namespace=namespace)
        return {(o["kind"], o["metadata"]["name"]) for o in objects if "namespace" not in o["metadata"]}

    assert names("team-a")
    assert not names("team-a") & names("team-b")


# --- where things go, and what the operator is told ---


@pytest.mark.parametrize(
    ("release_namespace", "values", "expected"),
    [("default", {}, "dlcloud-system"), ("mine", {}, "mine"), ("default", {"namespaceOverride": "other"}, "other")],
)
def test_the_operator_is_never_beside_the_jobs(release_namespace: str, values: Any, expected: str) -> None:
    objects = render(values, namespace=release_namespace)
    assert one(objects, "Deployment")["metadata"]["namespace"] == expected
    made = [found["metadata"]["name"] for found in of_kind(objects, "Namespace")]
    assert made == ([] if expected == release_namespace else [expected])
    assert all("namespace" in o["metadata"] for o in of_kind(objects, "Secret", "Service", "ConfigMap", "Pod", "Job"))


def test_a_job_of_the_samples_finds_the_bundled_store() -> None:
    objects = render()
    sample = yaml.safe_load((CHART.parent / "manifests" / "cnn-digits.yaml").read_text())["spec"]
    service = next(s for s in of_kind(objects, "Service") if s["metadata"]["namespace"] == "default")
    port = service["spec"]["ports"][0]["port"]
    assert sample["objectStore"]["endpoint"] == f"http://{service['metadata']['name']}:{port}"
    assert service["spec"]["externalName"] == "dlcloud-s3.dlcloud-system.svc.cluster.local"
    secret = next(s for s in of_kind(objects, "Secret") if s["metadata"]["namespace"] == "default")
    assert secret["metadata"]["name"] == sample["objectStore"]["credentialsSecret"]
    assert set(secret["data"]) == {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    jobs = one(objects, "Job")["spec"]["template"]["spec"]["containers"][0]["env"]
    buckets = next(entry["value"].split() for entry in jobs if entry["name"] == "BUCKETS")
    assert sample["checkpoint"]["uri"].removeprefix("s3://").strip("/") in buckets


def test_an_external_store_leaves_the_bundled_one_out() -> None:
    objects = render(MATRIX["external S3"])
    assert of_kind(objects, "StatefulSet", "Job") == []
    assert "--object-store-endpoint=https://s3.example.com" in arguments(objects)
    assert "--object-store-credentials-secret=keys" in arguments(objects)


def test_the_egress_rules_are_what_the_operator_can_read() -> None:
    objects = render(MATRIX["egress"])
    rules = parse_egress(one(objects, "ConfigMap", "dlcloud-egress")["data"]["egress.json"])
    assert rules[:-1] == EGRESS
    assert rules[-1]["ports"] == [{"port": 8333, "protocol": "TCP"}]
    assert rules[-1]["to"][0]["podSelector"]["matchLabels"].items() <= pod_labels(objects, "StatefulSet").items()


def pod_labels(objects: list[Object], kind: str) -> dict[str, str]:
    return dict(one(objects, kind)["spec"]["template"]["metadata"]["labels"])


@pytest.mark.parametrize("name", ["dlcloud-rendezvous", "dlcloud-metrics", "dlcloud-s3"])
def test_a_service_finds_its_pods(name: str) -> None:
    objects = render()
    services = [s for s in of_kind(objects, "Service") if s["metadata"]["namespace"] == "dlcloud-system"]
    service = one(services, "Service", name)
    owner = one(objects, "StatefulSet" if name == "dlcloud-s3" else "Deployment")
    labels = pod_labels(objects, owner["kind"]) | {"dlcloud.dev/leader": "true"}
    assert service["spec"]["selector"].items() <= labels.items()
    assert ("dlcloud.dev/leader" in service["spec"]["selector"]) == (name == "dlcloud-rendezvous")
    ports = {port["name"] for port in owner["spec"]["template"]["spec"]["containers"][0]["ports"]}
    assert service["spec"]["ports"][0]["targetPort"] in ports


def test_two_replicas_get_a_budget_and_spread() -> None:
    objects = render({"replicas": 2})
    assert one(objects, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert one(objects, "Deployment")["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert of_kind(render(), "PodDisruptionBudget") == []


LOST = {"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"}


@pytest.mark.parametrize(
    ("given", "added"),
    [
        ([], LOST),
        ([{"key": "gpu", "operator": "Exists"}], LOST),
        ([{"key": "node.kubernetes.io/not-ready", "operator": "Exists"}], {"node.kubernetes.io/unreachable"}),
        ([{"operator": "Exists"}], set()),
    ],
)
def test_the_operator_leaves_a_lost_node_as_soon_as_workers_do_unless_told_otherwise(
    given: list[Object], added: set[str]
) -> None:
    found = one(render({"tolerations": given}), "Deployment")["spec"]["template"]["spec"].get("tolerations") or []
    assert found[: len(given)] == given
    assert {item["key"] for item in found[len(given) :]} == added
    assert all(item["tolerationSeconds"] == 30 for item in found[len(given) :])


def test_other_values_leave_the_store_and_the_operator_where_nothing_of_theirs_changed() -> None:
    before, after = (
        render(),
        render({"networkPolicy": {"operator": {"enabled": True}}, "rbac": {"aggregateRoles": False}}),
    )
    for kind in ("Deployment", "StatefulSet"):
        assert one(before, kind)["spec"] == one(after, kind)["spec"]


def test_changed_egress_rules_restart_the_operator() -> None:
    other = [{"ports": [{"port": 9000}]}]
    before, after = (render({"networkPolicy": {"egress": rules}}) for rules in (EGRESS, other))
    assert one(before, "Deployment")["spec"] != one(after, "Deployment")["spec"]


def test_the_certificate_names_what_workers_call_the_operator() -> None:
    objects = render(MATRIX["cert-manager"])
    url = next(a.removeprefix("--rendezvous-url=https://") for a in arguments(objects) if "rendezvous-url" in a)
    leaf = one(objects, "Certificate", "dlcloud-rendezvous")
    assert url.partition(":")[0] in leaf["spec"]["dnsNames"]
    volumes = one(objects, "Deployment")["spec"]["template"]["spec"]["volumes"]
    assert leaf["spec"]["secretName"] == next(v["secret"]["secretName"] for v in volumes if v["name"] == "tls")


def test_without_the_definition_the_rest_stays() -> None:
    def kinds(values: dict[str, Any]) -> list[str]:
        return sorted(found["kind"] for found in render(values))

    assert kinds(MATRIX["no definition"]) == [k for k in kinds({}) if k != "CustomResourceDefinition"]


def test_the_definition_in_the_chart_can_be_applied_as_it_is() -> None:
    file = CHART / "templates" / "crd-trainingjobs.yaml"
    assert yaml.load(file.read_text(), yaml.CSafeLoader) == one(render(), "CustomResourceDefinition")


def test_the_dashboard_reaches_the_cluster_whole() -> None:
    rendered = one(render(MATRIX["monitoring"]), "ConfigMap", "dlcloud-dashboard")["data"]["dlcloud.json"]
    assert json.loads(rendered) == json.loads((CHART / "dashboards" / "dlcloud.json").read_text())


def test_the_scripts_sign_as_the_trainer_does() -> None:
    trainers = CHART.parent / "trainer" / "dlcloud_trainer" / "agent" / "sigv4.py"
    assert (CHART / "files" / "sigv4.py").read_text() == trainers.read_text(), (
        "copy the trainer's sigv4.py to charts/files"
    )


def test_every_value_is_in_the_schema_and_the_other_way_round() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())

    def named(node: Any, path: str = "") -> set[str]:
        node = schema["definitions"][node["$ref"].rsplit("/", 1)[1]] if "$ref" in node else node
        found = {path}
        if path not in ("/resources", "/s3/resources", "/tls/certManager/issuerRef"):
            for name, inner in node.get("properties", {}).items():
                found |= named(inner, f"{path}/{name}")
        return found

    def given(node: Any, path: str = "") -> set[str]:
        found = {path}
        if isinstance(node, dict) and not path.endswith(("/resources", "/labels")):
            for name, inner in node.items():
                found |= given(inner, f"{path}/{name}")
        return found

    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert named(schema) - {"/global"} == given(values)
