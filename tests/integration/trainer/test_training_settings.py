"""The settings all workloads share, in real rank processes: what each does to the weights, on one rank and on more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.ranks import RankProcess, RankServer
from dlcloud_trainer.checkpoint import Restored
from dlcloud_trainer.objects import open_objects

from .breaking import PRELUDE, Kill, assert_same_training, train_broken, train_whole
from .conftest import folder_checkpoint, newest

SMALL = {"architecture": "conv8", "augment": False, "batchSize": 16, "epochs": 3, "logEverySteps": 1}
STEPS_PER_EPOCH = 7  # 110 samples
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture(scope="module")
def breaking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankServer]:
    with RankServer(tmp_path_factory.mktemp("ranks"), prelude=PRELUDE) as running:
        yield running


def losses(uri: str) -> list[float]:
    """The training's loss, step by step."""
    store = open_objects(uri)
    lines = [line for key in sorted(store.list("metrics")) for line in store.get(key).splitlines()]
    return [record["loss"] for line in lines if (record := json.loads(line))["kind"] == "train"]


def job_of(parameters: dict[str, Any]) -> dict[str, Any]:
    """A small job with these settings, of cnn unless a workload is among them."""
    workload = parameters.get("workload", "cnn")
    own = {name: value for name, value in SMALL.items() if workload == "cnn" or name != "architecture"}
    given = {name: value for name, value in parameters.items() if name != "workload"}
    return {"workload": workload, "parameters": {**own, **given}}


class Trained:
    """A training to its end."""

    def __init__(
        self, server: RankServer, folder: Path, data: dict[str, str], world_size: int = 1, **parameters: Any
    ) -> None:
        self.checkpoint = folder_checkpoint(folder)
        job = {**job_of(parameters), "data": data, "checkpoint": self.checkpoint}
        self.ranks: list[RankProcess] = server.start_round(job, world_size=world_size)
        self.codes = [rank.wait() for rank in self.ranks]

    @cached_property
    def state(self) -> Restored:
        """What was saved last."""
        assert set(self.codes) == {0}, self.ranks[0].log
        return newest(self.checkpoint)

    @property
    def losses(self) -> list[float]:
        assert set(self.codes) == {0}, self.ranks[0].log
        return losses(self.checkpoint["uri"])

    @property
    def failure(self) -> str:
        """Why it ended."""
        assert 0 not in self.codes
        return str(self.ranks[0].events("failed")[-1]["message"])


def weights(state: Restored, part: str = "model") -> dict[str, torch.Tensor]:
    return {name.removeprefix(f"{part}."): t for name, t in state.tensors.items() if name.startswith(f"{part}.")}


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"optimizer": "sgd", "learningRate": 0.05, "weightDecay": 0.01},
        {"optimizer": "rmsprop", "schedule": "linear"},
        {"clipNorm": 0.1},
        {"accumulate": 3},
        {"ema": 0.9, "labelSmoothing": 0.1},
        {"freeze": "conv.*", "unfreezeEpoch": 1, "unfreezeLearningRate": 0.0005},
        {"architecture": "conv32-64", "dropout": 0},
        {"workload": "mlp", "layers": 2},
    ],
    ids=str,
)
def test_several_ranks_learn_what_one_learns(
    server: RankServer, small_data: dict[str, str], tmp_path: Path, parameters: dict[str, Any]
) -> None:
    one, *more = (Trained(server, tmp_path, small_data, world_size, **parameters) for world_size in (1, 2, 3))
    assert len(one.losses) == 3 * STEPS_PER_EPOCH
    for several in more:
        assert several.losses == pytest.approx(one.losses, rel=1e-4, abs=1e-5)
        for name, tensor in weights(several.state).items():
            assert torch.allclose(tensor, weights(one.state)[name], **CLOSE), name


@pytest.mark.parametrize(
    "parameters",
    [
        {"ema": 0.9, "accumulate": 2, "clipNorm": 0.5},
        {"freeze": "conv.*", "unfreezeEpoch": 1, "patience": 50},
        {"precision": "bfloat16", "optimizer": "sgd"},
        {"workload": "mlp", "dropout": 0.3, "augment": True},
        {"architecture": "small", "augment": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(
    breaking: RankServer, small_data: dict[str, str], tmp_path: Path, world_size: int, parameters: dict[str, Any]
) -> None:
    whole, broken = folder_checkpoint(tmp_path), folder_checkpoint(tmp_path)
    job = {**job_of(parameters), "data": small_data}
    train_whole(breaking, job | {"checkpoint": whole}, world_size)
    kills = [Kill(world_size - 1, "step", 5), Kill(0, "step", 9)]
    assert train_broken(breaking, job | {"checkpoint": broken}, world_size, kills) == 2
    stores = (open_objects(saved["uri"]) for saved in (whole, broken))
    assert_same_training(newest(whole), newest(broken), *stores)


def test_pieces_of_a_batch_add_up_to_the_batch(server: RankServer, small_data: dict[str, str], tmp_path: Path) -> None:
    whole, pieces = (Trained(server, tmp_path, small_data, accumulate=count) for count in (1, 5))
    assert pieces.losses == pytest.approx(whole.losses, rel=1e-4, abs=1e-5)


def test_gradients_are_cut_to_the_norm_that_is_allowed(
    server: RankServer, small_data: dict[str, str], tmp_path: Path
) -> None:
    free, cut = (
        Trained(server, tmp_path, small_data, optimizer="sgd", learningRate=0.1, epochs=1, **more)
        for more in ({}, {"clipNorm": 1e-6})
    )
    assert free.losses[-1] < free.losses[0] - 0.1
    # Steps of a norm of 1e-7 each change nothing that is seen; the batches differ.
    assert abs(cut.losses[-1] - free.losses[0]) < 0.3


def test_the_average_is_measured_and_saved_beside_the_model(
    server: RankServer, small_data: dict[str, str], tmp_path: Path
) -> None:
    state = Trained(server, tmp_path, small_data, ema=0.999).state
    average, model = weights(state, "average"), weights(state)
    assert average.keys() == model.keys()
    assert not torch.allclose(average["dense.weight"], model["dense.weight"])


def test_frozen_weights_stay_until_the_epoch_that_trains_them(
    server: RankServer, small_data: dict[str, str], tmp_path: Path
) -> None:
    begun = weights(Trained(server, tmp_path, small_data, epochs=1, learningRate=1e-10, weightDecay=0).state)
    frozen = weights(Trained(server, tmp_path, small_data, 2, freeze="conv.*").state)
    thawed = weights(Trained(server, tmp_path, small_data, 2, freeze="conv.*", unfreezeEpoch=2).state)
    assert torch.allclose(frozen["conv.weight"], begun["conv.weight"], atol=1e-7)
    assert not torch.allclose(thawed["conv.weight"], begun["conv.weight"], atol=1e-4)
    assert not torch.allclose(frozen["dense.weight"], begun["dense.weight"], atol=1e-4)


def test_training_ends_when_it_gets_no_better_with_the_best_weights(
    server: RankServer, small_data: dict[str, str], tmp_path: Path
) -> None:
    # With so high a rate the validation is at its best early, and never again.
    trained = Trained(server, tmp_path, small_data, 2, patience=2, epochs=200, schedule="constant", learningRate=0.02)
    state = trained.state
    told = state.state["ledger"]
    assert told["ended"] is True
    assert told["validatedEpochs"] == told["bestEpoch"] + 2 < 200
    for name, tensor in weights(state).items():
        assert torch.equal(tensor, weights(state, "best-model")[name]), name


@pytest.fixture(scope="module")
def teacher(server: RankServer, small_data: dict[str, str], tmp_path_factory: Any) -> Trained:
    return Trained(server, tmp_path_factory.mktemp("teacher"), small_data)


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_new_job_begins_with_the_weights_of_another(
    teacher: Trained, server: RankServer, small_data: dict[str, str], tmp_path: Path, world_size: int
) -> None:
    given = weights(teacher.state)
    tuned = Trained(
        server, tmp_path, small_data, world_size, **{"from": teacher.checkpoint["uri"]}, epochs=1, freeze="conv.*"
    )
    assert torch.equal(weights(tuned.state)["conv.weight"], given["conv.weight"])
    assert tuned.losses[0] < teacher.losses[0] / 2


def test_a_new_head_begins_fresh(
    teacher: Trained, server: RankServer, small_data: dict[str, str], tmp_path: Path
) -> None:
    tuned = Trained(
        server,
        tmp_path,
        small_data,
        **{"from": teacher.checkpoint["uri"]},
        newHead="dense.*",
        freeze="conv.*",
        epochs=1,
    )
    assert torch.equal(weights(tuned.state)["conv.weight"], weights(teacher.state)["conv.weight"])
    assert tuned.losses[0] > teacher.losses[-1] * 2


def test_weights_of_another_shape_are_refused_by_name(
    teacher: Trained, server: RankServer, small_data: dict[str, str], tmp_path: Path
) -> None:
    refused = Trained(server, tmp_path, small_data, **{"from": teacher.checkpoint["uri"]}, architecture="conv32-64")
    assert set(refused.codes) == {64}
    assert "parameters.from: the model's conv1.weight is [32, 1, 3, 3], the checkpoint has none" in refused.failure


def test_a_prefix_without_a_checkpoint_is_refused(
    server: RankServer, small_data: dict[str, str], tmp_path: Path
) -> None:
    nothing = Trained(server, tmp_path, small_data, **{"from": f"file://{tmp_path}/nothing/"})
    assert "parameters.from: there is no checkpoint at" in nothing.failure


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"freeze": "cnv*"}, "parameters.freeze: 'cnv*' matches none of the model's weights; there are conv.weight"),
        ({"freeze": "*"}, "parameters.freeze: '*' leaves nothing to train"),
    ],
)
def test_patterns_that_cannot_be_meant_are_refused(
    server: RankServer, small_data: dict[str, str], tmp_path: Path, parameters: dict[str, Any], words: str
) -> None:
    refused = Trained(server, tmp_path, small_data, **parameters)
    assert set(refused.codes) == {64}
    assert words in refused.failure
