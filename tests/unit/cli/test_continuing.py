"""A stopped local job begins again as the same job, with higher numbers."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlcloud.jobs.continuing import above_round, continued, manifest_of
from dlcloud_operator.api import Condition, Phase, Recovery
from dlcloud_operator.core import plan
from dlcloud_operator.core.model import CreatePod, Reports, WriteStatus

from .runs import T0, job_view

LATER = T0 + timedelta(hours=1)


def first_plan(job: object) -> list[object]:
    """What the core does with it: what it writes, and the pods it makes."""
    return list(plan(job, (), Reports(listening_since=LATER), LATER))  # type: ignore[arg-type]


@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.RESTARTING, Phase.PENDING, Phase.SUSPENDED, Phase.FAILED])
def test_a_stopped_job_goes_on_with_new_pods(phase: Phase) -> None:
    recovery = Recovery(incarnations={"0": 3, "1": 1}, joined={"0": 3}, last_round=4, furthest_step=40)
    ended_at = T0 if phase is Phase.FAILED else None
    job = continued(job_view(phase=phase, recovery=recovery, completion_time=ended_at), LATER, {"1": 2})
    actions = first_plan(job)
    (written,) = [action for action in actions if isinstance(action, WriteStatus)]
    assert written.status.phase is Phase.PENDING
    assert written.status.completion_time is None
    assert [a for a in actions if isinstance(a, CreatePod)] == [CreatePod(0, 4), CreatePod(1, 3)]
    assert written.status.recovery.last_round == 4, "the next round is above it"
    assert (job.uid, job.status.checkpoint) == (job_view().uid, job_view().status.checkpoint)


def test_a_job_that_never_began_begins() -> None:
    job = continued(job_view(phase=None), LATER, {})
    assert [a for a in first_plan(job) if isinstance(a, CreatePod)] == [CreatePod(0, 1), CreatePod(1, 1)]


def test_a_failed_jobs_budget_begins_anew_and_its_condition_is_taken_back() -> None:
    failed = Condition(type="Failed", status="True", reason="TooManyFailures", last_transition_time=T0)
    recovery = Recovery(counted_at=[T0, T0], start_failures={"0": 3}, fruitless_rounds=3, rounds_without_progress=3)
    job = continued(job_view(phase=Phase.FAILED, conditions=[failed], recovery=recovery), LATER, {})
    recovery = job.status.recovery
    assert (recovery.counted_at, recovery.start_failures, recovery.fruitless_rounds) == ([], {}, 0)
    assert {c.type: (c.status, c.reason) for c in job.status.conditions}["Failed"] == ("False", "JobResumed")


@given(st.integers(0, 50), st.integers(0, 50))
def test_the_next_round_is_above_all_that_the_store_and_the_disk_know(on_disk: int, on_store: int) -> None:
    job = above_round(job_view(recovery=Recovery(last_round=on_disk)), on_store)
    assert job.status.recovery.last_round == max(on_disk, on_store)


def test_a_jobs_manifest_is_what_it_was_made_from() -> None:
    manifest = manifest_of(job_view())
    assert (manifest.metadata.name, manifest.spec) == ("digits", job_view().spec)
