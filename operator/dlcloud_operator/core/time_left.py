"""How long a training still takes, and how that is written: for the status and for the command line.

May import api only. Pure.
"""

from __future__ import annotations

from dlcloud_operator.api import Progress


def seconds_left(progress: Progress) -> float | None:
    """Seconds until the last step at the present rate; None while that cannot be known."""
    step, total, samples, rate = progress.step, progress.total_steps, progress.samples, progress.samples_per_second
    if not (step and total and samples and rate) or min(step, total, samples, rate) <= 0:
        return None
    return max(0, total - step) * (samples / step) / rate


def whole_duration(seconds: float) -> str:
    """`0s`, `42s`, `3m07s`, `2h05m`, `3d4h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600}h"
