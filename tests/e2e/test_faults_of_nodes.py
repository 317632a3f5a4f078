"""Nodes are killed, come back, fall silent, are drained while a job trains on them: it goes on.

Each test has a job of two workers, one of them on the node that suffers; the store is on the other node.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from ..cluster.nodes import Nodes
from ..rig.jobs import Object
from . import evidence
from .conftest import TellStory
from .ground import Ground
from .jobs import Jobs
from .release import Release
from .story import Story
from .waiting import until

pytestmark = [pytest.mark.alone, pytest.mark.timeout(1500)]  # the cluster takes 50 s to believe that a node is gone
TERMINATION_S = 150.0
SILENT_S = 30.0  # shorter than it takes to give a worker up
GONE_S = 100.0  # longer than that, and than the cluster waits for a node


@pytest.fixture
def ground(release: Release, nodes: Nodes) -> Iterator[Ground]:
    """The operator is where the store is; all nodes are as they were afterwards."""
    found = Ground(release, nodes)
    found.move_operator(found.home)
    yield found
    with contextlib.suppress(Exception):
        nodes.unpause(found.victim)
    with contextlib.suppress(Exception):
        nodes.start(found.victim)
    found.heal()


def causes(status: Object, since: Object) -> list[Object]:
    """What ended the rounds from that of the status `since` on."""
    return [one for one in status.get("failures") or () if one["round"] >= since["round"]["number"]]


def tell_cost(name: str, story: Story, at: float, before: Object, after: Object, **more: object) -> None:
    cost = story.cost(at, before)
    found = causes(after, before)
    evidence.note("fault", name=name, seconds=cost.seconds, stepsLost=cost.steps_lost, state=after["phase"],
                  reason=", ".join(one["reason"] for one in found), messages=story.messages(at), **more)  # fmt: skip


def until_told(jobs: Jobs, name: str, before: Object) -> Object:
    """The status once it names what ended all rounds from that of the status `before` to the one that trains."""

    def look(status: Object) -> Object | None:
        told = {one["round"] for one in causes(status, before)}
        there = (status.get("round") or {}).get("number", 0)
        ended = set(range(before["round"]["number"], there))
        return status if told and told >= ended and status["phase"] == "Running" else None

    found: Object = jobs.until(name, "the cause is told", look)
    return found


def check_lost(after: Object, before: Object, worker: int) -> None:
    """The worker's loss is all that happened, and free of charge.

    It may have ended two rounds: one that its peers' connections broke in, and one that was begun before it was missed.
    """
    found = causes(after, before)
    assert {(one["reason"], one["worker"], one["counted"]) for one in found} == {("PodLost", worker, False)}, found
    assert after["restarts"] - before["restarts"] == after["round"]["number"] - before["round"]["number"] <= 2


def check_undisturbed(jobs: Jobs, name: str, before: Object, uids: dict[int, str], steps: int = 20) -> None:
    """The same round of the same pods gets further by some steps."""
    now = jobs.until_training(name, int(before["progress"]["step"]) + steps)
    assert now["round"] == before["round"] and now["restarts"] == before["restarts"]
    assert jobs.uids(name) == uids
    assert now.get("failures") == before.get("failures")


def lose_a_node(ground: Ground, jobs: Jobs, story: Story, worker: int) -> None:
    """Kill the node of a worker while it trains; the replacement trains before the node is back; then the node is back.

    The dead node's pod stays as an object where the cluster deleted it first (nobody answers for it), and is none where
    the operator did, by force: either way nothing of it may be left, or disturb anybody, when its node returns.
    """
    nodes, name = ground.nodes, story.name
    before = ground.start(jobs, name, on_victim=worker)
    uids, stuck = jobs.uids(name), jobs.pod(name, worker)
    at = time.time()
    nodes.kill(ground.victim)
    jobs.until_goes_on(name, before, limit_s=600)
    after, new = until_told(jobs, name, before), jobs.uids(name)
    assert not nodes.ready(ground.victim), "the replacement joined before the node returned"
    assert new[1 - worker] == uids[1 - worker], "the other worker's pod stays"
    assert new[worker] != uids[worker] and jobs.pod(name, worker)["spec"]["nodeName"] != ground.victim
    check_lost(after, before, worker)
    assert ground.victim in causes(after, before)[-1]["message"], "the node is named"
    tell_cost(f"node of worker {worker} killed", story, at, before, after)

    nodes.start(ground.victim)
    ground.heal(ground.victim)
    uid = stuck["metadata"]["uid"]
    until("the dead node's pod is gone", lambda: uid not in {p["metadata"]["uid"] for p in jobs.pods(name)}, 180)
    check_undisturbed(jobs, name, after, new)
    until("nothing of it runs there", lambda: not nodes.processes(ground.victim, uid), 60)
    jobs.until_clean(name)


def test_a_killed_nodes_worker_is_replaced_before_the_node_returns_and_its_return_disturbs_nobody(
    ground: Ground, jobs: Jobs, tell: TellStory
) -> None:
    lose_a_node(ground, jobs, tell("worker-1"), worker=1)


@pytest.mark.full
def test_the_killed_node_of_rank_0_costs_no_more_than_that_of_another(
    ground: Ground, jobs: Jobs, tell: TellStory
) -> None:
    lose_a_node(ground, jobs, tell("worker-0"), worker=0)


def test_a_drained_node_takes_no_step_and_counts_no_failure(ground: Ground, jobs: Jobs, tell: TellStory) -> None:
    story, name = tell("drained"), "drained"
    before = ground.start(jobs, name, on_victim=1)
    uids, at = jobs.uids(name), time.time()
    try:
        told = ground.drain(ground.victim)
        assert "drained" in told
        jobs.until_goes_on(name, before)
        after = until_told(jobs, name, before)
        new = jobs.uids(name)
    finally:
        ground.cordon(ground.victim, False)
    assert new[0] == uids[0] and new[1] != uids[1]
    assert jobs.pod(name, 1)["spec"]["nodeName"] == ground.home
    [cause] = causes(after, before)
    assert cause["reason"] in ("Preempted", "Drained") and cause["worker"] == 1 and not cause["counted"], cause
    cost = story.cost(at, before)
    assert cost.steps_lost == 0, "a drained worker has the time to save"
    tell_cost("node drained", story, at, before, after)
    check_undisturbed(jobs, name, after, new)
    jobs.until_clean(name)


@pytest.mark.full
def test_a_node_that_is_silent_for_half_a_minute_costs_no_pod_and_no_failure(
    ground: Ground, jobs: Jobs, tell: TellStory
) -> None:
    story, name = tell("silent"), "silent"
    before = ground.start(jobs, name, on_victim=1)
    uids, at = jobs.uids(name), time.time()
    ground.nodes.pause(ground.victim)
    until("the silence is over", lambda: time.time() >= at + SILENT_S, SILENT_S + 30)
    ground.nodes.unpause(ground.victim)
    after = jobs.until_training(name, int(before["progress"]["step"]) + 50)
    found = causes(after, before)
    evidence.note("fault", name="node silent for 30 s", seconds=round(time.time() - at, 1), state=after["phase"],
                  rounds=after["round"]["number"] - before["round"]["number"],
                  reason=", ".join(one["reason"] for one in found), messages=story.messages(at))  # fmt: skip
    assert jobs.uids(name) == uids
    assert [one for one in found if one["counted"]] == []
    check_undisturbed(jobs, name, after, uids)
    jobs.until_clean(name)


@pytest.mark.full
def test_a_node_that_was_given_up_and_comes_back_with_all_it_had_disturbs_nobody(
    ground: Ground, jobs: Jobs, tell: TellStory
) -> None:
    """Its worker trains on in its own mind: it must not write, speak or join any more."""
    story, name = tell("frozen"), "frozen"
    before = ground.start(jobs, name, on_victim=1)
    uids, frozen, at = jobs.uids(name), jobs.pod(name, 1)["metadata"]["uid"], time.time()
    ground.nodes.pause(ground.victim)
    jobs.until_goes_on(name, before, limit_s=600)
    after, new = until_told(jobs, name, before), jobs.uids(name)
    until("it was silent for long", lambda: time.time() >= at + GONE_S, GONE_S + 30)
    ground.nodes.unpause(ground.victim)
    assert new[0] == uids[0] and new[1] != uids[1]
    check_lost(after, before, 1)
    until("the old pod is gone", lambda: frozen not in {p["metadata"]["uid"] for p in jobs.pods(name)}, TERMINATION_S)
    check_undisturbed(jobs, name, after, new)
    tell_cost("node silent for 100 s", story, at, before, after)
    jobs.until_clean(name)


@pytest.mark.full
def test_the_killed_node_of_a_worker_and_of_the_operator_costs_another_operators_start_and_no_more(
    ground: Ground, jobs: Jobs, release: Release, tell: TellStory
) -> None:
    """One replica, as helm installs it: the cluster starts another half a minute after it gave the node up."""
    story, name = tell("both"), "both"
    before = ground.start(jobs, name, on_victim=1)
    ground.move_operator(ground.victim)
    before = jobs.until_training(name, int(before["progress"]["step"]) + 1)
    uids, at = jobs.uids(name), time.time()
    old = release.wait_leading()["metadata"]["uid"]
    ground.nodes.kill(ground.victim)
    leader = until("another operator leads", lambda: another_leads(release, old), 300)
    leads_s = round(time.time() - at, 1)
    assert leader["spec"]["nodeName"] == ground.home
    jobs.until_goes_on(name, before, limit_s=600)
    after, new = until_told(jobs, name, before), jobs.uids(name)
    assert not ground.nodes.ready(ground.victim)
    assert new[0] == uids[0] and new[1] != uids[1]
    check_lost(after, before, 1)
    tell_cost("node of worker 1 and of the operator killed", story, at, before, after, operatorLeadsAfter=leads_s)
    ground.nodes.start(ground.victim)
    ground.heal(ground.victim)
    check_undisturbed(jobs, name, after, new)
    jobs.until_clean(name)


def another_leads(release: Release, old: str) -> Object | None:
    leader = release.leader()
    return leader if leader is not None and leader["metadata"]["uid"] != old else None
