"""How long until a new operator has all running jobs in hand after the old one was killed.

May import this package. A job is taken over when its agent was told its assignment again: the new operator has read the
job and its pods and has looked at them once; an agent counts as heard when a report of it was taken.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from benchmarks.control_plane.fleet import Fleet
from benchmarks.control_plane.manifests import WORKERS

_LIMIT_S = 120.0


@dataclass
class Takeover:
    """One kill; seconds from the new process's start."""

    leading_s: float
    half_s: float  # half of the jobs are taken over
    all_s: float
    heard_s: float  # all agents were heard
    restarted: int  # jobs whose round or restarts changed: 0, or something is wrong


async def measure(fleet: Fleet, *, lease_free: bool, settle_s: float = 30.0) -> Takeover:
    """Kill the operator, start another; with `lease_free` the dead one's lease is removed before."""
    rounds = {name: (job.round, job.restarts) for name, job in fleet.jobs.items()}
    fleet.operator.kill()
    if lease_free:
        await fleet.installation.free_lease()
    fleet.lines()
    fleet.operator = fleet.installation.start()
    began = fleet.operator.started_at
    leading = asyncio.create_task(fleet.installation.ready(fleet.operator))
    told: dict[str, float] = {}
    heard: dict[tuple[str, int], float] = {}
    num_jobs, num_agents = len(fleet.jobs), len(fleet.jobs) * WORKERS
    while len(told) < num_jobs or len(heard) < num_agents:
        await asyncio.sleep(0.5)
        fleet.check()
        for line in fleet.lines():
            if line.at < began:
                continue
            if line.what[0] == "told":
                told.setdefault(line.job, line.at - began)
            elif line.what[0] == "report":
                heard.setdefault((line.job, line.index), line.at - began)
        if time.monotonic() > began + _LIMIT_S:
            text = f"{len(told)} of {num_jobs} jobs taken over, {len(heard)} of {num_agents} agents heard"
            raise TimeoutError(f"{text} after {_LIMIT_S:.0f} s:\n{fleet.operator.tail()}")
    leading_s = await leading - began
    await asyncio.sleep(settle_s)  # a job that is begun again would show by now: unknown agents are given 15 s
    changed = sum((job.round, job.restarts) != rounds[name] for name, job in fleet.jobs.items())
    times = sorted(told.values())
    return Takeover(leading_s, times[len(times) // 2], times[-1], max(heard.values()), changed)
