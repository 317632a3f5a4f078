"""Real ranks, a small data set in MNIST's files, and a reader of what a training left behind."""

from __future__ import annotations

import gzip
import secrets
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.ranks import RankServer
from dlcloud_trainer.checkpoint import Checkpointer, CheckpointSettings, Restored


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankServer]:
    with RankServer(tmp_path_factory.mktemp("ranks")) as running:
        yield running


def write_mnist(folder: Path, train: int, test: int) -> str:
    """Images whose bright row tells the class, in the four files; returns the folder's URI."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.RandomState(7)
    for name, count in (("train", train), ("t10k", test)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        images = random.randint(0, 60, (count, 28, 28)).astype(np.uint8)
        images[np.arange(count), 2 * labels + 4] = 255
        (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(
            gzip.compress(struct.pack(">4I", 0x803, count, 28, 28) + images.tobytes())
        )
        (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(
            gzip.compress(struct.pack(">2I", 0x801, count) + labels.tobytes())
        )
    return f"file://{folder}"


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """110 training and 10 validation images, 20 for the test."""
    return {"uri": write_mnist(tmp_path_factory.mktemp("mnist"), 120, 20)}


@pytest.fixture
def checkpoint(tmp_path: Path) -> dict[str, Any]:
    return folder_checkpoint(tmp_path)


def folder_checkpoint(tmp_path: Path, every_seconds: float = 0.05) -> dict[str, Any]:
    """A job's prefix of its own, saved to as often as uploads allow."""
    return {
        "uri": f"file://{tmp_path}/{secrets.token_hex(4)}/",
        "everySeconds": every_seconds,
        "keepLast": 3,
        "keepBest": 1,
    }


def newest(checkpoint: dict[str, Any], endpoint: str = "") -> Restored:
    """The last committed state, read as a far later round would."""
    settings = CheckpointSettings(checkpoint["uri"], endpoint=endpoint, round=9999, nonce=secrets.token_hex(4))
    reader = Checkpointer(settings, on_commit=lambda commit: None, on_warning=lambda reason, message: None)
    restored = reader.take_over()
    reader.close()
    assert restored is not None
    return restored


def assert_same_state(one: Restored, other: Restored) -> None:
    """Every tensor and every number, bit for bit."""
    assert (one.step, one.samples) == (other.step, other.samples)
    assert one.tensors.keys() == other.tensors.keys()
    for name, tensor in one.tensors.items():
        difference = (tensor.double() - other.tensors[name].double()).abs().max()
        assert torch.equal(tensor, other.tensors[name]), f"{name} differs by {difference}"
    assert one.state == other.state
