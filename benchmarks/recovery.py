"""Seconds from `kill -9` of a rank until every rank has made the next step, beside `torchrun --max-restarts`.

Three ways to run two ranks on this machine: the built-in cnn under dlcloud, a plain DDP program under dlcloud, the same program under torchrun.
A kill is sent only after training has gone on for a moment; ranks are taken in turn. `python -m benchmarks.recovery --kills 30`.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import Figure, print_table

PROGRAM = Path(__file__).parent / "peers" / "ddp_digits.py"
WORLD = 2


@dataclass(frozen=True)
class Step:
    """The newest step one rank told of: clock is CLOCK_MONOTONIC, `restarts` grows with every round."""

    number: int
    clock: float
    restarts: int
    pid: int


class StepLog:
    """Reads what the ranks of the plain program append."""

    def __init__(self, path: Path) -> None:
        self._paths = [Path(f"{path}.{rank}") for rank in range(WORLD)]

    def steps(self, rank: int) -> list[Step]:
        """All whole lines of one rank so far."""
        if not self._paths[rank].exists():
            return []
        lines = self._paths[rank].read_text().split("\n")[:-1]
        fields = (line.split() for line in lines)
        return [Step(int(step), float(clock), int(restarts), int(pid)) for _, step, clock, restarts, pid in fields]


def wait_for(condition: object, limit_s: float, what: str) -> None:
    """Polls every 2 ms; raises TimeoutError naming what did not happen."""
    end = time.monotonic() + limit_s
    while not condition():  # type: ignore[operator]
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not happen within {limit_s:.0f} s")
        time.sleep(0.002)


def measure_kills(log: StepLog, kills: int) -> list[float]:
    """Kills ranks in turn; each value is the time until the slowest rank's first step of the next round."""
    seconds = []
    restarts = -1
    for kill in range(kills):
        wait_for(
            lambda: all(len(_since(log, rank, restarts)) >= 25 for rank in range(WORLD)), 120, "25 steps of a round"
        )
        newest = log.steps(kill % WORLD)[-1]
        restarts = newest.restarts
        killed_at = time.monotonic()
        os.kill(newest.pid, signal.SIGKILL)
        wait_for(lambda: all(_since(log, rank, restarts) for rank in range(WORLD)), 120, "a step after the kill")
        seconds.append(max(_since(log, rank, restarts)[0].clock for rank in range(WORLD)) - killed_at)
    return seconds


def _since(log: StepLog, rank: int, restarts: int) -> list[Step]:
    return [step for step in log.steps(rank) if step.restarts > restarts]


def program_environment(folder: Path) -> dict[str, str]:
    """What ddp_digits.py reads; so many steps that it never ends by itself."""
    return {
        "CHECKPOINT": str(folder / "state.pt"),
        "STEP_LOG": str(folder / "steps"),
        "STEPS": "1000000",
        "OMP_NUM_THREADS": "1",
    }


@contextmanager
def torchrun(folder: Path, kills: int) -> Iterator[StepLog]:
    """torchrun with its defaults, except that it polls its workers as often as it can be told to (0.1 s is its default)."""
    command = [
        sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={WORLD}", "--master-addr=127.0.0.1",
        "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--monitor-interval=0.1", f"--max-restarts={kills + 1}", str(PROGRAM),
    ]  # fmt: skip
    with (folder / "torchrun.log").open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **program_environment(folder)},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield StepLog(folder / "steps")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
