"""The same training on two nodes, on one node and on this machine: the same steps bit for bit, kept on the store.

All of it trains once, for the whole file; the tests look at what it left.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from ..cluster.nodes import Nodes
from ..rig.cluster import Cluster
from ..rig.jobs import Object, manifest
from . import evidence
from .command import Dlcloud
from .jobs import DIGITS, TRAINER, Jobs
from .store import Record, Store
from .turns import turn

pytestmark = pytest.mark.timeout(900)
APART, TOGETHER = "apart", "together"
STEPS = 40  # of 2 epochs of 1,258 digits, 64 at a time
LIMIT_S = 600.0
_NEW_EACH_TIME = ("time", "at", "samplesPerSecond")


@dataclass(frozen=True)
class Trained:
    """What a training left behind; `checkpoint` is the manifest of the last one, `head` the commit point."""

    records: list[Record]
    head: Object
    checkpoint: Object
    keys: list[str]
    status: Object
    pods: list[Object]

    @property
    def losses(self) -> dict[int, float]:
        return {record["step"]: record["loss"] for record in self.records if record["kind"] == "train"}

    @property
    def measured(self) -> list[Record]:
        """Every record, without the times."""
        return [{key: value for key, value in one.items() if key not in _NEW_EACH_TIME} for one in self.records]

    @property
    def state(self) -> list[tuple[int, int]]:
        """Sizes and checksums of the state: weights, optimiser, generators."""
        return [(piece["sizeBytes"], piece["crc32"]) for piece in self.checkpoint["slices"]]

    @property
    def nodes(self) -> list[str]:
        """Where its pods ran, by worker."""
        return [pod["spec"]["nodeName"] for pod in self.pods]


def spec_of(name: str) -> Object:
    """`DIGITS` with its two workers on two nodes (asked for in `scheduling`) or on one (in the `podTemplate`)."""
    term = {
        "labelSelector": {"matchLabels": {"dlcloud.dev/job": name}},
        "topologyKey": "kubernetes.io/hostname",
    }
    required = {"requiredDuringSchedulingIgnoredDuringExecution": [term]}
    if name == APART:
        return {"scheduling": {"affinity": {"podAntiAffinity": required}}}
    return {"podTemplate": {"spec": {**DIGITS["podTemplate"]["spec"], "affinity": {"podAffinity": required}}}}


@pytest.fixture(scope="module")
def trained(jobs_of_module: Jobs, store: Store, turns: Path) -> dict[str, Trained]:
    """Both trainings on the cluster, at the same time, to their ends."""
    with turn(turns, alone=False):
        for name in (APART, TOGETHER):
            jobs_of_module.create(name, **spec_of(name))
        return {name: ended(jobs_of_module, store, name) for name in (APART, TOGETHER)}


def ended(jobs: Jobs, store: Store, name: str) -> Trained:
    status = jobs.until_phase(name, "Succeeded", "Failed", limit_s=LIMIT_S)
    assert status["phase"] == "Succeeded", jobs.told(name)
    jobs.until_pods_ended(name)
    prefix = store.prefix(name, jobs)
    head = store.head(name, jobs)
    newest = json.loads(store.read(prefix + head["checkpoints"][0]["manifest"]))
    keys = [key.removeprefix(prefix) for key in store.keys(prefix)]
    evidence.note("training", name=name, seconds=seconds(status))
    return Trained(store.records(name, jobs), head, newest, keys, status, jobs.pods(name))


def seconds(status: Object) -> float:
    """From the job's first status to its end."""
    began, end = (datetime.fromisoformat(status[key]) for key in ("startTime", "completionTime"))
    return round((end - began).total_seconds(), 1)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The manifest of the job on two nodes, run by `dlcloud run --local`; its checkpoints go to a folder."""
    folder = tmp_path_factory.mktemp("local")
    job = folder / "job.json"
    job.write_text(json.dumps(manifest(APART, {**DIGITS, **spec_of(APART)})))
    stored, run = folder / "stored", folder / "run"
    said = Dlcloud(folder).run(
        "run", job, "--local", "--plain", "--run-dir", run,
        "--set", f"checkpoint.uri=file://{stored}", "--set", "objectStore={}", limit_s=LIMIT_S,
    )  # fmt: skip
    assert "Succeeded" in said, said
    (head_file,) = stored.rglob("head.json")
    prefix, head = head_file.parent, json.loads(head_file.read_text())
    records: list[Record] = []
    for part in sorted(prefix.glob("metrics/*/*.jsonl")):
        records += [{**json.loads(line), "round": int(part.parent.name)} for line in part.read_text().splitlines()]
    keys = [str(path.relative_to(prefix)) for path in prefix.rglob("*") if path.is_file()]
    newest = json.loads((prefix / head["checkpoints"][0]["manifest"]).read_text())
    document = json.loads((run / "job.json").read_text())
    status: Any = document.get("status") or document["job"]["status"]
    return Trained(records, head, newest, keys, status, [])


def test_two_workers_that_shall_be_apart_train_on_two_nodes(trained: dict[str, Trained]) -> None:
    there = trained[APART]
    assert len(there.nodes) == 2 and len(set(there.nodes)) == 2, there.nodes
    assert there.status["workers"]["desired"] == 2 and there.checkpoint["worldSize"] == 2


def test_two_workers_that_shall_be_together_train_on_one_node(trained: dict[str, Trained]) -> None:
    there = trained[TOGETHER]
    assert len(there.nodes) == 2 and len(set(there.nodes)) == 1, there.nodes


@pytest.mark.parametrize("name", [APART, TOGETHER])
def test_it_succeeds_at_the_first_try(trained: dict[str, Trained], name: str) -> None:
    status = trained[name].status
    assert status["restarts"] == 0 and not status.get("failures")
    assert status["recovery"]["lastRound"] == 1
    for pod in trained[name].pods:
        assert pod["status"]["phase"] == "Succeeded"
        (trainer,) = (one for one in pod["status"]["containerStatuses"] if one["name"] == TRAINER)
        assert trainer["restartCount"] == 0 and trainer["state"]["terminated"]["exitCode"] == 0
        assert json.loads(trainer["state"]["terminated"]["message"])["outcome"] == "Succeeded"


def test_where_the_workers_are_changes_no_bit_of_the_training(trained: dict[str, Trained]) -> None:
    apart, together = trained[APART], trained[TOGETHER]
    assert list(apart.losses) == list(range(1, STEPS + 1))
    assert apart.losses == together.losses
    assert apart.measured == together.measured
    assert apart.state == together.state


def test_the_loss_curve_is_that_of_this_machine_bit_for_bit(
    trained: dict[str, Trained], here: Trained, nodes: Nodes
) -> None:
    assert here.checkpoint["worldSize"] == 2 and here.checkpoint["threads"] == trained[APART].checkpoint["threads"]
    assert here.checkpoint["seed"] == trained[APART].checkpoint["seed"]
    assert list(here.losses) == list(range(1, STEPS + 1))
    for step, loss in here.losses.items():
        assert trained[APART].losses[step] == loss, f"step {step}: the first that differs"
    assert trained[APART].measured == here.measured
    evidence.note("bit for bit", steps=len(here.losses), nodes=len(nodes.names), loss=here.losses[STEPS])


def test_the_weights_and_the_optimiser_are_those_of_this_machine_bit_for_bit(
    trained: dict[str, Trained], here: Trained, nodes: Nodes
) -> None:
    assert trained[APART].checkpoint["tensors"] == here.checkpoint["tensors"]
    assert trained[APART].state == here.state


@pytest.mark.parametrize("name", [APART, TOGETHER])
def test_what_it_has_learned_is_what_is_learned_here(trained: dict[str, Trained], here: Trained, name: str) -> None:
    metrics = trained[name].status["progress"]["metrics"]
    assert metrics["testAccuracy"] > 0.5, "1 of 10 is what guessing gives"
    assert metrics["testAccuracy"] == pytest.approx(here.status["progress"]["metrics"]["testAccuracy"], abs=0.02)


def test_the_status_says_how_far_it_came(trained: dict[str, Trained]) -> None:
    status = trained[APART].status
    progress = status["progress"]
    assert (progress["epoch"], progress["epochs"], progress["step"], progress["totalSteps"]) == (2, 2, STEPS, STEPS)
    assert progress["loss"] == pytest.approx(trained[APART].losses[STEPS], rel=1e-5)
    assert status["checkpoint"]["step"] == STEPS and "eta" not in progress


def test_its_checkpoints_head_and_metrics_are_on_the_store(trained: dict[str, Trained], jobs_of_module: Jobs) -> None:
    there = trained[APART]
    kept = there.head["checkpoints"]
    assert there.head["round"] == 1 and kept[0]["step"] == STEPS and 1 <= len(kept) <= 4
    assert {f"manifests/{one['step']:012d}-000001.json" for one in kept} == {one["manifest"] for one in kept}
    assert {one["manifest"] for one in kept} <= set(there.keys)
    folders = {"attempts", "head.json", "logs", "manifests", "metrics", "pictures"}
    assert {key.split("/")[0] for key in there.keys} == folders
    assert there.status["checkpoint"]["uri"].endswith(
        f"/{jobs_of_module.get(APART)['metadata']['uid']}/{kept[0]['manifest']}"
    )
    kinds = [record["kind"] for record in there.records]
    assert kinds.count("train") == STEPS and kinds.count("validation") == 2 and kinds.count("test") == 1


def test_the_command_line_lists_and_verifies_its_checkpoints_through_a_forwarded_port(
    trained: dict[str, Trained], jobs_of_module: Jobs, store: Store, cluster: Cluster, tmp_path: Path
) -> None:
    dlcloud, job = Dlcloud(tmp_path, cluster.kubeconfig), (APART, "-n", jobs_of_module.namespace)
    steps = [one["step"] for one in trained[APART].head["checkpoints"]]
    store.client()  # forwards anew where the connection broke
    listed = json.loads(dlcloud.run("checkpoints", "ls", *job, "--endpoint", store.endpoint, "-o", "json"))
    assert [one["step"] for one in listed] == steps
    verified = dlcloud.run("checkpoints", "verify", *job, "all", "--endpoint", store.endpoint)
    assert [line.split(":")[0] for line in verified.splitlines() if ": OK (" in line] == [f"step {s}" for s in steps]


def test_without_an_endpoint_the_command_line_says_how_the_store_is_reached(
    trained: dict[str, Trained], jobs_of_module: Jobs, cluster: Cluster, tmp_path: Path
) -> None:
    dlcloud = Dlcloud(tmp_path, cluster.kubeconfig)
    said = dlcloud.run("checkpoints", "ls", APART, "-n", jobs_of_module.namespace, code=3)
    assert "kubectl port-forward -n dlcloud-system svc/dlcloud-s3 8333:8333" in said, said
    assert "--endpoint http://127.0.0.1:8333" in said
