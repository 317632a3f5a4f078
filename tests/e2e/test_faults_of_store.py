"""The S3 server is deleted, and is away while a job starts, trains, restarts and ends: no step is lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from . import evidence
from .conftest import TellStory
from .faults import CHEAP
from .jobs import Jobs, Object
from .release import STORE, SYSTEM, Release, is_ready
from .store import Store
from .waiting import until

pytestmark = [pytest.mark.alone, pytest.mark.timeout(1500)]  # on a machine with much other work
AWAY_S = 60.0
UPLOAD_FAILED = "CheckpointUploadFailed"
UNREACHABLE = "StoreUnreachable"


@contextmanager
def away(release: Release) -> Iterator[None]:
    """No S3 server runs in the block; it is back, with its volume, after it."""
    release.scale_store(0)
    try:
        yield
    finally:
        release.scale_store(1)


def saved_after(jobs: Jobs, name: str, before: Object) -> Object:
    """The status once a checkpoint of more steps than that of `before` is committed."""

    def look(status: Object) -> Object | None:
        return status if (status.get("checkpoint") or {}).get("step", 0) > before["checkpoint"]["step"] else None

    found: Object = jobs.until(name, "another checkpoint is committed", look)
    return found


def until_said(jobs: Jobs, name: str, words: str) -> Object:
    """The status once its message has these words."""
    found: Object = jobs.until(name, f"it says: {words}", lambda s: s if words in (s.get("message") or "") else None)
    return found


def check_untouched(jobs: Jobs, name: str, before: Object, uids: dict[int, str], after: Object) -> None:
    """The same round of the same pods, further than it was."""
    assert after["round"] == before["round"] and after["restarts"] == before["restarts"] == 0
    assert jobs.uids(name) == uids and not after.get("failures")
    assert after["progress"]["step"] > before["progress"]["step"]


def check_every_step_once(store: Store, jobs: Jobs, name: str) -> int:
    """The records have every step of the training so far, once; the last of them."""
    steps = [record["step"] for record in store.steps(name, jobs)]
    assert steps == list(range(1, len(steps) + 1))
    return len(steps)


def test_a_deleted_store_comes_back_with_its_volume_and_training_never_stops(
    release: Release, jobs: Jobs, store: Store, tell: TellStory
) -> None:
    story = tell("kept")
    jobs.create_long("kept", parameters=CHEAP)
    before, uids = jobs.until_training("kept"), jobs.uids("kept")
    there = set(store.keys(store.prefix("kept", jobs) + "metrics/"))
    path = f"/api/v1/namespaces/{SYSTEM}/pods/{STORE}-0"
    old = release.api.get(path)["metadata"]["uid"]
    hit_at = time.time()
    release.api.delete(path)

    def back() -> bool:
        now = release.api.find(path)
        return now is not None and now["metadata"]["uid"] != old and is_ready(now)

    until("the store is back", back, 180)
    back_s = time.time() - hit_at
    during = jobs.status("kept")
    after = saved_after(jobs, "kept", during)
    check_untouched(jobs, "kept", before, uids, after)
    assert there <= set(store.keys(store.prefix("kept", jobs) + "metrics/")), "what was there is there"
    check_every_step_once(store, jobs, "kept")
    evidence.note("fault", name="S3 pod deleted", seconds=0, stepsLost=0, state=after["phase"], away=round(back_s, 1),
                  messages=story.messages(hit_at))  # fmt: skip
    jobs.until_clean("kept")


def test_a_minute_without_a_store_is_told_and_costs_no_step(
    release: Release, jobs: Jobs, store: Store, tell: TellStory
) -> None:
    story = tell("patient")
    jobs.create_long("patient", parameters=CHEAP)
    before, uids = jobs.until_training("patient"), jobs.uids("patient")
    hit_at = time.time()
    with away(release):
        since = time.time()
        told = until_said(jobs, "patient", "cannot be saved")
        told_s = time.time() - since
        assert told["phase"] == "Running" and "training goes on" in told["message"], told["message"]
        assert jobs.condition("patient", UPLOAD_FAILED)["status"] == "True"
        until("a minute is over", lambda: time.time() - since > AWAY_S, 2 * AWAY_S)
        during = jobs.until_training("patient", told["progress"]["step"] + 1)
        assert during["checkpoint"] == told["checkpoint"], "nothing that is not there is said to be saved"
    back_at = time.time()
    after = saved_after(jobs, "patient", during)
    saved_s = time.time() - back_at
    check_untouched(jobs, "patient", before, uids, after)
    jobs.until("patient", "the trouble is over", lambda s: "cannot be saved" not in s["message"])
    assert jobs.condition("patient", UPLOAD_FAILED)["status"] == "False"
    assert check_every_step_once(store, jobs, "patient") >= after["checkpoint"]["step"]
    reasons = [event["reason"] for event in jobs.events("patient")]
    assert UPLOAD_FAILED in reasons, reasons
    evidence.note("fault", name="S3 away for 60 s", seconds=0, stepsLost=0, state=after["phase"], told=round(told_s, 1),
                  savedAgain=round(saved_s, 1), messages=story.messages(hit_at))  # fmt: skip
    jobs.until_clean("patient")


@pytest.mark.full
def test_a_round_that_begins_without_a_store_waits_for_its_checkpoint(
    release: Release, jobs: Jobs, store: Store, tell: TellStory
) -> None:
    story = tell("waits")
    jobs.create_long("waits", parameters=CHEAP, limits={"init": "10m"})
    before, uids = jobs.until_training("waits"), jobs.uids("waits")
    with away(release):
        hit_at = time.time()
        jobs.kill_rank(jobs.pod("waits", 1))
        told = until_said(jobs, "waits", "waits for its checkpoint")
        assert told["round"]["number"] == before["round"]["number"] + 1
        assert jobs.condition("waits", UNREACHABLE)["status"] == "True"
    after = jobs.until_goes_on("waits", before)
    assert after["round"]["number"] == before["round"]["number"] + 1 and jobs.uids("waits") == uids
    assert [one["reason"] for one in after["failures"]] == ["Signal"], "the store's absence is no failure"
    assert jobs.condition("waits", UNREACHABLE)["status"] == "False"
    cost = story.cost(hit_at, before)
    assert cost.resumed_from >= before["checkpoint"]["step"]
    evidence.note("fault", name="rank killed while S3 is away", seconds=cost.seconds, stepsLost=cost.steps_lost,
                  state=after["phase"], messages=story.messages(hit_at))  # fmt: skip
    jobs.until_clean("waits")


@pytest.mark.full
def test_a_job_that_starts_without_a_store_fails_and_says_so(release: Release, jobs: Jobs, tell: TellStory) -> None:
    story = tell("early")
    with away(release):
        began = time.time()
        jobs.create("early")
        status = jobs.until_phase("early", "Succeeded", "Failed")
        seconds = time.time() - began
    assert status["phase"] == "Failed" and jobs.condition("early", "Failed")["reason"] == "StoreUnusable"
    assert "objectStore.endpoint" in status["message"] and "dlcloud-s3:8333" in status["message"], status["message"]
    assert not status.get("checkpoint") and not (status.get("progress") or {}).get("step")
    evidence.note("fault", name="S3 away at the start", seconds=round(seconds, 1), stepsLost=0, state=status["phase"],
                  messages=story.messages())  # fmt: skip
    jobs.until_clean("early")


@pytest.mark.full
def test_a_job_that_ends_without_a_store_waits_for_its_last_checkpoint(
    release: Release, jobs: Jobs, store: Store, tell: TellStory
) -> None:
    story = tell("ends")
    jobs.create("ends", limits={"init": "15m", "step": "15m"})
    jobs.until_round("ends")
    uids, pod = jobs.uids("ends"), jobs.pod("ends", 1)
    jobs.hold_rank(pod)
    head = store.prefix("ends", jobs) + "head.json"
    until("rank 0 has found the store", lambda: head in store.keys(head), jobs.LIMIT_S)
    with away(release):
        hit_at = time.time()
        jobs.let_go(pod)
        waiting = until_said(jobs, "ends", "the job waits for it")
        assert waiting["phase"] == "Running" and not waiting.get("checkpoint")
        total = waiting["progress"]["totalSteps"]
        jobs.until("ends", "all is trained", lambda status: status["progress"]["step"] == total)
        assert jobs.phase("ends") == "Running", "what is not saved is not called a success"
    back_at = time.time()
    status = jobs.until_phase("ends", "Succeeded", "Failed")
    assert status["phase"] == "Succeeded" and status["restarts"] == 0, status["message"]
    assert status["checkpoint"]["step"] == status["progress"]["totalSteps"]
    assert store.head("ends", jobs)["checkpoints"][0]["step"] == status["progress"]["totalSteps"]
    assert jobs.uids("ends") == uids
    assert check_every_step_once(store, jobs, "ends") == status["progress"]["totalSteps"]
    evidence.note("fault", name="S3 away at the end", seconds=round(time.time() - back_at, 1), stepsLost=0,
                  state=status["phase"], messages=story.messages(hit_at))  # fmt: skip
    jobs.until_clean("ends")
