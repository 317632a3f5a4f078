"""Ranks whose pod has no memory for a copy of the state: they train on, wait for each upload, and end with the same."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ranks import RankServer

from .conftest import assert_same_state, folder_checkpoint, newest

SMALL = {"architecture": "conv8", "epochs": 3, "batchSize": 16, "logEverySteps": 1}


@pytest.fixture(scope="module")
def full_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankServer]:
    """Its ranks see no memory that is free, and hand a restored state on in small pieces."""
    prelude = """
import dlcloud_trainer.checkpoint.memory as memory, dlcloud_trainer.distributed as distributed
memory.MARGIN, distributed.PIECE_BYTES = 1 << 60, 4096
"""
    with RankServer(tmp_path_factory.mktemp("full"), prelude=prelude) as running:
        yield running


@pytest.mark.parametrize("world_size", [2])
def test_saves_that_keep_training_waiting_change_nothing_of_it(
    server: RankServer, full_server: RankServer, small_data: dict[str, str], tmp_path: Path, world_size: int
) -> None:
    job = {"parameters": SMALL, "data": small_data}
    roomy, full = folder_checkpoint(tmp_path), folder_checkpoint(tmp_path)
    ranks = server.start_round(job | {"checkpoint": roomy}, world_size=world_size)
    assert [rank.wait() for rank in ranks] == [0] * world_size

    ranks = full_server.start_round(job | {"checkpoint": full}, world_size=world_size)
    saved = ranks[0].wait_for_event("checkpoint")
    ranks[-1].kill(signal.SIGKILL)
    for rank in ranks:
        rank.wait()
    again = full_server.start_round(job | {"checkpoint": full}, world_size=world_size, round=2)
    assert [rank.wait() for rank in again] == [0] * world_size

    steps = [event["step"] for rank in (ranks[0], again[0]) for event in rank.events("checkpoint")]
    assert saved["step"] < steps[-1] == 21 and len(steps) > 2
    assert [event["reason"] for event in again[0].events("warning")] == ["CheckpointBlocks"]
    assert_same_state(newest(roomy), newest(full))


def test_saves_that_keep_training_waiting_are_as_rare_as_others(
    full_server: RankServer, small_data: dict[str, str], tmp_path: Path
) -> None:
    checkpoint: dict[str, Any] = folder_checkpoint(tmp_path, every_seconds=86_400) | {"keepBest": 0}
    ranks = full_server.start_round({"parameters": SMALL, "data": small_data, "checkpoint": checkpoint}, world_size=2)
    assert [rank.wait() for rank in ranks] == [0, 0]
    assert [event["step"] for event in ranks[0].events("checkpoint")] == [21]
