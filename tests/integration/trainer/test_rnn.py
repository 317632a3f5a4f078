"""`rnn` on reviews of its own, in real rank processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.ranks import RankServer
from dlcloud_trainer.checkpoint import Restored
from dlcloud_trainer.objects import open_objects

from ...unit.trainer.data.made import tar_gz, write_files
from ...unit.trainer.data.made_texts import text_files, write_reviews
from .breaking import PRELUDE, assert_same_training, choose_kills, train_broken, train_whole
from .conftest import folder_checkpoint, newest

pytestmark = pytest.mark.timeout(300)
USUAL = {"batchSize": 16, "learningRate": 0.01, "length": 30, "logEverySteps": 1, "validation": "last"}
LSTM = {**USUAL, "embedding": 8, "hidden": 12}
KINDS: dict[str, dict[str, Any]] = {
    "lstm": LSTM,
    "both ways": {**LSTM, "bidirectional": True, "pooling": "last"},
    "bigrams": {**USUAL, "kind": "bigrams", "buckets": 16, "learningRate": 0.2},
}
WITHOUT_CHANCE = {"lstm": {"dropout": 0.0}, "both ways": {"dropout": 0.0}, "bigrams": {}}


@pytest.fixture(scope="module")
def reading(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankServer]:
    with RankServer(
        tmp_path_factory.mktemp("ranks"), prelude=f"import dlcloud_trainer.workloads.rnn\n{PRELUDE}"
    ) as own:
        yield own


@pytest.fixture(scope="module")
def small_reviews(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """108 reviews to train on and 12 for the validation, 25 for the test: no number of ranks divides them all."""
    return {"uri": write_reviews(tmp_path_factory.mktemp("reviews"), 120, 25)}


def job(data: dict[str, str], folder: Path, **parameters: Any) -> dict[str, Any]:
    return {"workload": "rnn", "parameters": parameters, "data": data, "checkpoint": folder_checkpoint(folder)}


def train(
    server: RankServer, spec: dict[str, Any], world_size: int
) -> tuple[dict[str, list[dict[str, Any]]], Restored]:
    """Records by kind, and the state at the end."""
    ranks = server.start_round(spec, world_size=world_size)
    assert [rank.wait(120) for rank in ranks] == [0] * world_size, ranks[0].log
    store, found = open_objects(spec["checkpoint"]["uri"]), {}
    for key in sorted(store.list("metrics")):
        for line in store.get(key).splitlines():
            record = json.loads(line)
            found.setdefault(record["kind"], []).append(record)
    return found, newest(spec["checkpoint"])


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_learn_which_words_tell(
    reading: RankServer, small_reviews: dict[str, str], tmp_path: Path, kind: str
) -> None:
    records, state = train(reading, job(small_reviews, tmp_path, **KINDS[kind], epochs=15), 2)
    assert records["test"][-1]["accuracy"] >= 0.96
    assert records["train"][-1]["loss"] < records["train"][0]["loss"] / 2
    assert {"lovely", "awful"} < set(state.state["vocabulary"]["words"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_and_the_measures_are_those_of_one_rank(
    reading: RankServer, small_reviews: dict[str, str], tmp_path: Path, kind: str
) -> None:
    settings = KINDS[kind] | WITHOUT_CHANCE[kind] | {"epochs": 2}
    runs = {world: train(reading, job(small_reviews, tmp_path / str(world), **settings), world) for world in (1, 2, 3)}
    alone, state = runs[1]
    losses = [record["loss"] for record in alone["train"]]
    assert len(losses) == 14
    for together, other in (runs[2], runs[3]):
        assert [record["loss"] for record in together["train"]] == pytest.approx(losses, rel=1e-4)
        for name in ("loss", "accuracy", "recall", "f1"):
            assert together["test"][-1][name] == pytest.approx(alone["test"][-1][name], rel=1e-4)
        for name, tensor in state.tensors.items():
            torch.testing.assert_close(other.tensors[name], tensor, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_killed_and_resumed_is_uninterrupted_bit_for_bit(
    reading: RankServer, small_reviews: dict[str, str], tmp_path: Path, world_size: int
) -> None:
    parameters = LSTM | {"bidirectional": True, "wordDropout": 0.1, "ema": 0.9, "epochs": 12}
    whole, broken = (job(small_reviews, tmp_path / name, **parameters) for name in ("whole", "broken"))
    train_whole(reading, whole, world_size)
    kills = choose_kills(seed=world_size, number=3, world_size=world_size)
    assert train_broken(reading, broken, world_size, kills) == len(kills)
    stores = (open_objects(spec["checkpoint"]["uri"]) for spec in (whole, broken))
    assert_same_training(newest(whole["checkpoint"]), newest(broken["checkpoint"]), *stores)


def test_resumed_with_other_words_it_is_refused(
    reading: RankServer, small_reviews: dict[str, str], tmp_path: Path
) -> None:
    first = job(small_reviews, tmp_path / "first", **LSTM, vocabulary=20, epochs=1)
    train(reading, first, 1)
    files = {name: data.replace(b"w1", b"z1") for name, data in text_files(120, 25).items()}
    other = {"uri": write_files(tmp_path / "other", {"aclImdb_v1.tar.gz": tar_gz(files)})}
    second = job(other, tmp_path / "second", **LSTM, vocabulary=20, epochs=2)
    ranks = reading.start_round(second | {"resumeFrom": first["checkpoint"]["uri"]})
    assert ranks[0].wait(60) not in (0, 70)
    message = ranks[0].events("failed")[0]["message"]
    assert "vocabulary: the checkpoint's vocabulary is another one (22 words there, 22 here; token " in message


def test_fine_tuning_on_other_reviews_keeps_the_words_that_the_weights_belong_to(
    reading: RankServer, small_reviews: dict[str, str], tmp_path: Path
) -> None:
    first = job(small_reviews, tmp_path / "first", **LSTM, epochs=15)
    _, state = train(reading, first, 1)
    files = {name: data.replace(b"w1", b"z1") for name, data in text_files(40, 25).items()}
    other = {"uri": write_files(tmp_path / "other", files)}
    settings = LSTM | {"from": first["checkpoint"]["uri"], "learningRate": 1e-6, "epochs": 1}
    records, tuned = train(reading, job(other, tmp_path / "second", **settings), 2)
    assert tuned.state["vocabulary"] == state.state["vocabulary"]
    assert records["test"][-1]["accuracy"] >= 0.8, "it knew which words tell before it was trained"


def test_what_has_no_words_cannot_be_fine_tuned_to_read_them(
    reading: RankServer, small_reviews: dict[str, str], tmp_path: Path
) -> None:
    rows = job({"uri": "builtin://digits"}, tmp_path / "rows", kind="rows", hidden=8, epochs=1, batchSize=512)
    records, _ = train(reading, rows, 2)
    assert 0 < records["test"][-1]["accuracy"] <= 1
    ranks = reading.start_round(job(small_reviews, tmp_path / "text", **{"from": rows["checkpoint"]["uri"]}))
    assert ranks[0].wait(60) == 64
    assert "parameters.from: the checkpoint has no vocabulary" in ranks[0].events("failed")[0]["message"]
