"""`vae` and `gan` on real ranks: resumed is uninterrupted, and figures do not depend on the number of ranks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.ranks import RankServer
from dlcloud_trainer.assignment import StoreAddress
from dlcloud_trainer.judging import set_training
from dlcloud_trainer.objects import open_objects
from dlcloud_trainer.parameters import parse_parameters
from dlcloud_trainer.workloads import find_workload

from .breaking import (
    PRELUDE,
    Kill,
    assert_same_training,
    choose_kills,
    merged_records,
    train_broken,
    train_whole,
)
from .conftest import folder_checkpoint, newest

pytestmark = pytest.mark.timeout(600)
KINDS = ("dcgan", "wgan", "wgan-gp")
# 5 steps an epoch, the last of 14 samples: no share divides. The generator's gradients need two of DDP's buckets.
GAN = {"width": 16, "batchSize": 24, "epochs": 3, "logEverySteps": 1, "criticSteps": 2, "ema": 0.9}
VAE = {"batchSize": 24, "epochs": 6, "logEverySteps": 1, "ema": 0.9}
SEVERAL = (1, 2, 3)


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankServer]:
    imports = "import dlcloud_trainer.workloads.gan, dlcloud_trainer.workloads.vae\n"
    with RankServer(tmp_path_factory.mktemp("ranks"), prelude=imports + PRELUDE) as running:
        yield running


def gan(kind: str, **more: Any) -> dict[str, Any]:
    parameters = GAN | {"kind": kind} | more
    if kind == "dcgan":
        del parameters["criticSteps"]
    return {"workload": "gan", "parameters": parameters}


def vae(**more: Any) -> dict[str, Any]:
    return {"workload": "vae", "parameters": VAE | more}


def assert_broken_is_whole(server: RankServer, job: dict[str, Any], folder: Path, world_size: int) -> None:
    """Train once in one go and once with kills."""
    kills = [*choose_kills(world_size, 2, world_size), Kill(world_size - 1, "step", 2)]
    whole, broken = folder_checkpoint(folder), folder_checkpoint(folder)
    train_whole(server, job | {"checkpoint": whole}, world_size)
    met = train_broken(server, job | {"checkpoint": broken}, world_size, kills)
    assert met == len(kills), "the training was over before the last kill: make it longer"
    stores = (open_objects(saved["uri"]) for saved in (whole, broken))
    assert_same_training(newest(whole), newest(broken), *stores)


@pytest.mark.parametrize("world_size", SEVERAL)
@pytest.mark.parametrize("kind", KINDS)
def test_a_gan_killed_and_resumed_is_one_that_was_not(
    ready: RankServer, small_data: dict[str, str], tmp_path: Path, kind: str, world_size: int
) -> None:
    assert_broken_is_whole(ready, gan(kind) | {"data": small_data}, tmp_path, world_size)


@pytest.mark.parametrize("world_size", SEVERAL)
def test_a_vae_killed_and_resumed_is_one_that_was_not(
    ready: RankServer, small_data: dict[str, str], tmp_path: Path, world_size: int
) -> None:
    assert_broken_is_whole(ready, vae() | {"data": small_data}, tmp_path, world_size)


def test_a_vae_learns_the_same_on_one_rank_as_on_three(
    ready: RankServer, small_data: dict[str, str], tmp_path: Path
) -> None:
    curves = []
    for world_size in SEVERAL:
        saved = folder_checkpoint(tmp_path, every_seconds=1000)
        # Plain steps: Adam's first ones are the signs of gradients, which near zero are rounding errors.
        plain = vae(optimizer="sgd", learningRate=1e-5, ema=0.0, architecture="conv", hidden=16)
        train_whole(ready, plain | {"data": small_data, "checkpoint": saved}, world_size)
        records = [json.loads(text) for text in merged_records(open_objects(saved["uri"])).values()]
        curves.append({(record["kind"], record["step"]): record["loss"] for record in records})
    assert len(curves[0]) == 30 + 6 + 1
    assert curves[0]["train", 30] < 0.95 * curves[0]["train", 1]
    for curve in curves[1:]:
        assert curve == pytest.approx(curves[0], rel=2e-4)


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("job", [vae(epochs=1), gan("wgan-gp", epochs=1)], ids=["vae", "gan"])
def test_ranks_measure_what_one_process_measures(
    ready: RankServer, small_data: dict[str, str], tmp_path: Path, job: dict[str, Any], world_size: int
) -> None:
    saved = folder_checkpoint(tmp_path, every_seconds=1000)
    train_whole(ready, job | {"data": small_data, "checkpoint": saved}, world_size)
    records = merged_records(open_objects(saved["uri"]))
    (told,) = (json.loads(text) for (kind, _), text in records.items() if kind == "test")

    workload = find_workload(job["workload"])
    parameters = parse_parameters(workload, job["parameters"])
    data = workload.load_data(small_data["uri"], StoreAddress(), parameters)
    task = workload.make_task(parameters, data, torch.device("cpu"))
    restored = newest(saved)
    for name, model in task.parts.items():
        if isinstance(model, torch.nn.Module):
            model.load_state_dict({key: restored.tensors[f"{name}.{key}"] for key in model.state_dict()})
    set_training(task, False)
    with torch.no_grad():
        measured = task.describe(task.measure(data.test), len(data.test[0]))
    assert {name: told[name] for name in measured} == pytest.approx(measured, rel=1e-4)


def test_every_epoch_leaves_pictures(ready: RankServer, small_data: dict[str, str], tmp_path: Path) -> None:
    for job, names in ((vae(epochs=2), ("reconstructions", "walk")), (gan("dcgan", epochs=2), ("samples",))):
        saved = folder_checkpoint(tmp_path)
        train_whole(ready, job | {"data": small_data, "checkpoint": saved}, 2)
        store = open_objects(saved["uri"])
        wanted = {f"pictures/{name}-{epoch:06d}.png" for name in names for epoch in (1, 2)}
        assert set(store.list("pictures")) == wanted
        assert all(store.get(key).startswith(b"\x89PNG") for key in wanted)
