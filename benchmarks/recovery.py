"""Seconds from `kill -9` of a rank until every rank made a step of the next round, beside `torchrun --max-restarts`.

Three ways to run two ranks on this machine: the built-in cnn under dlcloud, a plain DDP program under dlcloud, the same
program under torchrun. A kill is sent once the round has trained for a moment; the ranks are killed in turn.
`python -m benchmarks.recovery --kills 30`.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import Figure, print_table, wait_for
from dlcloud.sabotage import rank_pids
from dlcloud.session import LocalSession, StoreSettings
from dlcloud_operator.api.validation import parse_job
from dlcloud_operator.core.model import RankState

PROGRAM = Path(__file__).parent / "peers" / "ddp_digits.py"
WORLD = 2
STEPS_BEFORE_A_KILL = 25
LIMIT_S = 40.0  # a recovery that takes longer has hung
# A script tells dlcloud no steps: one that dies sooner than this again and again is taken for broken, and held back.
SCRIPT_ROUND_S = 11.0


@dataclass(frozen=True)
class Step:
    """A step one rank told of: clock is CLOCK_MONOTONIC, `restarts` grows with every round."""

    number: int
    clock: float
    restarts: int
    pid: int


class StepLog:
    """Reads what the ranks of the plain program append."""

    def __init__(self, path: Path) -> None:
        self._paths = [Path(f"{path}.{rank}") for rank in range(WORLD)]

    def after(self, rank: int, restarts: int) -> list[Step]:
        """The steps a rank made in rounds later than this one."""
        if not self._paths[rank].exists():
            return []
        fields = (line.split() for line in self._paths[rank].read_text().split("\n")[:-1])
        steps = [Step(int(step), float(clock), int(again), int(pid)) for _, step, clock, again, pid in fields]
        return [step for step in steps if step.restarts > restarts]

    def all_after(self, restarts: int, count: int = 1) -> bool:
        """Whether every rank made so many steps since."""
        return all(len(self.after(rank, restarts)) >= count for rank in range(WORLD))


def measure_kills(log: StepLog, kills: int, told: Callable[[float], None], round_s: float = 0.0) -> None:
    """Kill ranks in turn; each value told is the time until the slowest rank's first step of the next round."""
    restarts = -1
    for kill in range(kills):
        _wait_steps(log, restarts, STEPS_BEFORE_A_KILL)
        old_enough = log.after(0, restarts)[0].clock + round_s
        time.sleep(max(0.0, old_enough - time.monotonic()))
        newest = log.after(kill % WORLD, restarts)[-1]
        restarts = newest.restarts
        killed_at = time.monotonic()
        os.kill(newest.pid, signal.SIGKILL)
        _wait_steps(log, restarts, 1)
        told(max(log.after(rank, restarts)[0].clock for rank in range(WORLD)) - killed_at)


def _wait_steps(log: StepLog, restarts: int, count: int) -> None:
    wait_for(lambda: log.all_after(restarts, count), LIMIT_S, f"{count} steps of the next round")


def program_environment(folder: Path) -> dict[str, str]:
    """What ddp_digits.py reads; so many steps that it never ends by itself."""
    settings = {"CHECKPOINT": str(folder / "state.pt"), "STEP_LOG": str(folder / "steps"), "STEPS": "1000000"}
    return settings | {"OMP_NUM_THREADS": "1"}


def measure_torchrun(folder: Path, kills: int) -> list[float]:
    """torchrun with its defaults (it looks at its ranks every 0.1 s); infinity is a recovery that never came.

    Seen with torch 2.13: after some restarts both ranks wait for each other in gloo's connect. Then another torchrun
    takes over, as a user would have to do by hand.
    """
    seconds: list[float] = []
    while len(seconds) < kills:
        attempt = folder / f"attempt{len(seconds)}"
        attempt.mkdir()
        with _torchrun(attempt, kills):
            try:
                measure_kills(StepLog(attempt / "steps"), kills - len(seconds), seconds.append)
            except TimeoutError:
                seconds.append(math.inf)
    return seconds


@contextmanager
def _torchrun(folder: Path, kills: int) -> Iterator[None]:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={WORLD}",
        f"--max-restarts={kills + 1}", str(PROGRAM),
    ]  # fmt: skip
    env = {**os.environ, **program_environment(folder)}
    with (folder / "torchrun.log").open("wb") as output:
        process = subprocess.Popen(command, env=env, stdout=output, stderr=output, start_new_session=True)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def job_spec(kills: int, **fields: Any) -> dict[str, Any]:
    """A job that forgives as many failures as are made here."""
    return {"workers": {"count": WORLD}, "restart": {"maxFailures": kills + 1, "window": "24h"}, **fields}


async def with_session(
    folder: Path, name: str, spec: dict[str, Any], act: Callable[[LocalSession], Awaitable[Any]]
) -> Any:
    """Run a job locally while `act` works on it."""
    manifest = {"apiVersion": "dlcloud.dev/v1", "kind": "TrainingJob", "metadata": {"name": name}, "spec": spec}
    run_dir = folder / name
    run_dir.mkdir()
    session = LocalSession(parse_job(manifest), run_dir, StoreSettings(None, folder / "store"), folder)
    try:
        await session.start()
        return await act(session)
    finally:
        await session.close(0.0)


def measure_script(folder: Path, kills: int) -> list[float]:
    """The plain program as a script job."""
    env = [{"name": name, "value": value} for name, value in program_environment(folder).items()]
    template = {"spec": {"containers": [{"name": "trainer", "env": env}]}}
    spec = job_spec(kills, script={"command": ["python", str(PROGRAM)]}, podTemplate=template)

    async def act(_: LocalSession) -> list[float]:
        seconds: list[float] = []
        await asyncio.to_thread(measure_kills, StepLog(folder / "steps"), kills, seconds.append, SCRIPT_ROUND_S)
        return seconds

    values: list[float] = asyncio.run(with_session(folder, "script", spec, act))
    return values


def measure_cnn(folder: Path, kills: int) -> list[float]:
    """The built-in workload with checkpoints on the embedded S3 server.

    A step is known when its report has reached the operator, which adds some milliseconds to what the others tell.
    """
    spec = job_spec(
        kills,
        workload="cnn",
        parameters={"epochs": 10000},
        data={"uri": "builtin://digits"},
        checkpoint={"uri": "s3://checkpoints/", "everySeconds": 1},
    )

    async def act(session: LocalSession) -> list[float]:
        seconds: list[float] = []
        step = 0
        for kill in range(kills):
            took, step = await _kill_once(session, kill % WORLD, step + STEPS_BEFORE_A_KILL)
            seconds.append(took)
        return seconds

    values: list[float] = asyncio.run(with_session(folder, "cnn", spec, act))
    return values


async def _kill_once(session: LocalSession, rank: int, at_step: int) -> tuple[float, int]:
    """Kill a rank once all are at this step; the seconds until all step again, and the step they are at then."""
    await _until(lambda: _step(session) >= at_step)
    before, pid = _round(session), _rank_pid(session, rank)
    killed_at = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    await _until(lambda: _round(session) > before and _step(session) > 0)
    return time.monotonic() - killed_at, _step(session)


def _round(session: LocalSession) -> int:
    current = session.job.status.round if session.job else None
    return current.number if current else 0


def _rank_pid(session: LocalSession, rank: int) -> int:
    members = session.job.status.round.members if session.job and session.job.status.round else []
    (uid,) = (member.uid for member in members if rank in member.ranks)
    (pid,) = rank_pids(uid)
    return pid


def _all_step(session: LocalSession, number: int) -> bool:
    ranks = [rank for report in session.reports() if report.round == number for rank in report.ranks]
    return len(ranks) == WORLD and all(rank.state is RankState.RUNNING for rank in ranks)


def _step(session: LocalSession) -> int:
    """The step all ranks of this round have made; 0 while one still starts."""
    if not _all_step(session, _round(session)):
        return 0
    return min(rank.step or 0 for report in session.reports() for rank in report.ranks)


async def _until(condition: Callable[[], bool], limit_s: float = 120) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():  # noqa: ASYNC110 (reports come without an event to wait for)
            await asyncio.sleep(0.002)


WAYS = {
    "cnn": ("dlcloud, built-in cnn (checkpoints on S3)", measure_cnn),
    "script": ("dlcloud, plain DDP program (script job)", measure_script),
    "torchrun": ("torchrun --max-restarts, the same program", measure_torchrun),
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="kills of the built-in cnn (default 30)")
    parser.add_argument("--plain-kills", type=int, default=30, help="kills of the plain program, each way (default 30)")
    parser.add_argument(
        "--ways", nargs="+", choices=list(WAYS), default=list(WAYS), help="what to measure (default all)"
    )
    parser.add_argument("--out", type=Path, help="folder that keeps the programs' output")
    options = parser.parse_args()
    figures, hung = [], []
    for way in options.ways:
        name, measure = WAYS[way]
        kills = options.kills if way == "cnn" else options.plain_kills
        with tempfile.TemporaryDirectory() as temporary:
            folder = (options.out or Path(temporary)) / way
            folder.mkdir(parents=True)
            values = measure(folder, kills)
        came = [value for value in values if value != math.inf]
        figures.append(Figure(f"{name}: kill of a rank -> next step of all", "s", came))
        hung.append(
            f"{name}: {len(values) - len(came)} of {len(values)} recoveries did not come within {LIMIT_S:.0f} s"
        )
        sys.stderr.write(f"{figures[-1].row()}\n{hung[-1]}\n")
    print_table("Recovery", figures)
    print("\n" + "\n".join(hung))


if __name__ == "__main__":
    main()
