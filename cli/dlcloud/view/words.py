"""Numbers, times and sizes as a reader wants them. Pure; may import the core."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from dlcloud_operator.core.time_left import whole_duration


def clock(at: datetime) -> str:
    """The time of day in the reader's zone, `14:03:07`."""
    return at.astimezone().strftime("%H:%M:%S")


def duration(span: timedelta | float) -> str:
    """`0.8s`, `42s`, `3m07s`, `2h05m`, `3d4h`; seconds when a number is given."""
    seconds = span.total_seconds() if isinstance(span, timedelta) else span
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f}s"
    return whole_duration(seconds)


def size(num_bytes: int) -> str:
    """`512 B`, `4.8 MiB`."""
    value = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            return f"{value:.0f} {unit}" if unit == "B" or value >= 1000 else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def number(value: float) -> str:
    """Three significant digits, large numbers with separators: `0.413`, `4,210`."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


_METRIC_WORDS = {"validationAccuracy": "validation accuracy", "testAccuracy": "test accuracy"}


def metric_name(key: str) -> str:
    """`validationLoss` -> `validation loss`."""
    spaced = "".join(f" {c.lower()}" if c.isupper() else c for c in key).strip()
    return _METRIC_WORDS.get(key, spaced)


def metric_value(key: str, value: float) -> str:
    """Accuracies in percent, all else as a number."""
    return f"{value:.1%}" if key.lower().endswith("accuracy") else number(value)


def metric_texts(metrics: Mapping[str, float]) -> list[str]:
    """`validation accuracy 91.2%` for each metric; a loss whose accuracy is there, too, says little and is left out."""
    return [
        f"{metric_name(key)} {metric_value(key, value)}"
        for key, value in sorted(metrics.items())
        if not (key.endswith("Loss") and key.removesuffix("Loss") + "Accuracy" in metrics)
    ]


def printable(line: str) -> str:
    """The line without control characters: a program's escape sequences must not move our cursor."""
    return "".join(c if c.isprintable() else " " for c in line)
