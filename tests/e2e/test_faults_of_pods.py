"""Ranks, agents and pods of a training job die on a real cluster: one job lives through it all, a few die of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..cluster.nodes import Nodes, find_nodes
from ..cluster.place import Place
from ..rig.cluster import Cluster
from . import evidence
from .conftest import TellStory
from .faults import CHEAP, Aftermath, Life, own_namespace
from .jobs import Jobs, Object
from .release import Release
from .store import Store
from .story import Story
from .waiting import until

RANK_1, RANK_0, WORKER_1, WORKER_0 = "rank 1 killed", "rank 0 killed", "worker 1 deleted", "worker 0 deleted"
BOTH, FORCED, AGENT = "both workers deleted", "worker 1 deleted by force", "agent killed"
AGENT_COMMAND = "agent.pyz"

# Rank 1 takes more memory than its pod may have, until the job has restarted HUNGRY times.
HUNGRY = """
import os, torch.distributed as dist
dist.init_process_group("gloo")
if dist.get_rank() == 1 and int(os.environ["TORCHELASTIC_RESTART_COUNT"]) < {times}:
    kept = []
    while True:
        kept.append(bytearray(os.urandom(1 << 20)) * 16)
dist.barrier()
print("trained", flush=True)
dist.destroy_process_group()
"""


def hungry(times: int) -> Object:
    return {"command": ["python3", "-c", HUNGRY.format(times=times)]}


@pytest.fixture(scope="module")
def nodes_or_none(place: Place, cluster: Cluster) -> Nodes | None:
    return find_nodes(place.engine, cluster.api)


@pytest.fixture(scope="module")
def life(
    cluster: Cluster,
    installed: Release,
    store: Store,
    turns: Path,
    nodes_or_none: Nodes | None,
    namespaces_of_module: list[str],
) -> Iterator[Life]:
    """A job of two workers, and all that happened to it; it was deleted while it trained."""
    with own_namespace(cluster, installed, store, turns, namespaces_of_module, alone=False) as jobs:
        with Story(jobs, "long", store) as story:
            jobs.create_long("long", parameters=CHEAP, restart={"maxFailures": 10})
            life = Life(jobs, story)
            life.suffer(RANK_1, lambda: jobs.kill_rank(jobs.pod("long", 1)))
            life.suffer(RANK_0, lambda: jobs.kill_rank(jobs.pod("long", 0)))
            life.suffer(WORKER_1, lambda: jobs.delete_pod(jobs.pod("long", 1)))
            life.suffer(WORKER_0, lambda: jobs.delete_pod(jobs.pod("long", 0)))
            life.suffer(BOTH, lambda: jobs.api.delete(jobs.pods_path, labelSelector="dlcloud.dev/job=long"))
            life.suffer(FORCED, lambda: jobs.delete_pod(jobs.pod("long", 1), grace_s=0))
            if nodes_or_none is not None:
                life.suffer(AGENT, lambda: kill_agent(nodes_or_none, jobs.pod("long", 1)))
            life.reckon()
            life.see_it_deleted(nodes_or_none)
        yield life


def kill_agent(nodes: Nodes, pod: Object) -> None:
    """Kill the first process of the pod's container, as only the node can."""
    node = pod["spec"]["nodeName"]
    there = nodes.processes(node, pod["metadata"]["uid"])
    agents = [pid for pid, command in there.items() if AGENT_COMMAND in command]
    assert agents, f"no agent among {there}"
    nodes.signal(node, [min(agents)])


def check_went_on(fault: Aftermath) -> None:
    """Training has gone on from a checkpoint that was there, further than it was, in one new round for one fault."""
    assert fault.after["phase"] == "Running" and fault.cost is not None
    assert fault.cost.resumed_from >= (fault.before["checkpoint"] or {})["step"]
    assert fault.after["progress"]["step"] > fault.before["progress"]["step"]
    assert fault.restarts == fault.after["round"]["number"] - fault.round
    assert all(one["reason"] != "Stalled" for one in fault.failures)


@pytest.mark.timeout(1500)  # with the whole life
@pytest.mark.parametrize(("name", "rank"), [(RANK_1, 1), (RANK_0, 0)])
def test_a_killed_rank_costs_a_round_and_no_pod(life: Life, name: str, rank: int) -> None:
    fault = life.after(name)
    check_went_on(fault)
    assert fault.replaced == [] and fault.restarts == 1
    cause = fault.failure
    assert (cause["reason"], cause["worker"], cause["rank"], cause["counted"]) == ("Signal", rank, rank, True)
    assert "SIGKILL" in cause["message"] and cause["exitCode"] == -9
    assert any(f"worker {rank}, rank {rank}: Signal" in message for message in fault.messages), fault.messages


@pytest.mark.parametrize(("name", "worker"), [(WORKER_1, 1), (WORKER_0, 0)])
def test_a_deleted_worker_alone_is_replaced_and_what_it_trained_is_kept(life: Life, name: str, worker: int) -> None:
    fault = life.after(name)
    check_went_on(fault)
    assert fault.replaced == [worker] and fault.restarts == 1
    cause = fault.failure
    assert cause["reason"] in ("PodLost", "Drained") and not cause["counted"] and cause["worker"] == worker
    assert any(f"worker {worker}: {cause['reason']}" in message for message in fault.messages), fault.messages
    assert fault.cost is not None and fault.cost.steps_lost == 0, "its ranks had a minute to save"


def test_both_workers_deleted_at_once_are_replaced(life: Life) -> None:
    fault = life.after(BOTH)
    check_went_on(fault)
    assert fault.replaced == [0, 1]
    assert not any(one["counted"] for one in fault.failures)


def test_a_worker_deleted_by_force_alone_is_replaced(life: Life) -> None:
    fault = life.after(FORCED)
    check_went_on(fault)
    assert fault.replaced == [1]
    assert fault.failure["reason"] == "PodLost" and not fault.failure["counted"]


def test_a_killed_agent_costs_its_pod_and_no_other(life: Life, nodes_or_none: Nodes | None) -> None:
    if nodes_or_none is None:
        pytest.skip("needs nodes whose processes can be killed from here")
    fault = life.after(AGENT)
    check_went_on(fault)
    assert fault.replaced == [1]
    assert fault.failure["reason"] == "PodLost" and not fault.failure["counted"]
    assert "137" in str(fault.failure["exitCode"])


def test_a_job_deleted_while_it_trains_leaves_nothing(life: Life) -> None:
    if life.over is not None:
        raise life.over
    assert life.left == []


def test_a_job_that_lost_a_rank_and_a_worker_succeeds_and_repeats_no_step_differently(
    jobs: Jobs, store: Store, tell: TellStory
) -> None:
    story = tell("short")
    jobs.create("short", parameters={"epochs": 15})
    first = jobs.until_training("short", 5)
    hit_at = jobs.kill_rank(jobs.pod("short", 1))
    jobs.until_round("short", first["round"]["number"] + 1)
    jobs.delete_pod(jobs.pod("short", 0))
    status = jobs.until_phase("short", "Succeeded", "Failed")
    assert status["phase"] == "Succeeded", status["message"]
    assert status["progress"]["step"] == status["progress"]["totalSteps"]
    made: dict[int, set[float]] = {}
    for record in store.steps("short", jobs):
        made.setdefault(record["step"], set()).add(record["loss"])
    assert set(made) == set(range(1, status["progress"]["totalSteps"] + 1)), "every step is in the records"
    assert [step for step, losses in made.items() if len(losses) > 1] == [], "steps made again have the same loss"
    cost = story.cost(hit_at, first)
    evidence.note("fault", name="rank killed, then worker 0 deleted, to the end", seconds=cost.seconds,
                  stepsLost=cost.steps_lost, state=status["phase"], messages=story.messages(hit_at))  # fmt: skip
    jobs.until_clean("short")


def test_a_rank_out_of_memory_is_told_as_such_and_the_job_goes_on(jobs: Jobs, tell: TellStory) -> None:
    story, began = tell("hungry"), time.time()
    jobs.create("hungry", script=hungry(1), workers={"memory": "512Mi"}, checkpoint=None)
    jobs.until_round("hungry")
    before = jobs.uids("hungry")
    status = jobs.until_phase("hungry", "Succeeded", "Failed")
    assert status["phase"] == "Succeeded", status["message"]
    [failure] = status["failures"]
    assert (failure["reason"], failure["worker"], failure["counted"]) == ("OutOfMemory", 1, True)
    assert "workers.memory" in failure["message"], "what can be done is said"
    assert any("OutOfMemory" in message for message in story.messages()), story.messages()
    assert status["restarts"] == 1 and jobs.uids("hungry")[0] == before[0]
    evidence.note("fault", name="rank out of memory", seconds=round(time.time() - began, 1), state=status["phase"],
                  messages=story.messages())  # fmt: skip
    jobs.until_clean("hungry")


@pytest.mark.full
def test_parameters_that_need_more_memory_than_there_is_end_the_job_with_what_to_do(
    jobs: Jobs, tell: TellStory
) -> None:
    story = tell("big")
    jobs.create(
        "big", parameters={"batchSize": 1400, "epochs": 50}, workers={"count": 1, "memory": "384Mi"},
        restart={"maxFailures": 1},
    )  # fmt: skip
    status = jobs.until_phase("big", "Succeeded", "Failed")
    assert status["phase"] == "Failed"
    assert [one["reason"] for one in status["failures"]] == ["OutOfMemory"] * 2
    assert "workers.memory" in status["message"] and "restart.maxFailures allows 1" in status["message"]
    assert jobs.condition("big", "Failed")["reason"] == "TooManyFailures"
    evidence.note("fault", name="parameters beyond memory", state=status["phase"], messages=story.messages())
    until("its pods end", lambda: all(p["status"]["phase"] in ("Succeeded", "Failed") for p in jobs.pods("big")), 60)
    jobs.until_clean("big")
