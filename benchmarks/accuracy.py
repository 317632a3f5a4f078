"""Test accuracy of the built-in cnn with its defaults on builtin://digits, over several seeds.

Real ranks (no operator), one after another: `python -m benchmarks.accuracy --seeds 5 --ranks 2`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.common import machine_line
from benchmarks.ranks import RankServer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 to N - 1 (default 5)")
    parser.add_argument("--ranks", type=int, default=2, help="processes that train together (default 2)")
    parser.add_argument("--data", default="builtin://digits", help="data.uri (default builtin://digits)")
    parser.add_argument("--epochs", type=int, help="instead of the default of cnn")
    parser.add_argument("--architecture", default="conv32-64")
    chosen = parser.parse_args()

    parameters = {"architecture": chosen.architecture} | ({"epochs": chosen.epochs} if chosen.epochs else {})
    accuracies: dict[int, float] = {}
    print(machine_line(), flush=True)
    with tempfile.TemporaryDirectory() as folder, RankServer(Path(folder)) as server:
        for seed in range(chosen.seeds):
            job = {"parameters": parameters | {"seed": seed}, "data": {"uri": chosen.data}}
            began = time.monotonic()
            ranks = server.start_round(job, world_size=chosen.ranks)
            codes = [rank.wait(3600) for rank in ranks]
            if any(codes):
                raise SystemExit(f"seed {seed}: exit codes {codes}\n{ranks[0].log}")
            metrics = ranks[0].events("progress")[-1]["metrics"]
            accuracies[seed] = metrics["testAccuracy"]
            print(
                f"seed {seed}: test {metrics['testAccuracy']:.4f}, validation {metrics['validationAccuracy']:.4f}, "
                f"{time.monotonic() - began:.1f} s",
                flush=True,
            )
    worst = min(accuracies, key=accuracies.__getitem__)
    spread = statistics.stdev(accuracies.values()) if len(accuracies) > 1 else 0.0
    print(
        f"test accuracy on {chosen.data}: mean {statistics.mean(accuracies.values()):.4f}, deviation {spread:.4f}, "
        f"worst {accuracies[worst]:.4f} (seed {worst}), n = {len(accuracies)}"
    )


if __name__ == "__main__":
    main()
