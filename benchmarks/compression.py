"""What compression saves and costs: size, latency and accuracy of exported models.

`python -m benchmarks.compression [--data URI] [--seeds 3] [--epochs 6] [--work FOLDER]`: trains with one rank each,
exports, measures the ONNX files in onnxruntime (CPU, batch of one, one thread) on the whole test set, and prints the
table of docs/workloads/compression.md. What a folder already holds is not trained again.
"""

from __future__ import annotations

import argparse
import gzip
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dlcloud_trainer.assignment import StoreAddress
from dlcloud_trainer.data import load_grey_images
from dlcloud_trainer.export.handover import INT8, ONNX, accuracy
from dlcloud_trainer.export.onnx_file import Runner
from dlcloud_trainer.export.quantizing import quantize_dynamic
from dlcloud_trainer.parameters import TrainingParameters

from .common import machine_line
from .ranks import RankServer

LIMIT_S = 3600.0
WARM, RUNS, ROUNDS = 50, 300, 5
CNN = {"architecture": "conv32-64"}
SMALL = {"architecture": "conv8"}
ROWS = {"kind": "rows"}


@dataclass(frozen=True)
class Variant:
    """One model: a job, and which of its files; `dynamic` quantises that one here. `base` is compared with."""

    name: str
    base: str
    job: str
    file: str = ONNX
    dynamic: bool = False


@dataclass(frozen=True)
class Measured:
    """Of one seed: bytes as written and packed by gzip, milliseconds, and the part that is right."""

    size: int
    packed: int
    latency_ms: float
    accuracy: float


def jobs(epochs: int, teacher: str) -> dict[str, dict[str, Any]]:
    """Workload, parameters and export of every training, by name."""
    usual, longer = {"epochs": epochs}, {"epochs": 5 * epochs}  # a small model needs more of them
    prune = {"fraction": 0.8, "structured": False, "epochs": 2}
    channels = {"fraction": 0.5, "structured": True, "epochs": 2}
    return {
        "cnn": job("cnn", {**CNN, **usual}, quantize="static"),
        "sparse": job("cnn", {**CNN, **usual}, prune=prune),
        "channels": job("cnn", {**CNN, **usual}, prune=channels, quantize="static"),
        "small": job("cnn", {**SMALL, **longer}, quantize="static"),
        "taught": job(
            "cnn",
            {**SMALL, **longer},
            quantize="static",
            distill={"teacher": teacher, "temperature": 4.0, "weight": 0.7},
        ),
        "rows": job("rnn", {**ROWS, **usual}, quantize="dynamic"),
    }


VARIANTS = (
    Variant("`cnn` conv32-64, float32", "cnn", "cnn"),
    Variant("static int8", "cnn", "cnn", INT8),
    Variant("dynamic int8 (dense layers alone)", "cnn", "cnn", dynamic=True),
    Variant("80 % of the weights pruned", "cnn", "sparse"),
    Variant("half of the channels pruned", "cnn", "channels"),
    Variant("half of the channels pruned, static int8", "cnn", "channels", INT8),
    Variant("`cnn` conv8, float32", "cnn", "small"),
    Variant("conv8, distilled from conv32-64", "cnn", "taught"),
    Variant("conv8, distilled, static int8", "cnn", "taught", INT8),
    Variant("`rnn` rows, float32", "rows", "rows"),
    Variant("dynamic int8", "rows", "rows", INT8),
)


def job(workload: str, parameters: dict[str, Any], **export: Any) -> dict[str, Any]:
    """Fields of an assignment's job."""
    asked = {"onnx": True, "quantize": "none", "prune": None, "distill": None} | export
    return {"workload": workload, "parameters": parameters, "export": asked}


def train(server: RankServer, work: Path, uri: str, seed: int, epochs: int) -> None:
    """All jobs of one seed, those that are not there."""
    folder = work / f"seed-{seed}"
    for name, fields in jobs(epochs, f"file://{folder}/cnn/").items():
        if (folder / name / "export" / "model-card.json").exists():
            continue
        saved = {"uri": f"file://{folder}/{name}/", "everySeconds": 600, "keepLast": 1, "keepBest": 0}
        given = {**fields, "parameters": {**fields["parameters"], "seed": seed}}
        began = time.monotonic()
        [rank] = server.start_round({**given, "data": {"uri": uri}, "checkpoint": saved})
        if rank.wait(LIMIT_S) != 0:
            raise RuntimeError(f"{name}, seed {seed}: {rank.log}")
        print(f"seed {seed}: {name} in {time.monotonic() - began:.0f} s", flush=True)


def measure(variant: Variant, folder: Path, test: tuple[torch.Tensor, ...]) -> Measured:
    """One model file."""
    path = folder / variant.job / "export" / variant.file
    if variant.dynamic:
        target = folder / "dynamic.onnx"
        quantize_dynamic(path, target)
        path = target
    run = Runner(path)
    data = path.read_bytes()
    return Measured(len(data), len(gzip.compress(data)), latency_ms(run, test[0]), accuracy(run, test))


def latency_ms(run: Runner, images: torch.Tensor) -> float:
    """The median over single images, in the quietest of some rounds: other programs only ever make it slower."""
    singles = [(images[index : index + 1],) for index in range(min(RUNS, len(images)))]
    for single in singles[:WARM]:
        run(single)
    rounds = []
    for _ in range(ROUNDS):
        times = []
        for single in singles:
            began = time.perf_counter()
            run(single)
            times.append(time.perf_counter() - began)
        rounds.append(statistics.median(times))
    return 1000 * min(rounds)


def row(variant: Variant, found: list[Measured], base: list[Measured]) -> str:
    """Size, latency, accuracy and what of it is lost, as means over the seeds with the accuracy's range."""
    right = [100 * one.accuracy for one in found]
    lost = [100 * (b.accuracy - one.accuracy) for one, b in zip(found, base, strict=True)]
    latency = statistics.mean(one.latency_ms for one in found)
    cells = (
        variant.name,
        f"{statistics.mean(one.size for one in found) / 1000:,.0f}",
        f"{statistics.mean(one.packed for one in found) / 1000:,.0f}",
        f"{latency:.3f}",
        f"{statistics.mean(right):.2f} ({min(right):.2f} to {max(right):.2f})",
        f"{statistics.mean(lost):+.2f}",
    )
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Train, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compression", description=__doc__)
    parser.add_argument("--data", default="builtin://digits", help="URI of grey images")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--work", type=Path, help="folder for what is trained [default: a temporary one]")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    test = load_grey_images(options.data, StoreAddress(), TrainingParameters()).test
    with tempfile.TemporaryDirectory() as temporary:
        work = (options.work or Path(temporary)).absolute()
        work.mkdir(parents=True, exist_ok=True)
        with RankServer(Path(temporary)) as server:
            for seed in range(options.seeds):
                train(server, work, options.data, seed, options.epochs)
        found = {
            variant: [measure(variant, work / f"seed-{seed}", test) for seed in range(options.seeds)]
            for variant in VARIANTS
        }
    by_job = {variant.job: values for variant, values in found.items() if variant.file == ONNX and not variant.dynamic}
    print(f"\n{options.data}, {len(test[0]):,} test images, n = {options.seeds}; {machine_line()}\n")
    print("| model | KB | KB packed | ms an image | test accuracy, % (range) | lost, points |")
    print("| --- | --- | --- | --- | --- | --- |")
    for variant, values in found.items():
        print(row(variant, values, by_job[variant.base]))


if __name__ == "__main__":
    main()
