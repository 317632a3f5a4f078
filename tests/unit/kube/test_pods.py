"""Pods as the API server gives them: what of each case reaches the core."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlcloud_operator.api import Outcome
from dlcloud_operator.core.model import PodPhase, PodView
from dlcloud_operator.kube.pods import read_pod

from .objects import (
    CREATED,
    Json,
    agents_words,
    condition,
    container_status,
    ended,
    failed,
    pending,
    pod,
    stamp,
)


def view(raw: Json, **options: Any) -> PodView:
    found = read_pod(raw, **options)
    assert found is not None
    return found


def labelled(**labels: Any) -> Json:
    raw = pod()
    raw["metadata"]["labels"] |= {f"dlcloud.dev/{key}": value for key, value in labels.items()}
    return raw


def disrupted(reason: str, **fields: Any) -> Json:
    return condition("DisruptionTarget", "True", reason, "words of the controller", **fields)


# --- which pods ---


def test_a_running_worker_is_read() -> None:
    found = view(pod())
    assert (found.name, found.uid, found.index, found.incarnation) == ("digits-0-1", "pod-uid", 0, 1)
    assert (found.phase, found.ip, found.node) == (PodPhase.RUNNING, "10.0.0.7", "n1")
    assert (found.created_at, found.running_since) == (CREATED, CREATED + timedelta(seconds=3))
    assert not (found.deleting or found.node_lost or found.preempted or found.waiting or found.exit or found.lingers)


@pytest.mark.parametrize("key", ["job", "index", "incarnation"])
def test_a_pod_without_one_of_the_labels_is_not_ours(key: str) -> None:
    raw = pod()
    del raw["metadata"]["labels"][f"dlcloud.dev/{key}"]
    assert read_pod(raw) is None


@pytest.mark.parametrize("value", ["", "x", "-1", "1.0", " 1", "٣", "9" * 30, 1, None, ["1"]])
def test_a_label_that_is_no_number_makes_a_pod_not_ours(value: Any) -> None:
    assert read_pod(labelled(index=value)) is None
    assert read_pod(labelled(incarnation=value)) is None


def test_a_pod_being_deleted_says_so() -> None:
    assert view(pod(metadata={"deletionTimestamp": stamp(30)})).deleting


# --- ends ---


def test_the_agents_last_words_and_results_are_read() -> None:
    end = view(failed(1, message=agents_words())).exit
    assert end is not None
    assert (end.exit_code, end.reason, end.message) == (1, "Error", "ValueError: no such column")
    assert end.at == CREATED + timedelta(seconds=20)
    (result,) = end.results
    assert (result.round, result.rank, result.outcome) == (2, 0, Outcome.ERROR)
    assert result.ended_at == CREATED + timedelta(seconds=19)


def test_a_success_is_read() -> None:
    found = view(failed(0, message=agents_words("Succeeded", 0, "")))
    assert found.phase is PodPhase.SUCCEEDED
    assert found.exit is not None and found.exit.exit_code == 0
    assert [result.outcome for result in found.exit.results] == [Outcome.SUCCEEDED]


def test_words_that_are_not_the_agents_are_shown_as_they_are() -> None:
    end = view(failed(1, message="Traceback (most recent call last):\n  boom\x1b[31m")).exit
    assert end is not None and end.results == ()
    assert end.message == "Traceback (most recent call last):\n  boom\ufffd[31m"


def test_memory_that_ran_out_is_told_by_the_kubelets_word() -> None:
    end = view(failed(137, "OOMKilled")).exit
    assert end is not None and (end.reason, end.exit_code) == ("OOMKilled", 137)


def test_an_image_without_python_says_what_to_do() -> None:
    words = 'failed to create containerd task: exec: "python3": executable file not found in $PATH: unknown'
    end = view(failed(128, "StartError", words)).exit
    assert end is not None and end.message.startswith(
        "the image has no python3, which every worker needs (3.9 or newer)"
    )


def test_a_failed_init_container_ends_the_pod_and_is_named() -> None:
    init = container_status(ended(1, message="cp: cannot create '/dlcloud/bin/agent.pyz'"), name="agent")
    waiting = container_status({"waiting": {"reason": "PodInitializing"}})
    end = view(pod("Failed", initContainerStatuses=[init], containerStatuses=[waiting])).exit
    assert end is not None and end.exit_code == 1
    assert end.message == "init container agent ended with exit code 1: cp: cannot create '/dlcloud/bin/agent.pyz'"


def test_a_trainer_that_ended_beside_a_running_container_is_over_and_lingers() -> None:
    statuses = [container_status(ended(1)), container_status({"running": {"startedAt": stamp(3)}}, name="proxy")]
    found = view(pod("Running", containerStatuses=statuses))
    assert (found.phase, found.lingers) == (PodPhase.FAILED, True)
    assert found.exit is not None and found.exit.exit_code == 1


def test_a_pod_its_node_refused_has_the_reason_and_no_exit_code() -> None:
    raw = pod("Failed", containerStatuses=[], reason="OutOfcpu", message="Node didn't have enough resource: cpu")
    end = view(raw).exit
    assert end is not None
    assert (end.exit_code, end.reason, end.message) == (None, "OutOfcpu", "Node didn't have enough resource: cpu")


def test_a_pod_past_its_own_deadline_says_so() -> None:
    words = "Pod was active on the node longer than the specified deadline"
    raw = failed(143)
    raw["status"] |= {"reason": "DeadlineExceeded", "message": words}
    end = view(raw).exit
    assert end is not None and (end.reason, end.message) == ("DeadlineExceeded", words)


# --- clocks ---


def test_a_node_whose_clock_is_ahead_does_not_put_an_end_into_the_future() -> None:
    seen_at = CREATED + timedelta(seconds=10)
    found = view(failed(1), seen_at=seen_at)
    assert found.exit is not None and found.exit.at == seen_at


def test_a_node_whose_clock_is_behind_does_not_start_a_container_before_its_pod() -> None:
    running = container_status({"running": {"startedAt": "2026-01-01T00:00:00Z"}})
    found = view(pod(containerStatuses=[running]), seen_at=CREATED + timedelta(seconds=10))
    assert found.running_since == CREATED


# --- lost nodes, evictions ---


def marked(ready: Json, **spec: Any) -> Json:
    return pod(conditions=[ready, condition("ContainersReady"), condition("PodScheduled")], spec=spec)


def test_a_pod_the_node_controller_marked_is_on_a_lost_node() -> None:
    assert view(marked(condition("Ready", "False"))).node_lost


def test_a_pod_whose_containers_are_not_ready_is_on_no_lost_node() -> None:
    not_ready = condition("Ready", "False", "ContainersNotReady", "containers with unready status: [trainer]")
    unready = condition("ContainersReady", "False", "ContainersNotReady")
    assert not view(pod(conditions=[not_ready, unready])).node_lost


def test_a_readiness_gate_is_no_lost_node() -> None:
    gates = [{"conditionType": "example.com/gate"}]
    assert not view(marked(condition("Ready", "False", "ReadinessGatesNotReady"), readinessGates=gates)).node_lost
    assert not view(marked(condition("Ready", "False"), readinessGates=gates)).node_lost


def test_a_kubelet_that_gives_a_reason_for_not_being_ready_is_there() -> None:
    assert not view(marked(condition("Ready", "False", "SomethingNew"))).node_lost


def test_a_pod_that_ended_is_on_no_lost_node_for_not_being_ready() -> None:
    raw = failed(0)
    raw["status"]["conditions"] = [condition("Ready", "False"), condition("ContainersReady")]
    assert not view(raw).node_lost


def test_the_reason_node_lost_is_believed() -> None:
    assert view(pod(reason="NodeLost")).node_lost


def test_a_pod_collected_with_its_node_is_lost_and_not_preempted() -> None:
    found = view(pod("Failed", conditions=[disrupted("DeletionByPodGC")]))
    assert found.node_lost and not found.preempted


def test_a_pod_deleted_for_a_silent_node_is_lost_and_not_preempted() -> None:
    conditions = [condition("Ready", "False"), condition("ContainersReady"), disrupted("DeletionByTaintManager")]
    found = view(pod(conditions=conditions, metadata={"deletionTimestamp": stamp(60)}))
    assert found.node_lost and not found.preempted


@pytest.mark.parametrize("reason", ["PreemptionByScheduler", "EvictionByEvictionAPI", "TerminationByKubelet"])
def test_a_disrupted_pod_is_preempted(reason: str) -> None:
    assert view(pod(conditions=[condition("Ready"), disrupted(reason)])).preempted


def test_a_disruption_that_did_not_happen_is_none() -> None:
    assert not view(pod(conditions=[condition("DisruptionTarget", "False", "PreemptionByScheduler")])).preempted


@pytest.mark.parametrize("reason", ["Evicted", "Preempting", "Terminated", "NodeShutdown"])
def test_a_pod_its_kubelet_put_out_is_preempted_and_keeps_the_words(reason: str) -> None:
    words = "The node was low on resource: memory."
    found = view(pod("Failed", reason=reason, message=words, containerStatuses=[]))
    assert found.preempted
    assert found.exit is not None and (found.exit.reason, found.exit.message) == (reason, words)


# --- anything at all ---

_OUTER = ["metadata", "status", "spec", "labels", "name", "uid", "phase", "conditions", "type", "reason", "message"]
_INNER = ["containerStatuses", "initContainerStatuses", "state", "terminated", "waiting", "running", "exitCode"]
_OTHER = ["dlcloud.dev/job", "dlcloud.dev/index", "dlcloud.dev/incarnation", "creationTimestamp", "startedAt"]
_KEYS = st.sampled_from(_OUTER + _INNER + _OTHER)
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
_WORDS = st.sampled_from(
    ["Pending", "Running", "Failed", "trainer", "False", "True", "Ready", "0", "2026-01-02T03:04:05Z"]
)
ANYTHING = st.recursive(
    _LEAVES | _WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS | st.text(max_size=4), inner, max_size=5),
    max_leaves=30,
)


@given(ANYTHING)
@settings(max_examples=200)
def test_nothing_whatever_makes_it_raise(raw: Any) -> None:
    read_pod(raw)


@given(st.data())
@settings(max_examples=300)
def test_a_pod_with_anything_in_one_place_does_not_make_it_raise(data: st.DataObject) -> None:
    raw = data.draw(
        st.sampled_from([pod(), failed(1, message=agents_words()), pending(condition("PodScheduled", "False"))])
    )
    at: Any = raw
    while True:
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        if not isinstance(at[key], dict | list) or not at[key] or data.draw(st.booleans()):
            at[key] = data.draw(ANYTHING)
            break
        at = at[key]
    read_pod(raw)
