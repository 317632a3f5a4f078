"""Kill one rank of a running local job, and measure what that costs.

May import the session. It kills nothing but a rank process of the given pod, found by the pod's uid in its environment.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dlcloud_operator.api import Phase
from dlcloud_operator.core.model import RankState

from .session import LocalSession

_POLL_S = 0.02
_ZYGOTE = b"dlcloud_trainer.zygote"


@dataclass(frozen=True)
class Kill:
    """One kill: whose process, when, and how far the job was as far as was known."""

    rank: int
    pid: int
    at: datetime
    round: int
    step: int
    checkpoint_step: int


@dataclass(frozen=True)
class Recovery:
    """What a kill cost: seconds from it to the first step of the next round, and where that round went on from."""

    kill: Kill
    seconds: float
    resumed_from_step: int

    @property
    def repeated_steps(self) -> int:
        """Steps that were done again."""
        return max(0, self.kill.step - self.resumed_from_step)


async def kill_rank(session: LocalSession, rank: int, told: Callable[[str], None]) -> Recovery:
    """Wait for the first checkpoint, SIGKILL this rank's process, wait for the next round's first step; no limit."""
    kill = None
    while kill is None:
        await asyncio.sleep(_POLL_S)
        kill = _try_kill(session, rank)
    told(
        f"rank {rank} (process {kill.pid}) is killed with SIGKILL at step {kill.step}; "
        f"the last checkpoint is of step {kill.checkpoint_step}"
    )
    while True:
        for report in session.reports():
            steps = [r.step for r in report.ranks if r.state is RankState.RUNNING and r.step is not None]
            if report.round > kill.round and steps:
                return Recovery(kill, (report.received_at - kill.at).total_seconds(), min(steps) - 1)
        await asyncio.sleep(_POLL_S)


def _try_kill(session: LocalSession, rank: int) -> Kill | None:
    job, reports = session.job, session.reports()
    saved = max((r.checkpoint.step for r in reports if r.checkpoint), default=None)
    if job is None or job.status.phase is not Phase.RUNNING or job.status.round is None or saved is None:
        return None
    current = job.status.round
    uid = next((member.uid for member in current.members if rank in member.ranks), None)
    steps = [r.step for report in reports if report.round == current.number for r in report.ranks if r.step is not None]
    pids = rank_pids(uid) if uid and steps else []
    if len(pids) != 1 or max(steps) <= saved:  # some work beyond the checkpoint, so that its loss is seen
        return None
    os.kill(pids[0], signal.SIGKILL)
    return Kill(rank, pids[0], datetime.now(UTC), current.number, max(steps), saved)


def rank_pids(pod_uid: str, proc: Path = Path("/proc")) -> list[int]:
    """The processes that are ranks in the pod with this uid: forked by its zygote, or with a RANK of their own."""
    mark = f"DLCLOUD_POD_UID={pod_uid}".encode()
    parents: dict[int, int] = {}
    zygotes, cold = set(), []
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environ = (entry / "environ").read_bytes().split(b"\0")
            if mark not in environ:
                continue
            # The name may hold brackets and spaces: the fields begin after the last bracket.
            parents[int(entry.name)] = int((entry / "stat").read_bytes().rpartition(b")")[2].split()[1])
            if _ZYGOTE in (entry / "cmdline").read_bytes():
                zygotes.add(int(entry.name))
            elif any(variable.startswith(b"RANK=") for variable in environ):
                cold.append(int(entry.name))
        except OSError:  # ended meanwhile
            continue
    # A forked rank keeps the zygote's command line, and so does whatever it forks in turn.
    roots = {pid for pid in zygotes if parents.get(pid) not in zygotes}
    return sorted(pid for pid in zygotes if parents.get(pid) in roots) or sorted(cold)
