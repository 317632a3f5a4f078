"""The life of a job on real nodes: suspended, scaled, ended by its limits, cleaned up, deleted and begun again."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from ..rig.client import KubeError
from . import evidence
from .jobs import Jobs
from .release import Release
from .store import Record, Store
from .story import Story
from .waiting import until

TellStory = Callable[[str], Story]
Object = dict[str, Any]

BATCH = 32
NEVER_S = 3600  # no checkpoint while it trains: what it goes on from is what it saved when it was told to stop
REFUSED = "can change only while the job is suspended or queued; set suspend: true, wait for phase Suspended"
# What is asked of the end of a job needs no training.
ENDS: Object = {"command": ["python3", "-c", "print('done')"]}
STAYS: Object = {"command": ["python3", "-c", "import time; time.sleep(3600)"]}


def test_a_suspended_job_can_be_scaled_and_goes_on_without_losing_a_step_or_a_sample(
    jobs: Jobs, store: Store, tell: TellStory
) -> None:
    """Two workers, then three: nothing is made twice and nothing left out."""
    story = tell("paused")
    jobs.create_long("paused", parameters={"batchSize": BATCH}, checkpoint={"everySeconds": NEVER_S, "keepBest": 0})
    before = until_step(jobs, "paused", 5)
    assert before["round"]["worldSize"] == 2

    with pytest.raises(KubeError, match=REFUSED) as refused:
        jobs.patch("paused", workers={"count": 3})
    assert refused.value.status == 422
    assert REFUSED in jobs.cluster.kubectl("scale", "tj/paused", "-n", jobs.namespace, "--replicas=3", fails=True)

    asked_at = time.time()
    jobs.patch("paused", suspend=True)
    suspended = jobs.until_phase("paused", "Suspended")
    stopped_s = time.time() - asked_at
    assert not [pod for pod in jobs.pods("paused") if pod["status"]["phase"] not in ("Succeeded", "Failed")]
    until("its pods are gone", lambda: not jobs.pods("paused"), 60)
    assert suspended["message"] == "suspended; set spec.suspend to false to go on"
    assert "round" not in suspended and suspended["workers"]["text"] == "0/2"
    saved = suspended["checkpoint"]["step"]
    assert saved == store.steps("paused", jobs)[-1]["step"], "the last step that was made is the one that was saved"

    jobs.cluster.kubectl("scale", "tj/paused", "-n", jobs.namespace, "--replicas=3")
    went_on_at = time.time()
    jobs.patch("paused", suspend=False)
    after = until_step(jobs, "paused", saved + 5)
    assert after["round"]["worldSize"] == 3 and len(jobs.pods("paused")) == 3
    assert after["progress"]["totalSteps"] == before["progress"]["totalSteps"]
    assert after["restarts"] == 0 and after["failures"] == []

    made = until("the steps after it are recorded", lambda: recorded_after(store, jobs, "paused", saved), 60)
    assert [one["step"] for one in made] == list(range(1, made[-1]["step"] + 1))
    assert made[saved]["round"] > made[saved - 1]["round"]
    assert_no_sample_is_lost(made, BATCH)
    assert story.phases()[-3:] == ["Suspended", "Pending", "Running"]
    evidence.note(
        "life",
        name="suspended, scaled from 2 to 3 workers, resumed",
        stopped_s=round(stopped_s, 1),
        goes_on_s=round(made[saved]["at"] - went_on_at, 1),
        steps_lost=0,
        messages=story.messages(asked_at),
    )
    jobs.until_clean("paused")


@pytest.mark.full
def test_a_job_deleted_while_it_trains_leaves_its_checkpoints_to_whoever_names_them(
    jobs: Jobs, store: Store, tell: TellStory
) -> None:
    """Its pods go; under its name a job begins anew, with `resumeFrom` another goes on from there."""
    first = jobs.create_long("work", parameters={"batchSize": BATCH})
    jobs.until_training("work", steps=5)
    prefix = store.prefix("work", jobs)
    asked_at = time.time()
    jobs.cluster.kubectl("delete", "tj", "work", "-n", jobs.namespace)
    jobs.until_gone("work", limit_s=120)
    gone_s = time.time() - asked_at
    left = store.head_at(prefix)
    saved = left["checkpoints"][0]["step"]
    last = store.steps_at(prefix)[-1]
    assert saved == last["step"], "the workers were given the time to save"

    second = jobs.create_long("work", parameters={"batchSize": BATCH})
    assert second["metadata"]["uid"] != first["metadata"]["uid"]
    story = tell("heir")
    jobs.create_long("heir", parameters={"batchSize": BATCH}, resumeFrom=f"s3://checkpoints/{prefix}")
    anew = jobs.until_training("work", steps=2)
    heir = jobs.until_training("heir", steps=saved + 2)
    assert anew["round"]["number"] == 1 and heir["round"]["number"] == 1
    assert store.steps("work", jobs)[0]["step"] == 1
    own = until("the heir's steps are recorded", lambda: store.steps("heir", jobs), 60)
    assert own[0]["step"] == saved + 1 and 0 < own[0]["samples"] - last["samples"] <= BATCH
    assert heir["progress"]["totalSteps"] == anew["progress"]["totalSteps"]
    assert store.head_at(prefix) == left, "the one of before is read, never written"
    evidence.note("life", name="deleted while it trains", gone_s=round(gone_s, 1), messages=story.messages())
    jobs.delete("work")
    jobs.until_clean("heir")


def test_of_a_finished_job_stays_what_it_says(jobs: Jobs, release: Release) -> None:
    """`cleanPods` and `ttlSecondsAfterFinished`; a container beside the trainer would keep its pod running for ever."""
    beside = {"podTemplate": with_a_container_beside(release.place.images.trainer)}
    small = {"script": ENDS, "workers": {"count": 1, "memory": "768Mi"}, "checkpoint": None}
    jobs.create("all", **small, cleanPods="All")
    jobs.create("running", **small, cleanPods="Running")
    jobs.create("running-beside", **{**small, **beside}, cleanPods="Running")
    jobs.create("none-beside", **{**small, **beside}, cleanPods="None")
    jobs.create("brief", **small, ttlSecondsAfterFinished=1)
    for name in ("all", "running", "running-beside", "none-beside"):
        jobs.until_phase(name, "Succeeded")
    jobs.until_gone("brief")
    for name in ("all", "running-beside"):
        until(f"no pod of {name} is left", lambda name=name: not jobs.pods(name), 90)
        assert jobs.phase(name) == "Succeeded", "the job stays"
    jobs.until_pods_ended("running")
    assert [pod["status"]["phase"] for pod in jobs.pods("running")] == ["Succeeded"]
    assert "done" in jobs.logs(jobs.pod("running", 0))
    alone = {"trainer": True, "beside": False}
    until("only the container beside the trainer runs", lambda: ended(jobs, "none-beside") == alone, 60)
    assert "deletionTimestamp" not in jobs.pod("none-beside", 0)["metadata"]
    jobs.patch("none-beside", ttlSecondsAfterFinished=1)
    jobs.until_gone("none-beside")


@pytest.mark.full
def test_a_job_beyond_its_deadline_fails_and_keeps_its_checkpoint(jobs: Jobs, store: Store, tell: TellStory) -> None:
    """The limit may be set while it trains; a waiting job has the same one."""
    script = {"script": STAYS, "workers": {"count": 1, "memory": "768Mi"}, "checkpoint": None}
    jobs.create("waits", **script, activeDeadlineSeconds=3, scheduling={"nodeSelector": {"nowhere": "at-all"}})
    story = tell("late")
    jobs.create_long("late")
    jobs.until_training("late", steps=2)
    asked_at = time.time()
    jobs.patch("late", activeDeadlineSeconds=1)
    failed = jobs.until_phase("late", "Failed")
    told_s = time.time() - asked_at
    assert failed["message"] == "the job took longer than activeDeadlineSeconds allows: 1 s"
    condition = jobs.condition("late", "Failed")
    assert condition["status"] == "True" and condition["reason"] == "DeadlineExceeded"
    jobs.until_pods_ended("late")
    stopped_s = time.time() - asked_at
    assert len(jobs.pods("late")) == 2, "for their logs"
    assert store.head("late", jobs)["checkpoints"][0]["step"] >= failed["checkpoint"]["step"] > 0
    assert "Failed" in {event["reason"] for event in jobs.events("late")}

    assert jobs.until_phase("waits", "Failed")["message"].endswith("activeDeadlineSeconds allows: 3 s")
    until("what never ran is gone", lambda: not jobs.pods("waits"), 60)
    evidence.note(
        "life",
        name="deadline",
        failed_s=round(told_s, 1),
        stopped_s=round(stopped_s, 1),
        messages=story.messages(asked_at),
    )
    jobs.until_clean("late")


# --- what is looked at ---


def until_step(jobs: Jobs, name: str, step: int) -> Object:
    """The status once it runs and has told of this step."""

    def look(status: Object) -> Object | None:
        done = (status.get("progress") or {}).get("step") or 0
        return status if status.get("phase") == "Running" and done >= step else None

    found: Object = jobs.until(name, f"{name} has made step {step}", look)
    return found


def ended(jobs: Jobs, name: str) -> dict[str, bool]:
    """Which containers of worker 0 have ended."""
    return {one["name"]: "terminated" in one["state"] for one in jobs.pod(name, 0)["status"]["containerStatuses"]}


def recorded_after(store: Store, jobs: Jobs, name: str, step: int) -> list[Record]:
    """The records of all steps, once there is one after `step`."""
    made = store.steps(name, jobs)
    return made if made[-1]["step"] > step else []


def assert_no_sample_is_lost(made: list[Record], batch: int) -> None:
    """Each step has consumed one batch more; an epoch's last one may be smaller, and all epochs are as large."""
    seen = 0
    rest = set()
    for one in made:
        size = one["samples"] - seen
        seen = one["samples"]
        if size != batch:
            rest.add(size)
    assert len(rest) <= 1 and all(0 < size < batch for size in rest), rest
    ends = [one for one, following in pairwise(made) if following["epoch"] > one["epoch"]]
    sizes = {one["samples"] / one["epoch"] for one in ends}
    assert len(sizes) <= 1, sizes


def with_a_container_beside(image: str) -> Object:
    """A pod template with a container that runs until its pod is deleted, as the restricted standard wants it."""
    security = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True}
    program = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(0)); time.sleep(3600)"
    return {"spec": {"containers": [{
        "name": "beside", "image": image, "command": ["python3", "-c", program], "securityContext": security,
    }]}}  # fmt: skip
