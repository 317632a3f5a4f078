"""Names one process of this machine for good, and kills it and no other. May import the standard library only."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

from .run_folder import Stint


def host() -> str:
    """This machine's name."""
    return platform.node()


def start_of(pid: int) -> str:
    """When this process began, in words that no later process of the same id shares; empty when it is not there."""
    if sys.platform == "linux":
        try:
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            # The name may hold spaces and brackets: the fields that can be split begin after the last one.
            return f"{boot}/{Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[19]}"
        except (OSError, IndexError):
            return ""
    told = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return told.stdout.strip()


def kill(stint: Stint) -> bool:
    """SIGKILL for the process of this stint; False when it is gone, or another one has its id by now."""
    if stint.host != host():
        return False
    try:
        if sys.platform == "linux":
            handle = os.pidfd_open(stint.pid)  # first the handle, then the look: so no id can change hands between
            try:
                if start_of(stint.pid) != stint.process_start:
                    return False
                signal.pidfd_send_signal(handle, signal.SIGKILL)
            finally:
                os.close(handle)
        else:
            if start_of(stint.pid) != stint.process_start:
                return False
            os.kill(stint.pid, signal.SIGKILL)
    except OSError:
        return False
    return True
