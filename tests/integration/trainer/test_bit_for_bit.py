"""Killed and resumed is uninterrupted, bit for bit: weights, optimiser, ledger and records, with one to four ranks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.ranks import RankServer
from dlcloud_trainer.objects import open_objects

from .breaking import PRELUDE, Kill, assert_same_training, choose_kills, train_broken, train_whole
from .conftest import folder_checkpoint, newest

pytestmark = pytest.mark.timeout(300)
PARAMETERS = {"batchSize": 24, "logEverySteps": 1}  # 5 steps an epoch
# Its gradients need more than one DDP bucket, whose order changes after the first iteration: seen from 3 ranks on.
BUCKETS = {"architecture": "conv32-64"}
SMALL = {"architecture": "conv8"}


@pytest.fixture(scope="module")
def breakable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankServer]:
    with RankServer(tmp_path_factory.mktemp("ranks"), prelude=PRELUDE) as running:
        yield running


def compare(
    server: RankServer,
    data: dict[str, str],
    tmp_path: Path,
    world_size: int,
    kills: list[Kill],
    parameters: dict[str, object],
) -> None:
    """Train once whole and once broken, and compare."""
    whole, broken = folder_checkpoint(tmp_path), folder_checkpoint(tmp_path)
    job = {"parameters": PARAMETERS | parameters, "data": data}
    train_whole(server, job | {"checkpoint": whole}, world_size)
    met = train_broken(server, job | {"checkpoint": broken}, world_size, kills)
    assert met == len(kills), "the training was over before the last kill: make it longer"
    stores = (open_objects(saved["uri"]) for saved in (whole, broken))
    assert_same_training(newest(whole), newest(broken), *stores)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_killed_at_a_handful_of_moments(
    breakable: RankServer, small_data: dict[str, str], tmp_path: Path, world_size: int
) -> None:
    kills = choose_kills(seed=world_size, number=5, world_size=world_size)
    parameters = {**BUCKETS, "epochs": 11} if world_size > 2 else {**SMALL, "epochs": 25}
    compare(breakable, small_data, tmp_path, world_size, kills, parameters)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_killed_at_twenty_moments(
    breakable: RankServer, small_data: dict[str, str], tmp_path: Path, world_size: int
) -> None:
    kills = choose_kills(seed=100 + world_size, number=20, world_size=world_size, most_steps=12)
    compare(breakable, small_data, tmp_path, world_size, kills, {**BUCKETS, "epochs": 60})
