"""What the cluster refuses: into the job's message and condition, and out of them again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from dlcloud_operator.api import Condition, Phase, TrainingJobStatus
from dlcloud_operator.core.model import JobKey, JobView
from dlcloud_operator.engine.refusal import Refusal, as_planned, next_refusal, with_refusal

T0 = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
QUOTA = 'worker 0 cannot be created: pods "a-0-1" is forbidden: exceeded quota: q, requested: cpu=2, limited: cpu=1'
WAITING = "waiting for 2 of 2 workers: the pod is being created"


def planned(message: str = WAITING, ready: str = "False") -> TrainingJobStatus:
    condition = Condition(
        type="PodsReady", status=ready, reason="WaitingForWorkers", message=message, last_transition_time=T0
    )
    other = Condition(type="Training", status="False", reason="WaitingForWorkers", last_transition_time=T0)
    return TrainingJobStatus(phase=Phase.PENDING, message=message, conditions=[condition, other])


def refusal(text: str = QUOTA) -> Refusal:
    return next_refusal(None, 1, text, T0)


def ready_of(status: TrainingJobStatus) -> Condition:
    return next(condition for condition in status.conditions if condition.type == "PodsReady")


def job(status: TrainingJobStatus) -> JobView:
    return JobView(JobKey("default", "a"), "uid", "1", 1, T0, status, None)


def test_the_clusters_words_stand_where_the_pod_was_said_to_be_created() -> None:
    assert with_refusal(planned(), refusal()).message == f"waiting for 2 of 2 workers: {QUOTA}"


def test_other_words_stay_before_the_clusters() -> None:
    assert with_refusal(planned("restarting"), refusal()).message == f"restarting; {QUOTA}"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (QUOTA, "QuotaExceeded"),
        ('pods "a" is forbidden: violates PodSecurity "restricted:latest": privileged', "AdmissionRefused"),
        ('admission webhook "w.example" denied the request: no', "AdmissionRefused"),
        ('Pod "a" is invalid: spec.containers[0].image: Required value', "PodRefused"),
        ('a pod "a" belongs to somebody else', "PodRefused"),
    ],
)
def test_the_condition_says_of_which_kind_the_refusal_is(text: str, reason: str) -> None:
    ready = ready_of(with_refusal(planned(), refusal(text)))
    assert (ready.status, ready.reason, ready.message) == ("False", reason, text)


def test_the_conditions_time_stays_true() -> None:
    assert ready_of(with_refusal(planned(), refusal())).last_transition_time == T0


def test_a_condition_that_is_true_stays() -> None:
    assert ready_of(with_refusal(planned(ready="True"), refusal())).reason == "WaitingForWorkers"


def test_without_the_refusal_the_status_is_the_plans_own_again() -> None:
    held = refusal()
    shown = with_refusal(planned(), held)
    assert as_planned(job(shown), held).status == planned()


def test_a_second_refusal_takes_the_place_of_the_first() -> None:
    first = refusal()
    shown = with_refusal(planned(), first)
    second = next_refusal(first, 1, "worker 1 cannot be created: denied the request", T0 + timedelta(seconds=1))
    again = with_refusal(as_planned(job(shown), second).status, second)
    assert again.message == "waiting for 2 of 2 workers: worker 1 cannot be created: denied the request"
    assert as_planned(job(again), second).status == planned()


def test_a_status_somebody_else_wrote_is_left_alone() -> None:
    held = refusal()
    with_refusal(planned(), held)
    other = planned("another operator wrote this")
    assert as_planned(job(other), held).status == other


def test_a_finished_job_keeps_its_own_words() -> None:
    finished = planned().model_copy(update={"phase": Phase.FAILED})
    assert with_refusal(finished, refusal()) == finished
