"""The operator's figures on a real API server, beside Kubeflow's training operator and a bare client.

Every measurement starts a control plane of its own (tests/rig), which shares the machine with the operator: run it on a
quiet one. `python -m benchmarks.control_plane` takes 25 minutes; `... throughput --jobs 100 --runs 1 --alone 5` one.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from benchmarks.control_plane import fleet, report, scale, takeover, throughput
from benchmarks.control_plane.peers import NotBuilt
from benchmarks.control_plane.profiled import BEGIN
from tests.rig.binaries import ProgramsMissing


async def run_throughput(chosen: argparse.Namespace) -> None:
    """All sides in turn."""
    samples: dict[str, list[throughput.Sample]] = {}
    for run in range(chosen.runs):
        samples.setdefault(report.BARE, []).append(await throughput.bare_client(chosen.jobs))
        print(f"run {run + 1}: bare client done", file=sys.stderr)
        samples.setdefault(report.DLCLOUD, []).append(await throughput.dlcloud(chosen.jobs, chosen.alone))
        print(f"run {run + 1}: dlcloud done", file=sys.stderr)
        if chosen.peer_jobs:
            try:
                sample = await throughput.kubeflow(chosen.peer_jobs, chosen.alone)
                samples.setdefault(report.KUBEFLOW, []).append(sample)
            except NotBuilt as why:
                print(f"without Kubeflow's training operator: {why}", file=sys.stderr)
    order = (report.DLCLOUD, report.KUBEFLOW, report.BARE)
    report.print_throughput({side: samples[side] for side in order if side in samples})


async def run_fleet(chosen: argparse.Namespace, *, window: bool, kills: bool) -> None:
    """Running jobs: a window, and kills."""
    async with fleet.running(chosen.running, chosen.nodes, chosen.every) as jobs:
        if window:
            report.print_scale(await scale.measure(jobs, chosen.window))
        if kills:
            free = [await takeover.measure(jobs, lease_free=True) for _ in range(chosen.kills)]
            held = [await takeover.measure(jobs, lease_free=False) for _ in range(chosen.kills)]
            report.print_takeovers(chosen.running, free, held)


async def run_profile(chosen: argparse.Namespace) -> None:
    """Where the time goes: many new jobs, and many running ones."""
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "profile"
        await throughput.dlcloud(chosen.jobs, 5, out)
        report.print_profile(f"{chosen.jobs} new jobs", out)
        async with fleet.running(chosen.running, chosen.nodes, chosen.every, out) as jobs:
            jobs.operator.signal(BEGIN)
            await asyncio.sleep(chosen.window)
            jobs.operator.stop()
        report.print_profile(f"{chosen.running} running jobs", out)


async def run_all(chosen: argparse.Namespace) -> None:
    """Everything."""
    await run_throughput(chosen)
    await run_fleet(chosen, window=True, kills=True)
    await run_profile(chosen)


def main() -> None:
    """One of the measurements, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = ("all", "throughput", "scale", "takeover", "profile")
    parser.add_argument("what", nargs="?", choices=what, default="all", help="default all")
    parser.add_argument("--jobs", type=int, default=1000, help="throughput: jobs created at once (default 1000)")
    parser.add_argument(
        "--peer-jobs", type=int, default=300, help="the same for Kubeflow, 0 leaves it out (default 300)"
    )
    parser.add_argument("--alone", type=int, default=50, help="throughput: jobs created one by one (default 50)")
    parser.add_argument("--runs", type=int, default=3, help="throughput: runs of each side (default 3)")
    parser.add_argument("--running", type=int, default=1000, help="scale, takeover: running jobs (default 1000)")
    parser.add_argument("--nodes", type=int, default=100, help="scale, takeover: simulated nodes (default 100)")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between an agent's reports (default 10)")
    parser.add_argument("--window", type=float, default=120.0, help="scale: seconds looked at (default 120)")
    parser.add_argument("--kills", type=int, default=3, help="takeover: kills of each kind (default 3)")
    chosen = parser.parse_args()
    work = {
        "all": run_all,
        "throughput": run_throughput,
        "scale": lambda chosen: run_fleet(chosen, window=True, kills=False),
        "takeover": lambda chosen: run_fleet(chosen, window=False, kills=True),
        "profile": run_profile,
    }
    try:
        asyncio.run(work[chosen.what](chosen))
    except ProgramsMissing as missing:
        raise SystemExit(str(missing)) from None


if __name__ == "__main__":
    main()
