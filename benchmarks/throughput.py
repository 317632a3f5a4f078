"""Samples per second and memory of every built-in workload beside the same training in a plain PyTorch script.

`python -m benchmarks.throughput [--workloads mlp rnn] [--runs 5] [--ranks 1 2] [--threads 1]`: both train on the same
data with as many threads per rank, in turn, on 1 rank and on 2 (DDP in both); a value is one run, without its first
epoch and without evaluation. The workload writes its records meanwhile. Memory is the largest resident size of a rank's
process: a workload's rank measures and saves its model as well, which the script does not.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.common import machine_line
from benchmarks.ranks import RankServer, free_port
from benchmarks.trainings import TRAININGS, Training

GOAL = 0.97  # of the plain script, on one rank
LIMIT_S = 1800


@dataclass(frozen=True)
class Run:
    """Samples per second of a training, and MiB of its largest process."""

    speed: float
    peak: float


@dataclass
class Pair:
    """The runs of one training on so many ranks."""

    training: Training
    ranks: int
    threads: int
    ours: list[Run] = field(default_factory=list)
    plain: list[Run] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Of the median speeds."""
        return _median(self.ours, "speed") / _median(self.plain, "speed")

    def speed_row(self) -> str:
        """A row of the table of speeds."""
        cells = [_spread([run.speed for run in runs], 1) for runs in (self.ours, self.plain)]
        goal = f">= {GOAL}" if self.ranks == 1 else ""
        cells += [f"{self.ratio:.3f}", goal, str(len(self.ours))]
        return f"| {self.training.name} | {self.ranks} | {' | '.join(cells)} |"

    def memory_row(self) -> str:
        """A row of the table of memory."""
        cells = [_spread([run.peak for run in runs], 0) for runs in (self.ours, self.plain)]
        ratio = _median(self.ours, "peak") / _median(self.plain, "peak")
        return f"| {self.training.name} | {self.ranks} | {' | '.join(cells)} | {ratio:.2f} | {len(self.ours)} |"

    def step_line(self) -> str:
        """Milliseconds of a step beside their goal."""
        ours, plain = ([1000 * self.training.batch / run.speed for run in runs] for runs in (self.ours, self.plain))
        return (
            f"- {self.training.name}, batch {self.training.batch}, {self.ranks} rank(s) of {self.threads} thread(s): "
            f"{_spread(ours, 1)} ms a step (goal on one rank: at most {self.training.step_goal_ms:.0f}), plain script "
            f"{_spread(plain, 1)} ms"
        )


def ours(server: RankServer, training: Training, uri: str, folder: Path, ranks: int, threads: int) -> Run:
    """One run of the workload, by the times of its records."""
    checkpoint = {"uri": f"file://{folder}/", "everySeconds": 86400, "keepLast": 1, "keepBest": 0}
    parameters = {**training.parameters, "epochs": training.epochs, "logEverySteps": training.log_every}
    job = {"workload": training.workload, "data": {"uri": uri}, "parameters": parameters, "checkpoint": checkpoint}
    started = server.start_round(job, world_size=ranks, threads=threads)
    if any(rank.wait(LIMIT_S) for rank in started):
        raise SystemExit(started[0].log)
    lines = [line for part in sorted(folder.rglob("*.jsonl")) for line in part.read_text().splitlines()]
    records = [record for line in lines if (record := json.loads(line))["kind"] == "train"]
    seconds = samples = 0.0
    for epoch in range(2, training.epochs + 1):
        of_epoch = [record for record in records if record["epoch"] == epoch]
        # The last record of an epoch is written one step later, after the evaluation: leave it out.
        first, last = of_epoch[0], of_epoch[-2]
        seconds += (_time(last) - _time(first)).total_seconds()
        samples += last["samples"] - first["samples"]
    return Run(samples / seconds, max(rank.peak_mib for rank in started))


def _time(record: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(record["time"])


def plain(training: Training, tensors: Path, ranks: int, threads: int) -> Run:
    """One run of the plain script."""
    env = os.environ | {"OMP_NUM_THREADS": str(threads), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", training.script, tensors, str(training.epochs), training.kind],
            env=env | {"RANK": str(rank), "WORLD_SIZE": str(ranks)},
            stdout=subprocess.PIPE,
            start_new_session=True,  # as our ranks: Linux shares out a busy processor by session
        )
        for rank in range(ranks)
    ]
    outputs = [process.communicate(timeout=LIMIT_S)[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("the plain script failed")
    told = [json.loads(output) for output in outputs]
    return Run(told[0]["samplesPerSecond"], max(one["peakMiB"] for one in told))


def measure(training: Training, ranks: Sequence[int], threads: int, runs: int) -> list[Pair]:
    """All runs of one training, ours and the script's in turn."""
    pairs = [Pair(training, number, threads) for number in ranks]
    prelude = f"import dlcloud_trainer.workloads.{training.workload}"
    env = {"OMP_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as name, RankServer(Path(name), env, prelude) as server:
        data = Path(name) / "data"
        data.mkdir()
        uri, tensors = training.write(data)
        for pair in pairs:
            for run in range(runs):
                folder = Path(name) / f"{pair.ranks}-{run}"
                pair.ours.append(ours(server, training, uri, folder, pair.ranks, threads))
                pair.plain.append(plain(training, tensors, pair.ranks, threads))
            sys.stderr.write(f"{pair.speed_row()}\n")
    return pairs


def _median(runs: Sequence[Run], what: str) -> float:
    return statistics.median(getattr(run, what) for run in runs)


def _spread(values: Sequence[float], digits: int) -> str:
    middle, least, most = (f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values)))
    return f"{middle} ({least} to {most})"


def main() -> None:
    workloads = list(dict.fromkeys(training.workload for training in TRAININGS))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", choices=workloads, default=workloads, help="which (default: all)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each (default 5)")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="numbers of ranks (default 1 2)")
    parser.add_argument("--threads", type=int, default=1, help="threads of each rank (default 1)")
    chosen = parser.parse_args()

    before = os.getloadavg()[1]
    trainings = [training for training in TRAININGS if training.workload in chosen.workloads]
    pairs = [pair for training in trainings for pair in measure(training, chosen.ranks, chosen.threads, chosen.runs)]
    print("\n### Throughput and memory beside plain scripts\n")
    print(f"{machine_line()}; load {before:.1f} before; {chosen.threads} thread(s) a rank\n")
    print("Samples per second, median (least to most):\n")
    print(
        "| workload | ranks | dlcloud | plain script | ratio | goal | n |\n| --- | --- | --- | --- | --- | --- | --- |"
    )
    print("\n".join(pair.speed_row() for pair in pairs))
    print("\nLargest resident size of a rank's process, MiB:\n")
    print("| workload | ranks | dlcloud | plain script | ratio | n |\n| --- | --- | --- | --- | --- | --- |")
    print("\n".join(pair.memory_row() for pair in pairs) + "\n")
    print("\n".join(pair.step_line() for pair in pairs if pair.training.step_goal_ms))


if __name__ == "__main__":
    main()
