"""The operator is deleted, or is away while jobs train, end, lose workers: nothing restarts or is forgotten."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from . import evidence
from .conftest import TellStory
from .faults import CHEAP
from .jobs import Jobs, Object
from .release import Release
from .store import Store
from .waiting import until

pytestmark = [pytest.mark.alone, pytest.mark.timeout(1500)]  # on a machine with much other work
AWAY_S = 60.0
GO = "/tmp/go"  # in a worker: its rank ends
WAITS: Object = {
    "command": ["python3", "-c"],
    "args": [f"import os, time\nwhile not os.path.exists('{GO}'): time.sleep(0.2)\nprint('the end', flush=True)"],
}


@contextmanager
def away(release: Release) -> Iterator[None]:
    """No operator runs in the block; one leads after it."""
    release.scale_operator(0)
    try:
        yield
    finally:
        release.scale_operator(1)


def heads_step(store: Store, jobs: Jobs, name: str) -> int:
    """Of the newest checkpoint that is committed: the operator is not asked."""
    return int(store.head(name, jobs)["checkpoints"][0]["step"])


def told_once(jobs: Jobs, name: str) -> list[str]:
    """The events of the job as `reason: message`; each must be there once, with the count 1."""
    found = jobs.events(name)
    told = [f"{event['reason']}: {event['message']}" for event in found]
    assert len(set(told)) == len(told), told
    assert [event.get("count", 1) for event in found] == [1] * len(found), found
    return told


def restarts_of_containers(jobs: Jobs, name: str) -> int:
    statuses = [one for pod in jobs.pods(name) for one in pod["status"].get("containerStatuses", ())]
    return sum(one["restartCount"] for one in statuses)


def check_untouched(jobs: Jobs, name: str, before: Object, uids: dict[int, str], after: Object) -> None:
    """The same round of the same pods, further than it was."""
    assert after["round"] == before["round"] and after["restarts"] == before["restarts"] == 0
    assert jobs.uids(name) == uids and restarts_of_containers(jobs, name) == 0
    assert not after.get("failures")


def further(before: Object, steps: int = 1) -> int:
    return int(before["progress"]["step"]) + steps


def test_a_deleted_operator_is_replaced_while_the_job_trains_on(release: Release, jobs: Jobs, tell: TellStory) -> None:
    story = tell("kept")
    jobs.create_long("kept", parameters=CHEAP)
    before, uids = jobs.until_training("kept"), jobs.uids("kept")
    old = release.wait_leading()["metadata"]
    hit_at = time.time()
    release.api.delete(f"/api/v1/namespaces/{old['namespace']}/pods/{old['name']}")
    until("another operator leads", lambda: (now := release.leader()) and now["metadata"]["uid"] != old["uid"], 180)
    leads_s = time.time() - hit_at
    after = jobs.until_training("kept", further(before, 5))
    check_untouched(jobs, "kept", before, uids, after)
    assert set(story.phases()) <= {"Pending", "Running"}
    assert len([one for one in told_once(jobs, "kept") if one.startswith("RoundStarted")]) == 1
    evidence.note("fault", name="operator deleted", seconds=round(leads_s, 1), stepsLost=0, state=after["phase"],
                  controlled=round(time.time() - hit_at, 1), messages=story.messages(hit_at))  # fmt: skip
    jobs.until_clean("kept")


def test_a_minute_without_an_operator_is_a_minute_of_training(
    release: Release, jobs: Jobs, store: Store, tell: TellStory
) -> None:
    story = tell("alone")
    jobs.create_long("alone", parameters=CHEAP)
    jobs.create("ends", script=WAITS, checkpoint=None)
    before, uids = jobs.until_training("alone"), jobs.uids("alone")
    jobs.until_round("ends")
    events = told_once(jobs, "alone")
    gone_at = time.time()
    with away(release):
        since = time.time()
        step = heads_step(store, jobs, "alone")
        until("a minute is over", lambda: time.time() - since > AWAY_S, 2 * AWAY_S)
        trained = heads_step(store, jobs, "alone")
        assert trained > step, "it trained and saved without an operator"
        for pod in jobs.pods("ends"):
            jobs.exec(pod, "touch", GO)
        until("the other job ends", lambda: all("the end" in jobs.logs(pod) for pod in jobs.pods("ends")), 300)
        assert jobs.phase("ends") == "Running", "nobody has said otherwise"
    back_at = time.time()
    after = jobs.until_training("alone", trained)
    told_s = time.time() - back_at
    check_untouched(jobs, "alone", before, uids, after)
    assert told_once(jobs, "alone") == events, "nothing happened, so nothing is told"
    assert after["message"] == before["message"]
    ended = jobs.until_phase("ends", "Succeeded", "Failed")
    assert ended["phase"] == "Succeeded" and ended["restarts"] == 0, ended["message"]
    jobs.until_pods_ended("ends")
    assert {pod["status"]["phase"] for pod in jobs.pods("ends")} == {"Succeeded"}
    evidence.note("fault", name="operator away for 60 s", seconds=round(told_s, 1), stepsLost=0, state=after["phase"],
                  away=round(back_at - gone_at, 1), messages=story.messages(gone_at))  # fmt: skip
    jobs.until_clean("ends")
    jobs.until_clean("alone")


def test_what_happened_while_the_operator_was_away_is_handled_when_it_returns(
    release: Release, jobs: Jobs, store: Store, tell: TellStory
) -> None:
    story = tell("bereft")
    jobs.create_long("bereft", parameters=CHEAP)
    before, uids = jobs.until_training("bereft"), jobs.uids("bereft")
    with away(release):
        hit_at = time.time()
        jobs.delete_pod(jobs.pod("bereft", 1))
        until("worker 1 is gone", lambda: len(jobs.pods("bereft")) == 1, 120)
        assert jobs.status("bereft")["round"] == before["round"]
        back_at = time.time()
    after = jobs.until_goes_on("bereft", before)
    assert after["round"]["number"] == before["round"]["number"] + 1 and after["restarts"] == 1
    now = jobs.uids("bereft")
    assert now[0] == uids[0] and now[1] != uids[1]
    cause = jobs.until("bereft", "the cause is told", lambda s: (s.get("failures") or [None])[0])
    assert cause["worker"] == 1 and not cause["counted"], cause
    cost = story.cost(hit_at, before)
    assert cost.resumed_from >= before["checkpoint"]["step"]
    told = told_once(jobs, "bereft")
    assert len([one for one in told if one.startswith("WorkerLost")]) == 1, told
    evidence.note("fault", name="worker deleted while the operator is away", seconds=cost.seconds,
                  sinceOperator=round(hit_at + cost.seconds - back_at, 1), stepsLost=cost.steps_lost,
                  state=after["phase"], messages=story.messages(hit_at))  # fmt: skip
    jobs.until_clean("bereft")
