"""Test accuracy (or another measure) of the built-in workloads over several seeds, each goal beside it.

Real ranks (no operator), one training after another: `python -m benchmarks.accuracy --mnist file:///data/mnist --imdb
file:///data/imdb`. What is in the results file (--results) is not trained again, so it may be broken off and
started again; `--write docs/benchmarks.md` puts the table there. Nothing is chosen by the test set.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common import machine_line, write_between
from benchmarks.ranks import RankServer

LIMIT_S = 6 * 3600
PERCENT = 100.0


@dataclass(frozen=True)
class Case:
    """One row of the table. `data` is the option that says where it lies; `unit` is % for a part of 1."""

    name: str
    workload: str
    data: str
    goal: str
    parameters: dict[str, Any] = field(default_factory=dict)
    measure: str = "testAccuracy"
    unit: str = "%"

    def shown(self, value: float) -> str:
        """A value as in the table."""
        return f"{value * PERCENT:.2f} %" if self.unit == "%" else f"{value:.2f} {self.unit}"


CASES = (
    Case("digits-cnn", "cnn", "digits", "98 %"),
    Case("digits-mlp", "mlp", "digits", ""),
    Case("mlp-faithful", "mlp", "mnist", "97.8 %", {"preset": "faithful"}),
    Case("mlp-best", "mlp", "mnist", "98.5 %", {"preset": "best"}),
    Case("cnn-faithful", "cnn", "mnist", "99.2 %", {"preset": "faithful"}),
    Case("cnn-best", "cnn", "mnist", "99.6 %", {"preset": "best"}),
    Case(
        "cnn-small",
        "cnn",
        "mnist",
        "99.4 %",
        {"architecture": "small", "batchSize": 128, "learningRate": 0.01, "epochs": 30, "ema": 0.998},
    ),
    Case("rnn-faithful", "rnn", "imdb", "87 %", {"preset": "faithful"}),
    Case("rnn-best", "rnn", "imdb", "88.5 %", {"preset": "best"}),
    Case("rnn-bigrams", "rnn", "imdb", "90 %", {"kind": "bigrams"}),
    Case("vae-best", "vae", "mnist", "105 nats", {"preset": "best"}, "testLoss", "nats"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", help=f"which of {', '.join(case.name for case in CASES)} (default: all)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0 to N - 1 (default 3)")
    parser.add_argument("--ranks", type=int, default=2, help="processes that train together (default 2)")
    parser.add_argument("--mnist", help="URI of MNIST's four files")
    parser.add_argument("--imdb", help="URI of the movie reviews, as aclImdb or Parquet")
    parser.add_argument("--results", type=Path, default=Path("accuracy.json"), help="kept here (default accuracy.json)")
    parser.add_argument(
        "--keep", type=Path, help="a folder for checkpoints: a training that is broken off goes on from there"
    )
    parser.add_argument("--write", type=Path, help="a Markdown file whose part between two marks becomes the table")
    chosen = parser.parse_args()
    unknown = set(chosen.cases) - {case.name for case in CASES}
    if unknown:
        parser.error(f"there is no case {', '.join(sorted(unknown))}")

    where = {"digits": "builtin://digits", "mnist": chosen.mnist, "imdb": chosen.imdb}
    results: dict[str, dict[str, Any]] = json.loads(chosen.results.read_text()) if chosen.results.exists() else {}
    print(machine_line(), flush=True)
    with tempfile.TemporaryDirectory() as folder, RankServer(Path(folder)) as server:
        for case in CASES:
            if chosen.cases and case.name not in chosen.cases:
                continue
            if not where[case.data]:
                print(f"{case.name}: skipped, give --{case.data}")
                continue
            for seed in range(chosen.seeds):
                key = f"{case.name}/{seed}"
                settings = {"parameters": {**case.parameters, "seed": seed}, "ranks": chosen.ranks}
                if results.get(key, {}).get("settings") != settings:
                    place = chosen.keep / f"{case.name}-{seed}" if chosen.keep else None
                    results[key] = {**train(server, case, where[case.data], settings, place), "settings": settings}
                    chosen.results.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
                one = results[key]
                print(f"{key}: {case.shown(one['metrics'][case.measure])}, {one['seconds']:.0f} s", flush=True)
    text = table(results)
    print("\n" + text)
    if chosen.write is not None:
        write_between(chosen.write, "accuracy", text)


def train(
    server: RankServer, case: Case, uri: str, settings: dict[str, Any], place: Path | None = None
) -> dict[str, Any]:
    """One training to its end, with checkpoints where `place` is given; the seconds are those of this round."""
    job: dict[str, Any] = {"workload": case.workload, "parameters": settings["parameters"], "data": {"uri": uri}}
    if place is not None:
        place.mkdir(parents=True, exist_ok=True)
        job["checkpoint"] = {"uri": f"file://{place.resolve()}/", "everySeconds": 60, "keepLast": 1, "keepBest": 0}
    began = time.monotonic()
    # A round's number is higher than those before, which may have been another process's.
    ranks = server.start_round(job, world_size=settings["ranks"], round=int(time.time()), initS=600)
    codes = [rank.wait(LIMIT_S) for rank in ranks]
    if any(codes):
        raise SystemExit(f"{case.name}: exit codes {codes}\n{ranks[0].log}")
    last = ranks[0].events("progress")[-1]
    return {
        "metrics": last["metrics"],
        "epochs": last["epochs"],
        "seconds": time.monotonic() - began,
        "machine": machine_line(),
    }


def table(results: dict[str, dict[str, Any]]) -> str:
    """All that is known, as Markdown."""
    lines = ["| what | test set, mean | deviation | worst | goal | epochs | s a run | n |", "| --- " * 8 + "|"]
    machines: set[str] = set()
    for case in CASES:
        runs = [results[key] for key in sorted(results) if key.split("/")[0] == case.name]
        if not runs:
            continue
        values = [run["metrics"][case.measure] for run in runs]
        machines |= {
            run["machine"].split(" UTC; ")[0].split()[0] + ", " + run["machine"].split("; ", 1)[1] for run in runs
        }
        lines.append("| " + " | ".join(row(case, values, runs)) + " |")
    return "\n".join([*sorted(machines), "", *lines])


def row(case: Case, values: Sequence[float], runs: Sequence[dict[str, Any]]) -> list[str]:
    """The cells of a case."""
    spread = case.shown(statistics.stdev(values)) if len(values) > 1 else ""
    worst = min(values) if case.unit == "%" else max(values)
    seconds = statistics.median(run["seconds"] for run in runs)
    epochs = str(runs[0]["epochs"])
    return [
        case.name,
        case.shown(statistics.mean(values)),
        spread,
        case.shown(worst),
        case.goal,
        epochs,
        f"{seconds:.0f}",
        str(len(values)),
    ]


if __name__ == "__main__":
    main()
