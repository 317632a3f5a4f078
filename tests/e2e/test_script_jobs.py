"""A program written for torchrun, unchanged: from a ConfigMap, in the trainer image and in one without our package.

Each job runs once, for the whole file; torchrun itself says what they have to print.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ..cluster.place import Place
from ..rig.cluster import Cluster
from ..rig.jobs import Object, manifest
from .command import Dlcloud
from .jobs import DIGITS, Jobs
from .release import Release
from .turns import turn

pytestmark = pytest.mark.timeout(900)
ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "manifests" / "script-ddp.yaml"
PROGRAM = ROOT / "manifests" / "scripts" / "ddp_train.py"
NAME, BARE = "script-ddp", "bare"
STEPS = "30"
LIMIT_S = 600
# Says what it finds, and hands over to the program.
LOOK_ROUND = """
import importlib.util, os, runpy, sys
print("rank", os.environ["RANK"], "of", os.environ["WORLD_SIZE"], flush=True)
print("dlcloud_trainer:", importlib.util.find_spec("dlcloud_trainer"), flush=True)
print("threads:", os.environ["OMP_NUM_THREADS"], flush=True)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@dataclass(frozen=True)
class Ended:
    """A job that succeeded; `said`: the output of each pod, `followed`: what a command that followed it wrote."""

    status: Object
    pods: list[Object]
    said: list[str]
    followed: str


@pytest.fixture(scope="module")
def jobs(cluster: Cluster, installed: Release, namespaces_of_module: list[str]) -> Iterator[Jobs]:
    """The jobs of one namespace, which knows no store."""
    installed.wait_leading()
    namespaces_of_module.append(cluster.make_namespace("e2e"))
    yield Jobs(cluster, namespaces_of_module[-1])
    cluster.delete_namespace(namespaces_of_module[-1])


@pytest.fixture(scope="module")
def dlcloud(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Dlcloud:
    """The command line, which knows the cluster."""
    return Dlcloud(tmp_path_factory.mktemp("dlcloud"), cluster.kubeconfig)


def ended(jobs: Jobs, name: str, followed: str) -> Ended:
    status = jobs.until_phase(name, "Succeeded", "Failed", limit_s=LIMIT_S)
    assert status["phase"] == "Succeeded", jobs.told(name)
    jobs.until_pods_ended(name)
    pods = jobs.pods(name)
    return Ended(status, pods, [jobs.logs(pod) for pod in pods], followed)


@pytest.fixture(scope="module")
def sample(jobs: Jobs, dlcloud: Dlcloud, turns: Path) -> Ended:
    """`kubectl apply -f manifests/script-ddp.yaml`, and `dlcloud logs -f` from its beginning to its end."""
    with turn(turns, alone=False):
        jobs.cluster.kubectl("apply", "-f", str(SAMPLE), "-n", jobs.namespace)
        with dlcloud.start("logs", "-f", NAME, "-n", jobs.namespace) as follow:
            jobs.until_phase(NAME, "Succeeded", "Failed", limit_s=LIMIT_S)
            return ended(jobs, NAME, follow.end(limit_s=120))


@pytest.fixture(scope="module")
def bare(jobs: Jobs, dlcloud: Dlcloud, turns: Path, place: Place) -> Ended:
    """`dlcloud run` of the program in an image that has python3 and torch, and nothing of ours.

    It is the trainer's with an empty folder in the place of our package: the agent comes with the init container.
    """
    programs = {PROGRAM.name: PROGRAM.read_text(), "look_round.py": LOOK_ROUND}
    body = {"metadata": {"name": "programs"}, "data": programs}
    jobs.api.create(f"/api/v1/namespaces/{jobs.namespace}/configmaps", body)
    (trainer,) = DIGITS["podTemplate"]["spec"]["containers"]
    mounts = [{"name": "programs", "mountPath": "/programs"}, {"name": "nothing", "mountPath": "/opt/dlcloud"}]
    volumes = [{"name": "programs", "configMap": {"name": "programs"}}, {"name": "nothing", "emptyDir": {}}]
    program = f"/programs/{PROGRAM.name}"
    spec = {
        "script": {
            "image": place.images.trainer,
            "command": ["python3", "/programs/look_round.py", program],
            "args": ["--steps", STEPS],
        },
        "workers": DIGITS["workers"],
        "podTemplate": {"spec": {"containers": [{**trainer, "volumeMounts": mounts}], "volumes": volumes}},
    }
    file = dlcloud.folder / "bare.json"
    file.write_text(json.dumps(manifest(BARE, spec)))
    with turn(turns, alone=False):
        followed = dlcloud.run("run", file, "--plain", "-n", jobs.namespace, limit_s=LIMIT_S)
        return ended(jobs, BARE, followed)


@pytest.fixture(scope="module")
def expected() -> list[str]:
    """What the program prints under torchrun, here."""
    words = ["--standalone", "--nproc-per-node=2", str(PROGRAM), "--steps", STEPS]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = steps(done.stdout)
    assert len(found) == 3, done.stdout
    return found


def steps(text: str) -> list[str]:
    """The lines of the program itself."""
    return re.findall(r"step \d+ of \d+, 2 ranks: loss \S+", text)


def test_the_sample_trains_as_it_is_and_prints_what_torchrun_prints(sample: Ended, expected: list[str]) -> None:
    assert steps(sample.said[0]) == expected
    assert steps(sample.said[1]) == [], "rank 0 alone speaks"
    assert sample.status["restarts"] == 0 and sample.status["message"] == "all 2 ranks ended well"


def test_kubectl_logs_has_every_rank_of_the_sample(sample: Ended, jobs: Jobs) -> None:
    for rank in (0, 1):
        told = jobs.cluster.kubectl("logs", f"{NAME}-{rank}-1", "-n", jobs.namespace)
        assert f"[agent] round 1: rank {rank} of 2, master " in told
        assert f"[agent] round 1: rank {rank} ended: Succeeded" in told
        assert "Traceback" not in told


def test_kubectl_logs_by_the_label_has_all_of_them(sample: Ended, jobs: Jobs) -> None:
    told = jobs.cluster.kubectl("logs", "-l", f"dlcloud.dev/job={NAME}", "--prefix", "-n", jobs.namespace)
    for rank in (0, 1):
        assert f"[pod/{NAME}-{rank}-1/trainer] [agent] round 1: rank {rank} ended: Succeeded" in told


def test_dlcloud_logs_followed_the_sample_from_its_start_and_lost_no_line(sample: Ended, expected: list[str]) -> None:
    assert steps(sample.followed) == expected
    for rank in (0, 1):
        assert sample.followed.count(f"round 1: rank {rank} ended: Succeeded") == 1, sample.followed


def test_dlcloud_logs_of_one_rank_is_what_the_program_printed(
    sample: Ended, jobs: Jobs, dlcloud: Dlcloud, expected: list[str]
) -> None:
    told = dlcloud.run("logs", NAME, "--rank", "0", "-n", jobs.namespace)
    assert [line for line in told.splitlines() if "[agent]" not in line] == expected
    assert "loss" not in dlcloud.run("logs", NAME, "--rank", "1", "-n", jobs.namespace)
    lines = [json.loads(line) for line in dlcloud.run("logs", NAME, "-n", jobs.namespace, "-o", "json").splitlines()]
    assert {line["pod"] for line in lines} == {f"{NAME}-0-1", f"{NAME}-1-1"}
    assert [line["text"] for line in lines if line["rank"] == 0 and "loss" in line["text"]] == expected


def test_an_image_without_our_package_runs_the_program_as_torchrun_does(bare: Ended, expected: list[str]) -> None:
    assert steps(bare.said[0]) == expected
    for rank, said in enumerate(bare.said):
        for line in (f"rank {rank} of 2", "dlcloud_trainer: None", "threads: 1"):
            assert re.search(rf"^(\[rank \d+\] )?{line}$", said, re.M), said


def test_its_agent_is_copied_into_the_pod(bare: Ended, place: Place) -> None:
    for pod in bare.pods:
        (init,) = pod["spec"]["initContainers"]
        assert (init["name"], init["image"]) == ("agent", place.images.trainer)
        (trainer,) = pod["spec"]["containers"]
        assert trainer["command"][-1].startswith("/dlcloud/bin/")
        assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 0


def test_dlcloud_run_follows_a_job_of_the_cluster_to_its_end(bare: Ended, expected: list[str]) -> None:
    assert "Succeeded after " in bare.followed
    assert steps(bare.followed) == expected
    for rank in (0, 1):
        assert f"rank {rank} of 2" in bare.followed
