"""The trainings that benchmarks.throughput measures: each built-in workload's job, and the data it makes for it.

The data lies in a folder as the trainer's readers take it; the plain scripts get the same training part as tensors.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pyarrow import parquet

from dlcloud_trainer.assignment import StoreAddress
from dlcloud_trainer.data.digits import load_digits
from dlcloud_trainer.parameters import parse_parameters
from dlcloud_trainer.workloads import find_workload

WORDS = 12_000  # in made texts; a vocabulary of 10,000 is full
TEST = 60  # samples of what is only measured after the training
Files = dict[str, bytes]


@dataclass(frozen=True)
class Training:
    """One training of `epochs`, of which the first is not counted; `kind` is for the plain script, where it has several
    models. All else must be what the script says itself."""

    name: str
    workload: str
    make: Callable[[], Files]
    epochs: int
    parameters: dict[str, Any] = field(default_factory=dict)
    kind: str = ""
    log_every: int = 1
    batch: int = 64
    step_goal_ms: float | None = None

    @property
    def script(self) -> str:
        """The module that is the same training in plain PyTorch."""
        return f"benchmarks.peers.plain_{self.workload}"

    def write(self, folder: Path) -> tuple[str, Path]:
        """The data's URI, and the file for the plain script: its training part as tensors."""
        for name, content in self.make().items():
            (folder / name).write_bytes(content)
        uri, tensors = f"file://{folder}", folder.with_suffix(".pt")
        workload = find_workload(self.workload)
        data = workload.load_data(uri, StoreAddress(), parse_parameters(workload, self.parameters))
        torch.save(list(data.train), tensors)
        return uri, tensors


def digits(count: int) -> Files:
    """builtin://digits in MNIST's files, again and again until there are `count` to train on and to set aside."""
    images, labels = load_digits().train
    chosen = torch.arange(count) % len(images)
    files: Files = {}
    for stem, indices in (("train", chosen), ("t10k", chosen[:TEST])):
        header = struct.pack(">HBB3I", 0, 8, 3, len(indices), 28, 28)
        files[f"{stem}-images-idx3-ubyte"] = header + images[indices].numpy().tobytes()
        values = labels[indices].to(torch.uint8).numpy().tobytes()
        files[f"{stem}-labels-idx1-ubyte"] = struct.pack(">HBBI", 0, 8, 1, len(indices)) + values
    return files


def colours(count: int) -> Files:
    """Noise in the files of CIFAR-10's binary version."""
    random = np.random.RandomState(0)
    files: Files = {}
    for name, records in (
        *((f"data_batch_{number}.bin", count // 5) for number in range(1, 6)),
        ("test_batch.bin", TEST),
    ):
        labels = np.arange(records)[:, None] % 10
        files[name] = np.hstack([labels, random.randint(0, 256, (records, 3072))]).astype(np.uint8).tobytes()
    return files


def reviews(count: int, shortest: int, longest: int) -> Files:
    """Texts of words without meaning, each as likely as the others, in Parquet."""
    random = np.random.RandomState(0)
    files: Files = {}
    for part, texts in (("train", count), ("test", TEST)):
        lengths = random.randint(shortest, longest + 1, texts)
        words = [" ".join(f"w{number}" for number in random.randint(0, WORDS, length)) for length in lengths]
        held = io.BytesIO()
        parquet.write_table(pa.table({"text": words, "label": [index % 2 for index in range(texts)]}), held)
        files[f"{part}.parquet"] = held.getvalue()
    return files


TRAININGS = (
    Training("mlp", "mlp", lambda: digits(20_000), epochs=5, log_every=10),
    Training("cnn", "cnn", lambda: digits(1_200), epochs=3),
    Training(
        "cifar, batch 128", "cifar", lambda: colours(840), epochs=2, parameters={"batchSize": 128}, batch=128
    ),
    Training(
        "rnn lstm, 200 words",
        "rnn",
        lambda: reviews(1_200, 200, 210),
        epochs=3,
        parameters={"preset": "faithful", "length": 200, "pooling": "last", "patience": 0},
        kind="lstm",
        batch=32,
        step_goal_ms=65,
    ),
    Training("rnn rows", "rnn", lambda: digits(3_000), epochs=3, parameters={"kind": "rows"}, kind="rows"),
    Training(
        "rnn bigrams", "rnn", lambda: reviews(2_800, 100, 1_000), epochs=3, parameters={"kind": "bigrams"},
        kind="bigrams", batch=256,
    ),
    Training("gan dcgan", "gan", lambda: digits(576), epochs=2, kind="dcgan"),
    Training("gan wgan-gp", "gan", lambda: digits(400), epochs=2, parameters={"kind": "wgan-gp"}, kind="wgan-gp"),
    Training("vae", "vae", lambda: digits(10_000), epochs=3),
)  # fmt: skip
