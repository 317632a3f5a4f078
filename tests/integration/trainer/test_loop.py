"""The training loop in real rank processes: what a kill, a stop and another number of ranks leave of the result."""

from __future__ import annotations

import json
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ranks import RankProcess, RankServer
from dlcloud_trainer.objects import open_objects

from .conftest import assert_same_state, folder_checkpoint, newest

SMALL = {"architecture": "conv8", "epochs": 4, "batchSize": 16, "logEverySteps": 1}
STEPS_PER_EPOCH = 7  # 110 samples


def codes(ranks: list[RankProcess]) -> list[int]:
    return [rank.wait() for rank in ranks]


def records(uri: str, kind: str) -> list[dict[str, Any]]:
    store = open_objects(uri)
    lines = [line for key in store.list("metrics") for line in store.get(key).decode().splitlines()]
    return [record for line in lines if (record := json.loads(line))["kind"] == kind]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(
    server: RankServer, small_data: dict[str, str], tmp_path: Path, world_size: int
) -> None:
    # conv32-64: its gradients need more than one DDP bucket, whose order changes after the first iteration.
    parameters = SMALL | {"architecture": "conv32-64", "batchSize": 24}
    whole, broken = folder_checkpoint(tmp_path), folder_checkpoint(tmp_path)
    job = {"parameters": parameters, "data": small_data}
    assert codes(server.start_round(job | {"checkpoint": whole}, world_size=world_size)) == [0] * world_size

    choose = random.Random(world_size)
    restarts = 0
    for round in (1, 2, 3):
        ranks = server.start_round(job | {"checkpoint": broken}, world_size=world_size, round=round)
        if round < 3:
            ranks[0].wait_for_event("checkpoint")
            choose.choice(ranks).kill(signal.SIGKILL)
            ended = codes(ranks)
            assert -signal.SIGKILL in ended or ended == [0] * world_size
            assert set(ended) <= {-signal.SIGKILL, 72, 0}
            restarts += ended != [0] * world_size
    assert codes(ranks) == [0] * world_size
    assert restarts > 0
    assert_same_state(newest(whole), newest(broken))


def test_a_training_goes_on_with_another_number_of_ranks_and_no_sample_is_repeated_or_lost(
    server: RankServer, small_data: dict[str, str], checkpoint: dict[str, Any]
) -> None:
    job = {"parameters": SMALL, "data": small_data, "checkpoint": checkpoint}
    for round, world_size in enumerate((2, 3, 1), start=1):
        ranks = server.start_round(job, world_size=world_size, round=round)
        if round < 3:
            ranks[0].wait_for_event("step")
            ranks[-1].kill(signal.SIGTERM)
            assert set(codes(ranks)) <= {75, 0}
    assert codes(ranks) == [0]
    restored = newest(checkpoint)
    assert (restored.step, restored.samples) == (4 * STEPS_PER_EPOCH, 4 * 110)
    seen = [(record["step"], record["samples"]) for record in records(checkpoint["uri"], "train")]
    expected = [(e * 7 + i + 1, e * 110 + min(110, 16 * (i + 1))) for e in range(4) for i in range(7)]
    assert sorted(seen) == expected


def test_sigterm_on_one_rank_stops_all_after_the_same_step_with_a_checkpoint_of_it(
    server: RankServer, small_data: dict[str, str], tmp_path: Path
) -> None:
    checkpoint = folder_checkpoint(tmp_path, every_seconds=1000)
    job = {"parameters": SMALL | {"epochs": 100_000}, "data": small_data, "checkpoint": checkpoint}
    ranks = server.start_round(job, world_size=3)
    ranks[2].wait_for_event("step")
    ranks[1].kill(signal.SIGTERM)
    assert codes(ranks) == [75, 75, 75]
    assert newest(checkpoint).step == records(checkpoint["uri"], "train")[-1]["step"] > 0
    assert not any(rank.events("failed") for rank in ranks)


def test_a_rank_whose_peer_was_killed_while_it_drains_leaves_as_drained(
    server: RankServer, small_data: dict[str, str]
) -> None:
    ranks = server.start_round({"parameters": SMALL | {"epochs": 100_000}, "data": small_data}, world_size=2)
    ranks[1].wait_for_event("step")
    ranks[1].kill(signal.SIGSTOP)  # so that the agreement cannot be reached
    ranks[0].kill(signal.SIGTERM)
    ranks[1].kill(signal.SIGKILL)
    assert codes(ranks) == [75, -signal.SIGKILL]


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_the_peers_of_a_killed_rank_end_as_peer_lost_within_seconds(
    server: RankServer, small_data: dict[str, str], checkpoint: dict[str, Any], victim: int
) -> None:
    job = {"parameters": SMALL | {"epochs": 100_000}, "data": small_data, "checkpoint": checkpoint}
    ranks = server.start_round(job, world_size=3)
    for rank in ranks:
        rank.wait_for_event("step")
    ranks[victim].kill(signal.SIGKILL)
    for rank in ranks:
        if rank.rank != victim:
            assert rank.wait(5) == 72
            assert rank.events("failed")[-1]["outcome"] == "PeerLost"


def test_validation_and_test_measures_do_not_depend_on_the_number_of_ranks(
    server: RankServer, small_data: dict[str, str], tmp_path: Path
) -> None:
    first = folder_checkpoint(tmp_path)
    job = {"parameters": SMALL | {"epochs": 1}, "data": small_data}
    assert codes(server.start_round(job | {"checkpoint": first})) == [0]
    measures = []
    for world_size in (1, 3):
        ranks = server.start_round(
            job | {"checkpoint": folder_checkpoint(tmp_path), "resumeFrom": first["uri"]}, world_size=world_size
        )
        assert codes(ranks) == [0] * world_size
        measures.append(ranks[0].events("progress")[-1]["metrics"])
    assert measures[0] == pytest.approx(measures[1])
    parts, named = ("test", "validation"), ("Accuracy", "F1", "Loss", "Recall")
    assert measures[0].keys() == {part + name for part in parts for name in named}


def test_more_ranks_than_samples_in_the_last_batch_train_the_same_number_of_samples(
    server: RankServer, small_data: dict[str, str], checkpoint: dict[str, Any]
) -> None:
    job = {"parameters": SMALL | {"batchSize": 109, "epochs": 2}, "data": small_data, "checkpoint": checkpoint}
    assert codes(server.start_round(job, world_size=3)) == [0, 0, 0]  # the second batch has one sample for three ranks
    restored = newest(checkpoint)
    assert (restored.step, restored.samples) == (4, 220)


def test_a_loss_that_is_not_finite_is_told_once_and_never_written_as_a_number(
    server: RankServer, small_data: dict[str, str], checkpoint: dict[str, Any]
) -> None:
    parameters = SMALL | {"learningRate": 10, "schedule": "constant", "weightDecay": 1, "epochs": 60, "batchSize": 8}
    ranks = server.start_round({"parameters": parameters, "data": small_data, "checkpoint": checkpoint})
    ranks[0].wait(60)
    assert [event["reason"] for event in ranks[0].events("warning")] == ["LossNotFinite"]


def test_the_records_of_a_training_lie_in_the_store(
    server: RankServer, small_data: dict[str, str], checkpoint: dict[str, Any]
) -> None:
    assert codes(server.start_round({"parameters": SMALL, "data": small_data, "checkpoint": checkpoint})) == [0]
    train = records(checkpoint["uri"], "train")
    assert [record["step"] for record in train] == list(range(1, 4 * STEPS_PER_EPOCH + 1))
    assert {"epoch", "loss", "learningRate", "samples", "time"} <= train[0].keys()
    assert [record["epoch"] for record in records(checkpoint["uri"], "validation")] == [1, 2, 3, 4]
    assert [record["step"] for record in records(checkpoint["uri"], "test")] == [4 * STEPS_PER_EPOCH]


def test_a_training_on_s3_commits_and_a_second_job_resumes_from_it(
    server: RankServer, small_data: dict[str, str], s3_server: Any, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"AWS_ACCESS_KEY_ID": s3_server.access_key, "AWS_SECRET_ACCESS_KEY": s3_server.secret_key}
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    settings = {"everySeconds": 1, "keepLast": 2, "keepBest": 1}
    first, second = (settings | {"uri": f"s3://{s3_bucket}/{name}/"} for name in ("first", "second"))
    job = {"data": small_data, "objectStore": {"endpoint": s3_server.endpoint, "region": "us-east-1"}}
    ranks = server.start_round(job | {"parameters": SMALL, "checkpoint": first}, world_size=2, env=keys)
    assert codes(ranks) == [0, 0], ranks[0].log
    assert ranks[0].events("checkpoint")[-1]["step"] == 4 * STEPS_PER_EPOCH
    longer = {"parameters": SMALL | {"epochs": 5}, "checkpoint": second, "resumeFrom": first["uri"]}
    ranks = server.start_round(job | longer, env=keys)
    assert codes(ranks) == [0], ranks[0].log
    assert ranks[0].events("step")[0]["step"] == 4 * STEPS_PER_EPOCH + 1
    assert newest(second, s3_server.endpoint).step == 5 * STEPS_PER_EPOCH


def test_mnist_files_on_s3_are_read_and_a_damaged_one_is_refused_by_name(
    server: RankServer, small_data: dict[str, str], s3_server: Any, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"AWS_ACCESS_KEY_ID": s3_server.access_key, "AWS_SECRET_ACCESS_KEY": s3_server.secret_key}
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    uri = f"s3://{s3_bucket}/mnist"
    bucket = open_objects(uri, endpoint=s3_server.endpoint)
    for path in Path(small_data["uri"].removeprefix("file://")).iterdir():
        bucket.put(path.name, path.read_bytes())
    job = {"data": {"uri": uri}, "objectStore": {"endpoint": s3_server.endpoint}, "parameters": SMALL | {"epochs": 1}}
    ranks = server.start_round(job, world_size=2, env=keys)
    assert codes(ranks) == [0, 0], ranks[0].log
    whole = bucket.get("t10k-labels-idx1-ubyte.gz")
    bucket.put("t10k-labels-idx1-ubyte.gz", whole[:-9])
    ranks = server.start_round(job, env=keys)
    assert codes(ranks) == [64], ranks[0].log
    assert "t10k-labels-idx1-ubyte.gz" in ranks[0].events("failed")[0]["message"]


def test_the_first_progress_comes_with_the_first_step_and_the_last_with_the_test_measures(
    server: RankServer, small_data: dict[str, str]
) -> None:
    ranks = server.start_round({"parameters": SMALL, "data": small_data}, world_size=2)
    assert codes(ranks) == [0, 0]
    progress = ranks[0].events("progress")
    assert (progress[0]["step"], progress[0]["totalSteps"]) == (1, 4 * STEPS_PER_EPOCH)
    assert progress[-1]["step"] == 4 * STEPS_PER_EPOCH
    assert "testAccuracy" in progress[-1]["metrics"]
    assert not ranks[1].events("progress")
