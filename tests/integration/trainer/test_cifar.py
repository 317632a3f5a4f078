"""`cifar` on data of its own, in real rank processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.ranks import RankServer
from dlcloud_trainer.objects import open_objects

from ...unit.trainer.data.made import cifar_files, tar_gz, write_files
from .conftest import folder_checkpoint, newest

USUAL = {
    "architecture": "conv32-64-64",
    "batchSize": 20,
    "learningRate": 0.002,
    "logEverySteps": 1,
    "optimizer": "adam",
}


@pytest.fixture(scope="module")
def small_cifar(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """110 training and 10 validation images, 24 for the test, in the archive that CIFAR-10 comes in."""
    packed = tar_gz({f"cifar-10-batches-bin/{name}": data for name, data in cifar_files(24).items()})
    return {"uri": write_files(tmp_path_factory.mktemp("cifar"), {"cifar-10-binary.tar.gz": packed})}


def train(
    server: RankServer, folder: Path, data: dict[str, str], world_size: int, **parameters: Any
) -> tuple[dict[str, list[dict[str, Any]]], Any]:
    """Records by kind, and the state at the end."""
    checkpoint = folder_checkpoint(folder)
    job = {"workload": "cifar", "parameters": parameters, "data": data, "checkpoint": checkpoint}
    ranks = server.start_round(job, world_size=world_size)
    assert [rank.wait(110) for rank in ranks] == [0] * world_size, ranks[0].log
    store, found = open_objects(checkpoint["uri"]), {}
    for key in sorted(store.list("metrics")):
        for line in store.get(key).splitlines():
            record = json.loads(line)
            found.setdefault(record["kind"], []).append(record)
    return found, newest(checkpoint)


def test_two_ranks_learn_it(server: RankServer, small_cifar: dict[str, str], tmp_path: Path) -> None:
    records, _ = train(
        server, tmp_path, small_cifar, 2, **USUAL, epochs=6, augment=False, labelSmoothing=0.0, weightDecay=0.0
    )
    assert records["test"][-1]["accuracy"] >= 0.9
    assert records["train"][-1]["loss"] < records["train"][0]["loss"] / 2


def test_two_ranks_make_the_loss_of_one(server: RankServer, small_cifar: dict[str, str], tmp_path: Path) -> None:
    settings = USUAL | {"epochs": 2, "augment": False}
    alone, _ = train(server, tmp_path / "1", small_cifar, 1, **settings)
    together, _ = train(server, tmp_path / "2", small_cifar, 2, **settings)
    losses = [[record["loss"] for record in found["train"]] for found in (alone, together)]
    assert len(losses[0]) == 12
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    for name in ("loss", "accuracy", "f1"):
        assert together["test"][-1][name] == pytest.approx(alone["test"][-1][name], rel=1e-3)


def test_the_fast_network_goes_through_two_ranks_with_its_first_layer_as_it_was(
    server: RankServer, small_cifar: dict[str, str], tmp_path: Path
) -> None:
    records, state = train(server, tmp_path, small_cifar, 2, epochs=1, batchSize=40, tta=True, logEverySteps=1)
    assert len(records["train"]) == 3
    assert {"loss", "accuracy", "recall", "f1"} <= records["test"][-1].keys()
    weights = state.tensors["model.whiten.weight"]
    assert torch.equal(weights[:12], -weights[12:])
