"""The life of a job on a real API server, its agents played: what a user sees of it and may do with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ...rig.client import KubeClient, KubeError
from ...rig.jobs import JOBS, Jobs, manifest
from ...rig.kubelet import Kubelet
from ...rig.processes import until
from .installation import Installation, OperatorProcess

pytestmark = pytest.mark.usefixtures("operator", "node")


@pytest.fixture(autouse=True)
def patient(node: Kubelet) -> Iterator[None]:
    """Agents train until they are told to succeed."""
    node.play.work_s = None
    yield
    node.play.work_s = None
    node.play.succeed.clear()


@pytest.fixture(scope="module")
def finished(operator: OperatorProcess, node: Kubelet, jobs: Jobs) -> tuple[str, str]:
    """Two jobs that have succeeded: one with cleanPods All, one with None. Asked for first, so that time goes by."""
    node.play.succeed |= {"tidy", "untidy"}
    jobs.create("tidy", cleanPods="All")
    jobs.create("untidy", cleanPods="None")
    for name in ("tidy", "untidy"):
        jobs.until_phase(name, "Succeeded")
        # The agents end when they are told so, and the kubelet tells their ends a moment later.
        jobs.until_pods_ended(name)
    return "tidy", "untidy"


def test_the_pods_of_a_finished_job_stay_for_their_logs(finished: tuple[str, str], jobs: Jobs) -> None:
    assert [[pod["status"]["phase"] for pod in jobs.pods(name)] for name in finished] == [["Succeeded"] * 2] * 2


def test_a_job_trains_and_succeeds(node: Kubelet, jobs: Jobs) -> None:
    jobs.create("plain")
    current = jobs.until_round("plain")
    assert [member["pod"] for member in current["members"]] == ["plain-0-1", "plain-1-1"]
    jobs.until("plain", "training is told", lambda _: jobs.condition("plain", "Training").get("status") == "True")
    assert jobs.phase("plain") == "Running"
    node.play.succeed.add("plain")
    status = jobs.until_phase("plain", "Succeeded")
    assert jobs.pod_names("plain") == ["plain-0-1", "plain-1-1"]
    assert jobs.condition("plain", "Complete")["status"] == "True"
    assert status["selector"] == "dlcloud.dev/job=plain" and status["restarts"] == 0 and "completionTime" in status


def test_what_the_operator_makes_belongs_to_the_job_and_holds_no_finalizer(jobs: Jobs) -> None:
    made = jobs.create("owned")
    jobs.until_round("owned")
    policy = jobs.api.items(f"/apis/networking.k8s.io/v1/namespaces/{jobs.namespace}/networkpolicies")
    owned = [one for one in [*jobs.pods("owned"), *policy] if _owner(one).get("name") == "owned"]
    assert len(owned) == 3
    for one in owned:
        assert _owner(one)["uid"] == made["metadata"]["uid"]
        assert not _owner(one).get("blockOwnerDeletion") and "finalizers" not in one["metadata"]
    job = jobs.get("owned")["metadata"]
    assert "finalizers" not in job and set(job.get("annotations") or {}) == set()


def test_a_failing_rank_costs_a_round_and_its_pods_stay(node: Kubelet, jobs: Jobs) -> None:
    jobs.create("flaky")
    jobs.until_round("flaky")
    uids = {pod["metadata"]["uid"] for pod in jobs.pods("flaky")}
    node.fail_ranks(jobs.namespace, "flaky-1-1", "Error", 1)
    assert jobs.until_round("flaky", 2)["number"] == 2
    assert {pod["metadata"]["uid"] for pod in jobs.pods("flaky")} == uids
    status = jobs.until("flaky", "the failure is told", lambda s: s if s.get("failures") else None)
    assert (
        status["restarts"] == 1 and status["failures"][0]["reason"] == "Error" and status["failures"][0]["worker"] == 1
    )


def test_too_many_failures_end_the_job_with_the_cause(node: Kubelet, jobs: Jobs) -> None:
    jobs.create("hopeless", restart={"maxFailures": 0})
    jobs.until_round("hopeless")
    node.fail_ranks(jobs.namespace, "hopeless-0-1", "Error", 3)
    node.fail_ranks(jobs.namespace, "hopeless-1-1", "PeerLost", 72)
    status = jobs.until_phase("hopeless", "Failed")
    assert "worker 0" in status["message"] and jobs.condition("hopeless", "Failed")["status"] == "True"


def test_each_transition_is_an_event_on_the_job(node: Kubelet, jobs: Jobs) -> None:
    jobs.create("told")
    jobs.until_round("told")
    node.play.succeed.add("told")
    jobs.until_phase("told", "Succeeded")
    wanted = {"RoundStarted", "Succeeded"}
    jobs.until("told", "its events are there", lambda _: wanted <= {event["reason"] for event in jobs.events("told")})
    components = {event["source"]["component"] for event in jobs.events("told")}
    assert components == {"dlcloud-operator"}, "nothing but the operator's own words"


def test_a_deleted_pod_is_replaced_and_the_other_stays(jobs: Jobs) -> None:
    jobs.create("loses")
    jobs.until_round("loses")
    kept = jobs.pods("loses")[0]["metadata"]["uid"]
    jobs.api.delete(f"{jobs.pods_path}/loses-1-1")
    current = jobs.until_round("loses", 2)
    assert [member["pod"] for member in current["members"]] == ["loses-0-1", "loses-1-2"]
    assert current["members"][0]["uid"] == kept


def test_each_pod_in_turn_may_be_deleted(jobs: Jobs) -> None:
    jobs.create("each", workers={"count": 3})
    jobs.until_round("each")
    for turn, index in enumerate((0, 1, 2), start=2):
        jobs.api.delete(f"{jobs.pods_path}/each-{index}-1")
        current = jobs.until_round("each", turn)
        assert f"each-{index}-2" in [member["pod"] for member in current["members"]]


def test_all_pods_deleted_at_once_are_replaced(jobs: Jobs) -> None:
    jobs.create("empty")
    jobs.until_round("empty")
    jobs.api.delete(jobs.pods_path, labelSelector="dlcloud.dev/job=empty")
    current = jobs.until_round("empty", 2)
    assert [member["pod"] for member in current["members"]] == ["empty-0-2", "empty-1-2"]


def test_a_deleted_network_policy_is_made_again(jobs: Jobs) -> None:
    jobs.create("walled")
    jobs.until_round("walled")
    path = f"/apis/networking.k8s.io/v1/namespaces/{jobs.namespace}/networkpolicies"

    def uid() -> str:
        found = [one for one in jobs.api.items(path) if _owner(one).get("name") == "walled"]
        return found[0]["metadata"]["uid"] if found else ""

    first = uid()
    name = next(one["metadata"]["name"] for one in jobs.api.items(path) if _owner(one).get("name") == "walled")
    jobs.api.delete(f"{path}/{name}")
    until("the policy is back", lambda: uid() not in ("", first), 15)
    assert jobs.get("walled")["status"]["round"]["number"] == 1, "training went on"


def test_a_suspended_job_has_no_pods_and_goes_on_when_resumed(jobs: Jobs) -> None:
    jobs.create("paused")
    jobs.until_round("paused")
    jobs.patch("paused", suspend=True)
    status = jobs.until_phase("paused", "Suspended")
    assert jobs.pods("paused") == [] and status["workers"]["ready"] == 0 and "round" not in status
    assert jobs.condition("paused", "Suspended")["status"] == "True"
    jobs.patch("paused", suspend=False)
    current = jobs.until_round("paused", 2)
    assert [member["pod"] for member in current["members"]] == ["paused-0-2", "paused-1-2"]
    assert {"Suspended", "Resumed"} <= {event["reason"] for event in jobs.events("paused")}


def test_a_job_that_begins_suspended_makes_no_pod(jobs: Jobs) -> None:
    jobs.create("later", suspend=True)
    jobs.until_phase("later", "Suspended")
    assert jobs.pods("later") == []


def test_the_workers_of_a_suspended_job_can_be_scaled_and_those_of_a_running_one_cannot(jobs: Jobs) -> None:
    jobs.create("scaled", suspend=True)
    jobs.until_phase("scaled", "Suspended")
    jobs.cluster.kubectl("scale", "tj/scaled", "-n", jobs.namespace, "--replicas=3")
    jobs.patch("scaled", suspend=False)
    assert jobs.until_round("scaled")["worldSize"] == 3
    told = jobs.cluster.kubectl("scale", "tj/scaled", "-n", jobs.namespace, "--replicas=4", fails=True)
    assert "suspend" in told
    scale = jobs.api.get(f"{jobs.path}/scaled/scale")
    assert scale["spec"]["replicas"] == 3 and scale["status"]["selector"] == "dlcloud.dev/job=scaled"


def test_a_job_beyond_its_deadline_fails(jobs: Jobs) -> None:
    jobs.create("slow", activeDeadlineSeconds=2)
    status = jobs.until_phase("slow", "Failed")
    assert "activeDeadlineSeconds" in status["message"]
    assert jobs.condition("slow", "Failed")["reason"] == "DeadlineExceeded"


def test_a_finished_job_goes_after_its_time_to_live(node: Kubelet, jobs: Jobs) -> None:
    jobs.create("brief", ttlSecondsAfterFinished=1)
    node.play.succeed.add("brief")
    jobs.until_gone("brief")


def test_a_pod_of_somebody_else_is_left_alone_and_named(jobs: Jobs) -> None:
    foreign = _foreign_pod("taken-1-1")
    uid = jobs.api.create(jobs.pods_path, foreign)["metadata"]["uid"]
    jobs.create("taken")
    told = jobs.until(
        "taken", "the pod is named", lambda s: s["message"] if "taken-1-1" in s.get("message", "") else ""
    )
    assert "exists already" in told
    assert jobs.api.get(f"{jobs.pods_path}/taken-1-1")["metadata"]["uid"] == uid
    jobs.delete("taken")
    until("the job is gone", lambda: jobs.find("taken") is None, 10)
    assert jobs.api.get(f"{jobs.pods_path}/taken-1-1")["metadata"]["uid"] == uid
    jobs.api.delete(f"{jobs.pods_path}/taken-1-1")


def test_the_schedulers_own_words_are_the_message(jobs: Jobs) -> None:
    jobs.create("large", workers={"count": 1, "gpus": 1})
    told = jobs.until(
        "large", "it is told why", lambda s: s["message"] if "nvidia.com/gpu" in s.get("message", "") else ""
    )
    assert "nvidia.com/gpu" in told and jobs.phase("large") == "Pending"
    assert jobs.condition("large", "PodsReady")["reason"] == "Unschedulable"
    jobs.delete("large")


def test_columns_show_what_the_status_says(jobs: Jobs) -> None:
    jobs.create("shown")
    jobs.until("shown", "it trains", lambda s: s.get("workers", {}).get("text") == "2/2" and s.get("progress"))
    head, row = jobs.cluster.kubectl("get", "tj", "shown", "-n", jobs.namespace).splitlines()
    cells = dict(zip(head.split(), row.split(), strict=False))
    assert cells["PHASE"] == "Running" and cells["WORKERS"] == "2/2" and cells["EPOCH"] == "1"


def test_a_job_in_the_operators_own_namespace_is_refused_by_the_roles_alone(release: Installation, jobs: Jobs) -> None:
    """With `watchNamespaces` it is not even seen; where all are watched its status says so (test_api_server.py)."""
    path = JOBS.format(release.namespace)
    jobs.api.create(path, manifest("inside", jobs.get("plain")["spec"]))
    jobs.create("beside")
    jobs.until_round("beside")
    assert "status" not in jobs.api.get(f"{path}/inside")


def test_the_operators_rights_go_no_further_than_its_namespaces(release: Installation, jobs: Jobs) -> None:
    own = KubeClient(release.kubeconfig)

    def may(verb: str, what: str, namespace: str) -> bool:
        path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
        return bool(own.create(path, _review(verb, what, namespace))["status"]["allowed"])

    assert may("create", "pods", jobs.namespace)
    for verb, what in (("get", "secrets"), ("create", "roles"), ("patch", "pods"), ("create", "serviceaccounts")):
        assert not may(verb, what, jobs.namespace), f"{verb} {what}"
    for what in ("pods", "secrets"):
        assert not may("create", what, "default") and not may("list", what, "default")
    assert not may("create", "pods", release.namespace) and not may("get", "secrets", release.namespace)


def test_a_wrong_name_is_refused_by_the_api_server(jobs: Jobs) -> None:
    with pytest.raises(KubeError, match="50"):
        jobs.create("x" * 51)


def test_a_deleted_job_takes_everything_with_it(jobs: Jobs) -> None:
    jobs.create("passing")
    jobs.until_round("passing")
    jobs.delete("passing")
    jobs.until_gone("passing")
    path = f"/apis/networking.k8s.io/v1/namespaces/{jobs.namespace}/networkpolicies"
    until("its policy is gone", lambda: not [p for p in jobs.api.items(path) if _owner(p).get("name") == "passing"], 15)


def test_a_job_made_again_under_its_name_begins_anew(jobs: Jobs) -> None:
    first = jobs.create("again")
    jobs.until_round("again")
    jobs.delete("again")
    jobs.until_gone("again")
    second = jobs.create("again")
    assert second["metadata"]["uid"] != first["metadata"]["uid"]
    assert jobs.until_round("again")["number"] == 1
    assert {_owner(pod)["uid"] for pod in jobs.pods("again")} == {second["metadata"]["uid"]}


def test_clean_pods_decides_which_go(finished: tuple[str, str], jobs: Jobs) -> None:
    until("the pods of tidy are gone", lambda: not jobs.pods("tidy"), 40)
    assert [pod["status"]["phase"] for pod in jobs.pods("untidy")] == ["Succeeded", "Succeeded"]


def test_the_log_holds_no_error(operator: OperatorProcess) -> None:
    assert operator.troubles() == []


def _owner(thing: dict[str, object]) -> dict[str, object]:
    metadata = thing["metadata"]
    assert isinstance(metadata, dict)
    return next(iter(metadata.get("ownerReferences") or ()), {})


def _foreign_pod(name: str) -> dict[str, object]:
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    whole = {"runAsNonRoot": True, "runAsUser": 1, "seccompProfile": {"type": "RuntimeDefault"}}
    container = {"name": "theirs", "image": "theirs", "securityContext": security}
    return {"metadata": {"name": name}, "spec": {"containers": [container], "securityContext": whole}}


def _review(verb: str, what: str, namespace: str) -> dict[str, object]:
    group = "rbac.authorization.k8s.io" if what == "roles" else ""
    attributes = {"verb": verb, "resource": what, "group": group, "namespace": namespace}
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
