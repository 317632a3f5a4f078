"""What the API server says no to, and when it says nothing: quota, admission, 429, 500, cut watches, 410 Gone."""

from __future__ import annotations

import time

import pytest

from ...rig.jobs import Jobs
from ...rig.kubelet import Kubelet
from ...rig.processes import until
from .installation import OperatorProcess
from .proxy import Call, Proxy, about, gone

pytestmark = pytest.mark.usefixtures("operator", "node")


@pytest.fixture(scope="module", autouse=True)
def patient(node: Kubelet) -> None:
    """Agents train for ever."""
    node.play.work_s = None


def test_a_quota_is_told_in_the_api_servers_words_and_lifting_it_helps(proxy: Proxy, jobs: Jobs) -> None:
    quotas = f"/api/v1/namespaces/{jobs.namespace}/resourcequotas"
    jobs.api.create(quotas, {"metadata": {"name": "small"}, "spec": {"hard": {"pods": "1"}}})
    until("the quota counts", lambda: jobs.api.get(f"{quotas}/small").get("status", {}).get("used"), 15)
    began = time.monotonic()
    jobs.create("squeezed")
    told = jobs.until(
        "squeezed", "the quota is named", lambda s: s["message"] if "exceeded quota" in s.get("message", "") else ""
    )
    assert "small" in told and "cannot be created" in told
    assert jobs.condition("squeezed", "PodsReady")["reason"] == "QuotaExceeded"
    until("an event tells", lambda: "FailedCreate" in {event["reason"] for event in jobs.events("squeezed")}, 10)
    tries = [call for call in proxy.writes() if call.path.endswith("/pods") and call.status == 403]
    assert 0 < len(tries) <= 6 + (time.monotonic() - began), "no hot loop"
    jobs.api.delete(f"{quotas}/small")
    assert jobs.until_round("squeezed")["worldSize"] == 2
    assert "quota" not in jobs.status("squeezed")["message"]
    jobs.delete("squeezed")


def test_a_template_that_the_namespace_forbids_is_told(jobs: Jobs) -> None:
    """The namespaces of these tests enforce the restricted standard: every other job here passes it."""
    template = {
        "spec": {"containers": [{"name": "trainer", "securityContext": {"runAsUser": 0, "runAsNonRoot": False}}]}
    }
    jobs.create("rooted", podTemplate=template)
    told = jobs.until(
        "rooted", "the standard is named", lambda s: s["message"] if "PodSecurity" in s.get("message", "") else ""
    )
    assert "runAsNonRoot" in told
    assert jobs.condition("rooted", "PodsReady")["reason"] == "AdmissionRefused"
    jobs.delete("rooted")


@pytest.mark.parametrize("status", [429, 500])
def test_an_api_server_that_has_no_time_is_asked_again(proxy: Proxy, jobs: Jobs, status: int) -> None:
    name = f"busy-{status}"
    proxy.answer(about(rf"/pods$|{name}/status", "POST", "PATCH"), status, times=3)
    jobs.create(name)
    assert jobs.until_round(name)["number"] == 1
    assert jobs.pod_names(name) == [f"{name}-0-1", f"{name}-1-1"]
    jobs.delete(name)


def test_cut_watches_are_taken_up_again(proxy: Proxy, jobs: Jobs) -> None:
    jobs.create("cut")
    jobs.until_round("cut")
    proxy.cut_watches()
    jobs.api.delete(f"{jobs.pods_path}/cut-1-1")
    assert jobs.until_round("cut", 2)["members"][1]["pod"] == "cut-1-2"
    jobs.delete("cut")


def test_what_happened_while_the_watch_was_too_old_is_found(proxy: Proxy, jobs: Jobs) -> None:
    """410 Gone as an answer, and as an event on a watch that had begun: a pod that went in between is missed."""
    jobs.create("aged")
    jobs.until_round("aged")
    expired = proxy.answer(lambda call: call.is_watch, 410, gone(), times=3)
    proxy.cut_watches()
    jobs.api.delete(f"{jobs.pods_path}/aged-0-1")
    assert jobs.until_round("aged", 2)["members"][0]["pod"] == "aged-0-2"
    expired()
    in_stream = proxy.answer(lambda call: call.is_watch, 200, {"type": "ERROR", "object": gone()}, times=3)
    proxy.cut_watches()
    jobs.api.delete(f"{jobs.pods_path}/aged-1-1")
    assert jobs.until_round("aged", 3)["members"][1]["pod"] == "aged-1-2"
    in_stream()
    jobs.delete("aged")


def test_an_idle_job_asks_nothing_of_the_api_server(proxy: Proxy, jobs: Jobs) -> None:
    jobs.create("quiet")
    jobs.until("quiet", "it trains", lambda _: jobs.condition("quiet", "Training").get("status") == "True")
    writes = _writes_about(proxy, "quiet")
    asked_at = time.monotonic()
    until("some seconds pass", lambda: time.monotonic() - asked_at > 3, 15)
    more = _writes_about(proxy, "quiet")[len(writes) :]
    assert len(more) <= 1, [str(call) for call in more]
    jobs.delete("quiet")


def test_the_log_holds_no_traceback(operator: OperatorProcess) -> None:
    assert operator.tracebacks() == []


def _writes_about(proxy: Proxy, name: str) -> list[Call]:
    return proxy.writes(lambda call: f"/{name}" in call.path or f'"{name}'.encode() in call.body)
