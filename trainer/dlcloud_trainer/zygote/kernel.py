"""The two things asked of Linux that Python has no function for.

May import the standard library only. Safe to call between fork and exec of a process with a single thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that made it ends. The caller checks that it still lives."""
    if _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")


def be_killed_first(extra: int) -> None:
    """When memory runs out the kernel should take a rank, not the zygote or the agent. Best effort."""
    file = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError, ValueError):
        file.write_text(str(min(1000, int(file.read_text()) + extra)))


def flush_c_streams() -> None:
    """Write what C and C++ code printed and still holds: `os._exit` would lose it."""
    _libc.fflush(None)


def thread_count() -> int:
    """Threads of this process as the kernel counts them."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())
