"""Samples per second of the built-in cnn beside the same model in a plain single-file PyTorch script.

Both train on builtin://digits with one thread per rank, in turn, on 1 rank and on 2 (DDP in both); each value is one
run, without its first epoch and without evaluation. The cnn writes all its records meanwhile. `python -m
benchmarks.throughput --runs 5`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

from benchmarks.common import Figure, print_table
from benchmarks.ranks import RankServer, free_port

PEER = Path(__file__).parent / "peers" / "plain_cnn.py"


def ours(server: RankServer, folder: Path, ranks: int, epochs: int) -> float:
    """One run of the workload, by the times of its records."""
    checkpoint = {"uri": f"file://{folder}/", "everySeconds": 86400, "keepLast": 1, "keepBest": 0}
    job = {"parameters": {"epochs": epochs, "logEverySteps": 1}, "checkpoint": checkpoint}
    started = server.start_round(job, world_size=ranks)
    if any(rank.wait(600) for rank in started):
        raise SystemExit(started[0].log)
    lines = [line for part in sorted(folder.rglob("*.jsonl")) for line in part.read_text().splitlines()]
    records = [record for line in lines if (record := json.loads(line))["kind"] == "train"]
    seconds = samples = 0.0
    for epoch in range(2, epochs + 1):
        of_epoch = [record for record in records if record["epoch"] == epoch]
        # The last record of an epoch is written one step later, after the evaluation: leave it out.
        first, last = of_epoch[0], of_epoch[-2]
        seconds += (_time(last) - _time(first)).total_seconds()
        samples += last["samples"] - first["samples"]
    return samples / seconds


def _time(record: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(record["time"])


def plain(ranks: int, epochs: int) -> float:
    """One run of the plain script."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    processes = [
        subprocess.Popen(
            [sys.executable, str(PEER), str(epochs)],
            env=env | {"RANK": str(rank), "WORLD_SIZE": str(ranks)},
            stdout=subprocess.PIPE,
        )
        for rank in range(ranks)
    ]
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("the plain script failed")
    return float(outputs[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="runs of each (default 5)")
    parser.add_argument(
        "--epochs", type=int, default=4, help="epochs of a run, of which the first is not counted (default 4)"
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="numbers of ranks (default 1 2)")
    chosen = parser.parse_args()

    figures: list[Figure] = []
    summary: list[str] = []
    with tempfile.TemporaryDirectory() as name, RankServer(Path(name)) as server:
        for ranks in chosen.ranks:
            values: dict[str, list[float]] = {"cnn": [], "plain": []}
            for run in range(chosen.runs):
                values["cnn"].append(ours(server, Path(name) / f"{ranks}-{run}", ranks, chosen.epochs))
                values["plain"].append(plain(ranks, chosen.epochs))
            figures.append(Figure(f"cnn under dlcloud, {ranks} ranks", "samples/s", values["cnn"]))
            figures.append(Figure(f"plain PyTorch script, {ranks} ranks", "samples/s", values["plain"]))
            ratio = statistics.median(values["cnn"]) / statistics.median(values["plain"])
            summary.append(f"{ranks} ranks: {ratio:.3f} of the plain script (medians)")
    print_table("Throughput of cnn", figures)
    print("\n" + "\n".join(summary))


if __name__ == "__main__":
    main()
