"""`kubectl apply -f manifests/cnn-digits.yaml`, as the file is, and everything a user sees of the job until its end.

It trains once, for the whole file; what was seen meanwhile is looked at afterwards.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..rig.binaries import find_programs
from ..rig.cluster import Cluster
from ..rig.jobs import Object
from . import evidence
from .command import Dlcloud
from .jobs import Jobs
from .release import SYSTEM, Release
from .store import Store
from .turns import turn

pytestmark = pytest.mark.timeout(900)
SAMPLE = Path(__file__).parents[2] / "manifests" / "cnn-digits.yaml"
NAME = "cnn-digits"
STEPS = 200
LIMIT_S = 600


@dataclass(frozen=True)
class Seen:
    """What the commands said while the job trained (`during`), and the job at its end."""

    jobs: Jobs
    dlcloud: Dlcloud
    during: dict[str, str]
    followed: str
    waited: str
    status: Object
    pods: list[Object]


@pytest.fixture(scope="module")
def seen(
    cluster: Cluster,
    installed: Release,
    turns: Path,
    namespaces_of_module: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Seen]:
    with turn(turns, alone=False):
        installed.wait_leading()
        namespaces_of_module.append(cluster.make_namespace("e2e"))
        jobs = Jobs(cluster, namespaces_of_module[-1])
        installed.admit(jobs.namespace)
        found = look(jobs, Dlcloud(tmp_path_factory.mktemp("seen"), cluster.kubeconfig))
    yield found
    cluster.delete_namespace(jobs.namespace)


def look(jobs: Jobs, dlcloud: Dlcloud) -> Seen:
    """Apply the sample, follow and wait for it as a user would, and ask about it while it trains."""
    here = ("-n", jobs.namespace)
    jobs.cluster.kubectl("apply", "-f", str(SAMPLE), *here)
    with waiting(jobs) as wait, dlcloud.start("logs", "-f", NAME, *here) as follow:
        jobs.until_training(NAME, limit_s=LIMIT_S)
        asked: dict[str, Callable[[], str]] = {
            "get": lambda: jobs.cluster.kubectl("get", "tj", *here),
            "wide": lambda: jobs.cluster.kubectl("get", "trainingjob", NAME, "-o", "wide", *here),
            "describe": lambda: jobs.cluster.kubectl("describe", "tj", NAME, *here),
            "top": lambda: dlcloud.run("top", "--once", *here),
            "ls": lambda: dlcloud.run("ls", "-o", "wide", *here),
            "described": lambda: dlcloud.run("describe", NAME, *here),
        }
        with ThreadPoolExecutor(len(asked)) as pool:  # the training does not wait for the slowest of them
            answers = {name: pool.submit(ask) for name, ask in asked.items()}
        status = jobs.until_phase(NAME, "Succeeded", "Failed", limit_s=LIMIT_S)
        assert status["phase"] == "Succeeded", jobs.told(NAME)
        jobs.until_pods_ended(NAME)
        waited, _ = wait.communicate(timeout=60)
        assert wait.returncode == 0, waited
        followed = follow.end(limit_s=120)
    during = {name: answer.result() for name, answer in answers.items()}
    return Seen(jobs, dlcloud, during, followed, waited, status, jobs.pods(NAME))


def waiting(jobs: Jobs) -> subprocess.Popen[str]:
    """`kubectl wait`, which begins now."""
    kubectl = str(find_programs(("kubectl",))["kubectl"])
    words = [
        kubectl, "--kubeconfig", str(jobs.cluster.kubeconfig), "-n", jobs.namespace,
        "wait", "--for=condition=Complete", f"tj/{NAME}", f"--timeout={LIMIT_S}s",
    ]  # fmt: skip
    return subprocess.Popen(words, env=os.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def table(text: str) -> list[dict[str, str]]:
    """The rows of a table whose columns begin where their titles do."""
    head, *rows = text.splitlines()
    columns = [(found[0], found.start()) for found in re.finditer(r"\S+", head)]
    ends = [start for _, start in columns[1:]] + [None]
    return [
        {name: row[start:end].strip() for (name, start), end in zip(columns, ends, strict=True)} for row in rows if row
    ]


# --- the training ---


def test_the_sample_trains_to_its_end_on_small_nodes(seen: Seen) -> None:
    assert seen.status["progress"]["step"] == STEPS and seen.status["restarts"] == 0
    assert seen.status["progress"]["metrics"]["testAccuracy"] > 0.95
    for pod in seen.pods:
        (asked,) = (one["resources"]["requests"] for one in pod["spec"]["containers"] if one["name"] == "trainer")
        assert (asked["cpu"], asked["memory"]) == ("1", "1Gi"), "two of these fit two nodes of 2 CPU"


def test_kubectl_wait_returns_when_it_is_complete(seen: Seen) -> None:
    assert f"trainingjob.dlcloud.dev/{NAME} condition met" in seen.waited


# --- kubectl while it trains ---


def test_kubectl_get_shows_it_at_work(seen: Seen) -> None:
    (row,) = table(seen.during["get"])
    assert list(row) == ["NAME", "PHASE", "WORKERS", "EPOCH", "STEP", "LOSS", "RATE", "RESTARTS", "AGE"]
    assert (row["NAME"], row["PHASE"], row["WORKERS"], row["RESTARTS"]) == (NAME, "Running", "2/2", "0")
    assert 1 <= int(row["EPOCH"]) <= 10 and 10 <= int(row["STEP"]) <= STEPS
    assert float(row["LOSS"]) > 0 and float(row["RATE"]) > 0 and row["AGE"]


def test_kubectl_get_wide_also_shows_the_time_left_the_checkpoint_and_what_it_does(seen: Seen) -> None:
    (row,) = table(seen.during["wide"])
    assert list(row)[-3:] == ["ETA", "CHECKPOINT", "MESSAGE"]
    assert re.fullmatch(r"(\d+h\d\dm|\d+m\d\ds|\d+s)", row["ETA"]), row
    assert 0 <= int(row["CHECKPOINT"]) <= STEPS and row["MESSAGE"] == "training on 2 workers"


def test_kubectl_describe_shows_conditions_members_and_events(seen: Seen) -> None:
    told = " ".join(seen.during["describe"].split())
    assert "Message: training on 2 workers" in told
    assert "Reason: AllRanksTrain Status: True Type: Training" in told
    for index, pod in enumerate(seen.pods):
        assert f"Index: {index} Pod: {pod['metadata']['name']}" in told
    events = seen.during["describe"].partition("\nEvents:")[2]
    assert re.search(r"Normal\s+RoundStarted\s+\S+\s+dlcloud-operator\s+round 1: 2 workers, 2 ranks, master ", events)


# --- kubectl afterwards ---


def test_kubectl_get_shows_how_it_ended(seen: Seen) -> None:
    (row,) = table(seen.jobs.cluster.kubectl("get", "tj", "-o", "wide", "-n", seen.jobs.namespace))
    assert (row["PHASE"], row["EPOCH"], row["STEP"]) == ("Succeeded", "10", str(STEPS))
    assert (row["CHECKPOINT"], row["ETA"], row["MESSAGE"]) == (str(STEPS), "", "all 2 ranks ended well")


def test_its_events_tell_its_story_and_nothing_else(seen: Seen) -> None:
    events = seen.jobs.events(NAME)
    assert [(event["type"], event["reason"]) for event in events] == [
        ("Normal", "RoundStarted"),
        ("Normal", "Succeeded"),
    ]
    assert events[1]["message"] == "all 2 ranks ended well"
    listed = seen.jobs.cluster.kubectl("events", "--for", f"tj/{NAME}", "-n", seen.jobs.namespace)
    assert "RoundStarted" in listed and "Succeeded" in listed


def test_its_conditions_are_those_of_a_job_that_is_over(seen: Seen) -> None:
    found = {one["type"]: (one["status"], one["reason"]) for one in seen.status["conditions"]}
    assert found == {
        "Admitted": ("True", "SpecAccepted"),
        "PodsReady": ("False", "Finished"),
        "Training": ("False", "Finished"),
        "Complete": ("True", "AllRanksSucceeded"),
    }


def test_kubectl_logs_has_every_rank(seen: Seen) -> None:
    for rank, pod in enumerate(seen.pods):
        told = seen.jobs.cluster.kubectl("logs", pod["metadata"]["name"], "-n", seen.jobs.namespace)
        assert f"[agent] round 1: rank {rank} of 2, master " in told
        assert f"[agent] round 1: rank {rank} ended: Succeeded" in told
        assert "Traceback" not in told and "Error" not in told, told


# --- dlcloud ---


def test_dlcloud_top_and_ls_show_it_at_work(seen: Seen) -> None:
    assert re.search(rf"^{NAME}\s+Running\s+2/2\s", seen.during["top"], re.M), seen.during["top"]
    shown = rf"^{NAME}\s+Running\s+2/2\s+\d+/10\s+\d+/{STEPS}\s.*\d/s\s.*training on 2 workers"
    assert re.search(shown, seen.during["ls"], re.M), seen.during["ls"]


def test_dlcloud_describe_shows_it_at_work_and_at_its_end(seen: Seen) -> None:
    assert re.search(r"^Phase: +Running$", seen.during["described"], re.M), seen.during["described"]
    ended = seen.dlcloud.run("describe", NAME, "-n", seen.jobs.namespace)
    for words in ("Phase: +Succeeded", "  Step: +200/200", "  Metrics: +test accuracy 9", "  Last: +step 200, "):
        assert re.search(f"^{words}", ended, re.M), ended


def test_dlcloud_logs_followed_every_rank_to_the_end(seen: Seen) -> None:
    for rank in (0, 1):
        assert seen.followed.count(f"round 1: rank {rank} of 2, master ") == 1, seen.followed
        assert seen.followed.count(f"round 1: rank {rank} ended: Succeeded") == 1, seen.followed
    one = seen.dlcloud.run("logs", NAME, "--worker", "1", "-n", seen.jobs.namespace)
    assert "rank 1 ended: Succeeded" in one and "rank 0" not in one


def test_dlcloud_logs_has_the_output_from_the_store_when_the_pods_are_gone(seen: Seen, store: Store) -> None:
    for pod in seen.pods:
        seen.jobs.delete_pod(pod, grace_s=0)
    seen.jobs.until(NAME, "its pods are gone", lambda _: not seen.jobs.pods(NAME))
    store.client()  # forwards anew where the connection broke
    told = seen.dlcloud.run("logs", NAME, "-n", seen.jobs.namespace, "--endpoint", store.endpoint)
    for rank in (0, 1):
        assert told.count(f"round 1: rank {rank} ended: Succeeded") == 1, told
    assert seen.jobs.phase(NAME) == "Succeeded"


def test_dlcloud_doctor_finds_nothing_wrong_with_the_cluster_and_the_sample(seen: Seen) -> None:
    checks = json.loads(seen.dlcloud.run("doctor", str(SAMPLE), "-n", seen.jobs.namespace, "-o", "json"))["checks"]
    states = {check["name"]: check["state"] for check in checks}
    assert "fail" not in states.values(), checks
    warned = {name for name, state in states.items() if state == "warn"}
    assert warned <= {"manifest", "data"}, "a job of this name is there already; a busy machine is slow"
    assert {states[name] for name in ("crd", "operator", "rights", "nodes", "pods")} == {"ok"}
    assert any(f"{SYSTEM}/dlcloud-operator is available" in str(check) for check in checks)
    evidence.note("doctor", checks=len(checks))
