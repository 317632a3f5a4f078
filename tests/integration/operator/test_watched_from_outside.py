"""What an administrator sees of a real operator process: metrics, health, and network policies that come back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ...rig.jobs import Jobs
from ...rig.kubelet import Kubelet
from ...rig.processes import until
from .installation import OperatorProcess

LIMIT_S = 30.0


@pytest.fixture(scope="module", autouse=True)
def trained(operator: OperatorProcess, node: Kubelet, jobs: Jobs) -> Iterator[str]:
    """A job that runs."""
    node.play.work_s = None
    jobs.create("seen")
    jobs.until_round("seen")
    yield "seen"
    node.play.succeed.clear()


def samples(operator: OperatorProcess) -> dict[str, list[tuple[dict[str, str], float]]]:
    """All samples by name. Raises ValueError for what Prometheus could not read."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(operator.metrics()):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_a_running_job_is_told_to_prometheus(operator: OperatorProcess, jobs: Jobs) -> None:
    def is_told() -> bool:
        told = samples(operator)
        seen = {"namespace": jobs.namespace, "job": "seen"}
        running = ({**seen, "phase": "Running"}, 1.0) in told.get("dlcloud_job_phase", [])
        return running and (seen, 2.0) in told.get("dlcloud_job_workers_ready", [])

    until("the job is told as running on two workers", is_told, LIMIT_S, poll_s=0.2)


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("dlcloud_operator_leader", {}),
        ("dlcloud_operator_lease_age_seconds", {}),
        ("dlcloud_operator_reconciles_total", {"result": "ok"}),
        ("dlcloud_operator_api_requests_total", {"verb": "create", "resource": "pods", "code": "2xx"}),
        ("dlcloud_operator_api_requests_total", {"verb": "create", "resource": "networkpolicies", "code": "2xx"}),
        ("dlcloud_operator_api_requests_total", {"verb": "patch", "resource": "trainingjobs/status", "code": "2xx"}),
        ("dlcloud_operator_watch_events_total", {"resource": "pods", "type": "ADDED"}),
        ("dlcloud_operator_rendezvous_requests_total", {"verb": "report", "status": "200"}),
        ("dlcloud_operator_agents_connected", {}),
    ],
)
def test_the_operators_own_work_is_told(operator: OperatorProcess, name: str, labels: dict[str, str]) -> None:
    until(f"{name} is told", lambda: value_of(operator, name, labels) > 0, LIMIT_S, poll_s=0.2)


def value_of(operator: OperatorProcess, name: str, labels: dict[str, str]) -> float:
    return next((value for found, value in samples(operator).get(name, []) if found == labels), 0.0)


def test_no_token_is_in_the_metrics(operator: OperatorProcess) -> None:
    assert "eyJ" not in operator.metrics()


def test_a_policy_that_somebody_deleted_comes_back_while_its_job_runs(jobs: Jobs) -> None:
    path = f"/apis/networking.k8s.io/v1/namespaces/{jobs.namespace}/networkpolicies/seen"
    before = jobs.api.get(path)["metadata"]["uid"]
    jobs.api.delete(path)

    def is_back() -> bool:
        found = jobs.api.find(path)
        return found is not None and found["metadata"]["uid"] != before

    until("the policy is back", is_back, LIMIT_S, poll_s=0.1)


def test_a_policy_that_somebody_opened_is_closed_again(jobs: Jobs) -> None:
    path = f"/apis/networking.k8s.io/v1/namespaces/{jobs.namespace}/networkpolicies/seen"
    jobs.api.merge(path, {"spec": {"ingress": [{}]}})
    until("it is closed", lambda: "from" in jobs.api.get(path)["spec"]["ingress"][0], LIMIT_S, poll_s=0.1)
