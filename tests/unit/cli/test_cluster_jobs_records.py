"""An object of a cluster is read however strange it is: a job that cannot be shown cannot be removed either."""

from __future__ import annotations

from typing import Any

import pytest

from dlcloud.jobs.cluster_records import event_lines, record_of
from dlcloud_operator.api import Outcome

AT = "2026-01-02T03:04:05Z"
SPEC: dict[str, Any] = {
    "workload": "cnn",
    "data": {"uri": "builtin://digits"},
    "checkpoint": {"uri": "s3://bucket/base/"},
}


def an_object(spec: Any = SPEC, status: Any = None, **metadata: Any) -> dict[str, Any]:
    about = {"name": "a", "namespace": "team", "uid": "u1", "creationTimestamp": AT, "generation": 2, **metadata}
    return {"apiVersion": "dlcloud.dev/v1", "kind": "TrainingJob", "metadata": about, "spec": spec, "status": status}


def test_phase_and_message_are_the_status() -> None:
    record = record_of(an_object(status={"phase": "Running", "message": "step 4"}))
    assert (record.id, record.phase, record.message, record.running) == ("a", "Running", "step 4", True)
    assert record.job.created_at.isoformat() == "2026-01-02T03:04:05+00:00"


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_finished_job_does_not_run(phase: str) -> None:
    assert not record_of(an_object(status={"phase": phase})).running


@pytest.mark.parametrize("status", [None, {}, "broken"])
def test_a_job_nobody_has_seen_is_pending_and_says_so(status: Any) -> None:
    record = record_of(an_object(status=status))
    assert record.phase == "Pending"
    assert "no operator" in record.message


def test_a_phase_of_a_newer_operator_is_shown_as_it_is() -> None:
    record = record_of(an_object(status={"phase": "Migrating", "restarts": 3}))
    assert record.phase == "Migrating"
    assert record.job.status.restarts == 3, "the rest of the status is still read"


def test_of_a_list_only_what_is_not_understood_is_left_out() -> None:
    good = {"time": AT, "round": 1, "counted": True, "worker": 1, "reason": "Error", "exitCode": 1, "message": "boom"}
    strange = [{**good, "reason": "MeteorStrike"}, good, {**good, "reason": "SolarFlare"}]
    status = record_of(an_object(status={"phase": "Running", "failures": strange})).job.status
    assert [failure.reason for failure in status.failures] == [Outcome.ERROR]


def test_fields_of_a_newer_definition_change_nothing() -> None:
    record = record_of(an_object(spec={**SPEC, "teleport": True}))
    assert record.job.spec is not None
    assert record.document()["spec"]["teleport"] is True, "machine output loses nothing"


def test_a_job_whose_spec_is_not_understood_still_has_its_prefix() -> None:
    record = record_of(an_object(spec={**SPEC, "workload": "of-a-newer-version"}))
    assert record.job.spec is None
    assert record.checkpoint_prefix == "s3://bucket/base/team/a/u1/"


def test_managed_fields_are_left_out_of_machine_output() -> None:
    document = record_of(an_object(managedFields=[{"manager": "kubectl"}])).document()
    assert "managedFields" not in document["metadata"]
    assert document["metadata"]["uid"] == "u1"


def test_a_job_that_is_going_says_so() -> None:
    record = record_of(an_object(status={"phase": "Running", "message": "step 4"}, deletionTimestamp=AT))
    assert record.message == "is being deleted; step 4"


def test_events_are_sorted_by_their_last_time_and_counted() -> None:
    items = [
        {"lastTimestamp": "2026-01-02T03:05:00Z", "reason": "Later", "message": "b", "count": 3, "type": "Warning"},
        {"eventTime": "2026-01-02T03:04:00.5Z", "reason": "Earlier", "note": "a", "type": "Normal"},
        {"reason": "NoTime", "message": "c"},
    ]
    lines = event_lines(items)
    assert [(line.reason, line.message, line.warning) for line in lines] == [
        ("Earlier", "a", False),
        ("Later", "b (3 times)", True),
    ]


def test_the_store_a_job_was_given_is_where_its_checkpoints_are() -> None:
    given = {"endpoint": "http://dlcloud-s3:8333", "region": "eu-1", "credentialsSecret": "dlcloud-s3"}
    spec = record_of(an_object(status={"phase": "Running", "objectStore": given})).job.spec
    assert spec is not None
    store = spec.object_store
    assert (store.endpoint, store.region, store.credentials_secret) == ("http://dlcloud-s3:8333", "eu-1", "dlcloud-s3")
