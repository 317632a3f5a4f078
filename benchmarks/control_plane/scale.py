"""What running jobs cost the operator: processor time, the latency of reports, and how late a status is.

May import this package.
"""

from __future__ import annotations

import asyncio
import bisect
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.control_plane.client import difference
from benchmarks.control_plane.fleet import Fleet

SCRAPE_S = 30.0  # Prometheus comes as often
LAST_STATUS_S = 30.0  # how long after the window the status of its last reports is waited for


@dataclass
class Scale:
    """One window: shares are of one core, latencies in ms, lags in s."""

    num_jobs: int
    window_s: float
    operator_share: float = 0.0
    operator_mib: float = 0.0
    agents_share: float = 0.0
    own_share: float = 0.0
    servers: dict[str, float] = field(default_factory=dict)  # the control plane's programs, shares
    latencies: list[float] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    unseen: int = 0  # reports whose step no status had at the end
    troubles: int = 0
    scrapes: list[float] = field(default_factory=list)  # ms each
    status_writes_per_s: float = 0.0
    writes: dict[tuple[str, str], int] = field(default_factory=dict)


async def measure(fleet: Fleet, window_s: float) -> Scale:
    """Look at running jobs for `window_s` seconds."""
    measured = Scale(len(fleet.jobs), window_s)
    fleet.lines()
    writes = await fleet.client.writes()
    pids = fleet.plane.processes.pids()
    before = {name: _cpu_s(pid) for name, pid in pids.items()}
    operator_s, agents_s, own_s = fleet.operator.cpu_s(), fleet.agents.cpu_s(), time.process_time()
    began = time.monotonic()
    while (left := began + window_s - time.monotonic()) > 0:
        measured.scrapes.append(1000 * await fleet.installation.scrape())
        await asyncio.sleep(min(SCRAPE_S, left))
    ended = time.monotonic()
    fleet.check()
    took = ended - began
    measured.operator_share = (fleet.operator.cpu_s() - operator_s) / took
    measured.agents_share = (fleet.agents.cpu_s() - agents_s) / took
    measured.own_share = (time.process_time() - own_s) / took
    measured.servers = {name: (_cpu_s(pid) - before[name]) / took for name, pid in pids.items()}
    measured.operator_mib = fleet.operator.memory_kib() / 1024
    measured.writes = difference(await fleet.client.writes(), writes)
    statuses = sum(n for (_, resource), n in measured.writes.items() if resource.startswith("trainingjobs/status"))
    measured.status_writes_per_s = statuses / took
    await asyncio.sleep(LAST_STATUS_S)
    for line in fleet.lines():
        if not began <= line.at <= ended:
            continue
        if line.what[0] == "trouble":
            measured.troubles += 1
        if line.what[0] == "report":
            step, sent = int(line.what[1]), float(line.what[2])
            measured.latencies.append(1000 * (line.at - sent))
            if line.index == 0 and sent >= began:
                steps = fleet.jobs[line.job].steps
                place = bisect.bisect_left(steps, step, key=lambda seen: seen[1])
                if place < len(steps):
                    measured.lags.append(steps[place][0] - sent)
                else:
                    measured.unseen += 1
    return measured


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
