"""Programs that checks run: bounded in time, and gone when the doctor is.

May import the standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

_REMOVE_S = 3.0


@dataclass(frozen=True)
class Ended:
    """How a program ended. `code` is None when it was stopped at the limit."""

    code: int | None
    output: str
    errors: str

    def objects(self) -> list[dict[str, Any]]:
        """The lines of JSON among the output."""
        found = []
        for line in self.output.splitlines():
            with contextlib.suppress(ValueError):
                value = json.loads(line)
                if isinstance(value, dict):
                    found.append(value)
        return found

    @property
    def last_words(self) -> str:
        """The last line of what it said beside its output."""
        lines = [line.strip() for line in self.errors.splitlines() if line.strip()]
        return lines[-1][:300] if lines else f"it ended with {self.code}"


class Bench:
    """A folder and the programs of one examination; leaving it removes both."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._folder = ""
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._closed = True
            running = list(self._running)
        for process in running:
            _kill(process)
        give_up = time.monotonic() + _REMOVE_S
        while self._folder and Path(self._folder).exists() and time.monotonic() < give_up:
            shutil.rmtree(self._folder, ignore_errors=True)  # again: a server of an interrupted check may still write
            time.sleep(0.02)

    def folder(self) -> Path:
        """A folder of our own, removed at the end. Raises OSError: made when it is needed, for the disk may be full."""
        with self._lock:
            if self._closed:
                raise OSError("the examination is over")
            if not self._folder:
                self._folder = tempfile.mkdtemp(prefix="dlcloud-doctor-")
        return Path(self._folder)

    def _temporary(self) -> dict[str, str]:
        """Have programs leave their temporary files (torch leaves some) where we remove them, if that can be."""
        with contextlib.suppress(OSError):
            return {"TMPDIR": str(self.folder())}
        return {}

    @property
    def running(self) -> int:
        """How many programs run at this moment."""
        with self._lock:
            return len(self._running)

    def python(self, module: str, *arguments: str, given: Any = None, env: Mapping[str, str] | None = None) -> Ended:
        """Run a module of ours with this interpreter; `given` is sent as JSON to its standard input."""
        text = "" if given is None else json.dumps(given)
        return self.run([sys.executable, "-m", module, *arguments], given=text, env=env)

    def run(self, command: Sequence[str], *, given: str = "", env: Mapping[str, str] | None = None) -> Ended:
        """Run a program to its end, or to the limit. Raises OSError when it cannot be started."""
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=dict(os.environ if env is None else env) | self._temporary(),
            start_new_session=True,  # it and what it starts can be ended together
        )
        with self._lock:
            self._running.add(process)
            closed = self._closed
        try:
            if closed:
                _kill(process)
            output, errors = process.communicate(given, timeout=self.limit_s)
            return Ended(process.returncode, output, errors)
        except subprocess.TimeoutExpired:
            _kill(process)
            output, errors = process.communicate()
            return Ended(None, output, errors)
        finally:
            with self._lock:
                self._running.discard(process)


def _kill(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
