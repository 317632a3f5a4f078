"""What every benchmark shares: the machine's line, statistics and the table."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One row: `values` of `n` runs in `unit`; `peer` names what it stands beside."""

    name: str
    unit: str
    values: Sequence[float]

    def row(self, digits: int = 3) -> str:
        """Median, 95th percentile, range and n, as a row of a Markdown table."""
        ordered = sorted(self.values)
        median, p95 = statistics.median(ordered), percentile(ordered, 95)
        numbers = " | ".join(f"{value:.{digits}f}" for value in (median, p95, ordered[0], ordered[-1]))
        return f"| {self.name} | {self.unit} | {numbers} | {len(ordered)} |"


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile of an ascending sequence."""
    return ordered[max(0, -(-len(ordered) * int(percent) // 100) - 1)]


def machine_line() -> str:
    """Processor, memory, versions and date, so that a figure can be judged."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC; {cpu}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB; "
        f"Python {platform.python_version()}, torch {version('torch')}"
    )


def print_table(title: str, figures: Sequence[Figure]) -> None:
    """The figures of one comparison, ready for docs/benchmarks.md."""
    print(f"\n### {title}\n\n{machine_line()}\n")
    print("| what | unit | median | p95 | min | max | n |\n| --- | --- | --- | --- | --- | --- | --- |")
    for figure in figures:
        print(figure.row())


def write_between(page: Path, name: str, text: str) -> None:
    """Put the text between `<!-- NAME: begin -->` and `<!-- NAME: end -->` of a Markdown file."""
    old = page.read_text()
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    start, stop = old.index(begin) + len(begin), old.index(end)
    page.write_text(f"{old[:start]}\n{text}\n{old[stop:]}")


def wait_for(condition: Callable[[], object], limit_s: float, what: str) -> None:
    """Polls every 2 ms until the condition holds; raises TimeoutError naming what did not happen."""
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not happen within {limit_s:.0f} s")
        time.sleep(0.002)
