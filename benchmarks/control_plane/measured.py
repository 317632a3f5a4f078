"""A process under measurement: its processor time, its memory, its end.

May import the standard library only. Linux: it reads /proc.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


class Measured:
    """A child process with its log. It is killed at the exit of `with`, whatever happened."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str], nice: int = 0) -> None:
        self.log = log
        self.started_at = time.monotonic()
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=dict(environment),
                start_new_session=True,
            )  # fmt: skip

    def __enter__(self) -> Measured:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def cpu_s(self) -> float:
        """Processor seconds so far, its own and the kernel's for it."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def memory_kib(self) -> int:
        """Its proportional set size: what the machine would have more without it."""
        lines = Path(f"/proc/{self._process.pid}/smaps_rollup").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("Pss:")))

    def check(self) -> None:
        """Raises RuntimeError with the end of its log when it has ended."""
        if not self.running:
            raise RuntimeError(f"{self.log.stem} has ended with {self._process.returncode}:\n{self.tail()}")

    def tail(self, num_chars: int = 3000) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-num_chars:]

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once, without a chance to tidy up."""
        self._process.kill()
        self._process.wait()

    def stop(self, limit_s: float = 20.0) -> None:
        """Ask it to end, and kill it when it does not."""
        if self.running:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(limit_s)
        self.kill()
