"""The tables: what was measured, beside its peers and its goals.

May import this package and benchmarks.common. Prints Markdown for docs/benchmarks.md.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmarks.common import Figure, machine_line, percentile, print_table
from benchmarks.control_plane.profiled import INTERVAL_S
from benchmarks.control_plane.scale import Scale
from benchmarks.control_plane.takeover import Takeover
from benchmarks.control_plane.throughput import Sample

DLCLOUD, KUBEFLOW, BARE = "dlcloud", "Kubeflow training operator v1.8.1", "bare client"


def print_throughput(samples: dict[str, list[Sample]]) -> None:
    """Each side's runs; `samples` by the side's name."""
    figures = []
    for side, runs in samples.items():
        jobs = f"{side}, {runs[0].num_jobs} jobs of 2 pods"
        figures.append(Figure(f"{jobs}: first create -> last pod", "jobs/s", [run.jobs_per_s for run in runs]))
    for side, runs in samples.items():
        if side == BARE:
            continue
        figures.append(Figure(f"{side}: CPU", "ms/job", [run.cpu_ms for run in runs]))
        figures.append(Figure(f"{side}: memory more", "KiB/job", [run.memory_kib for run in runs]))
        figures.append(Figure(f"{side}: memory after it", "MiB", [run.resident_mib for run in runs]))
        latencies = [latency for run in runs for latency in run.latencies]
        if latencies:
            figures.append(Figure(f"{side}, nothing else to do: create -> both pods", "ms", latencies))
    print_table("Jobs that become pods", figures)
    print("\nGoals: 60 jobs/s, 8 ms, 30 KiB, p95 150 ms.\n")
    for side, runs in samples.items():
        print(f"- {side}: the measuring client took {100 * max(run.client_cpu_share for run in runs):.0f} % of a core")
    print("\n| writes a job, all clients of the API server | " + " | ".join(samples) + " |")
    print("| --- |" + " --- |" * len(samples))
    keys = sorted({key for runs in samples.values() for run in runs for key in run.writes})
    for key in keys:
        cells = [
            f"{statistics.median(run.writes.get(key, 0) / run.num_jobs for run in runs):.2f}"
            for runs in samples.values()
        ]
        if any(float(cell) >= 0.01 for cell in cells):
            print(f"| {key[0]} {key[1]} | " + " | ".join(cells) + " |")
    for who in sorted({who for runs in samples.values() for run in runs for who in run.events}):
        cells = [
            f"{statistics.median(run.events.get(who, 0) / run.num_jobs for run in runs):.2f}"
            for runs in samples.values()
        ]
        print(f"| Events by {who} | " + " | ".join(cells) + " |")
    print("\nThe scheduler patches pods/status and writes an Event for each pod it has no node for.")


def print_scale(scale: Scale) -> None:
    """One window."""
    print(f"\n### {scale.num_jobs} running jobs\n\n{machine_line()}\n")
    print("| what | unit | value | goal |\n| --- | --- | --- | --- |")
    rows = [
        ("CPU of the operator", "% of a core", 100 * scale.operator_share, "50"),
        ("memory of the operator", "MiB", scale.operator_mib, ""),
        *_percentiles("report -> its answer", "ms", scale.latencies, "p95 50"),
        *_percentiles("report sent -> its step in the status, as a watch tells it", "s", scale.lags, "p95 10"),
        ("reports without a status at the end", "", scale.unseen, "0"),
        ("requests of agents that failed", "", scale.troubles, "0"),
        ("a scrape of /metrics, largest", "ms", max(scale.scrapes), ""),
        ("status writes", "1/s", scale.status_writes_per_s, ""),
        ("CPU of the agents' process", "% of a core", 100 * scale.agents_share, ""),
        ("CPU of the measuring process", "% of a core", 100 * scale.own_share, ""),
        *((f"CPU of {name}", "% of a core", 100 * share, "") for name, share in scale.servers.items()),
    ]
    for name, unit, value, goal in rows:
        print(f"| {name} | {unit} | {value:.1f} | {goal} |")
    print(f"\n{len(scale.latencies)} reports in {scale.window_s:.0f} s.")


def _percentiles(name: str, unit: str, values: Sequence[float], goal: str) -> list[tuple[str, str, float, str]]:
    ordered = sorted(values) or [float("nan")]
    return [
        (f"{name}, p50", unit, percentile(ordered, 50), ""),
        (f"{name}, p95", unit, percentile(ordered, 95), goal),
        (f"{name}, largest", unit, ordered[-1], ""),
    ]


def print_takeovers(num_jobs: int, free: list[Takeover], held: list[Takeover]) -> None:
    """Kills with the lease free and with the lease of the dead to wait for."""
    figures = []
    for words, takeovers in (("lease free", free), ("lease of the killed one", held)):
        if not takeovers:
            continue
        name = f"{words}: process start ->"
        figures += [
            Figure(f"{name} it leads", "s", [one.leading_s for one in takeovers]),
            Figure(f"{name} half of {num_jobs} jobs taken over", "s", [one.half_s for one in takeovers]),
            Figure(f"{name} all taken over", "s", [one.all_s for one in takeovers]),
            Figure(f"{name} all {2 * num_jobs} agents heard", "s", [one.heard_s for one in takeovers]),
        ]
    print_table("A killed operator", figures)
    print(f"\nGoal: all taken over within 10 s. Jobs begun again by it: {sum(one.restarted for one in free + held)}.")


def print_profile(title: str, path: Path, num_functions: int = 25) -> None:
    """Where the operator's processor time went."""
    counts = json.loads(path.read_text())
    total = sum(counts["groups"].values())
    print(
        f"\n### Where the time goes: {title}\n\n{machine_line()}; {total} samples, {total * INTERVAL_S:.1f} s of CPU\n"
    )
    print("| part | share |\n| --- | --- |")
    for name, count in sorted(counts["groups"].items(), key=lambda item: -item[1]):
        if count >= total / 200:
            print(f"| {name} | {100 * count / total:.1f} % |")
    for words, kind in (
        ("function, own time", "own"),
        ("task, or callback, of the event loop", "tasks"),
        ("function of ours and of kopf, with what it calls", "within"),
    ):
        print(f"\n| {words} | share |\n| --- | --- |")
        for name, count in sorted(counts[kind].items(), key=lambda item: -item[1])[:num_functions]:
            print(f"| `{name}` | {100 * count / total:.1f} % |")
