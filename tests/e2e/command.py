"""`dlcloud` as its user has it: a process of this machine, with jobs here or on the tests' cluster.

May import the standard library only. The folder it is given is the working folder, and its home lies below.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

LIMIT_S = 300.0
_KEPT = ("PATH", "HOME", "LANG")


class Dlcloud:
    """The command line. `kubeconfig`: whose cluster is meant where the arguments name one; None: this machine alone."""

    def __init__(self, folder: Path, kubeconfig: Path | None = None, working_dir: Path | None = None) -> None:
        self.folder, self._kubeconfig, self._working_dir = folder, kubeconfig, working_dir or folder

    def run(self, *arguments: object, code: int = 0, limit_s: float = LIMIT_S, **environment: str) -> str:
        """What it wrote, errors too, when it ended with `code`. Raises AssertionError when it ended otherwise."""
        with self.start(*arguments, **environment) as started:
            return started.end(code, limit_s)

    def start(self, *arguments: object, **environment: str) -> Started:
        """Begin it: `with` ends what is still there at its end."""
        given = {name: os.environ[name] for name in _KEPT if name in os.environ}
        given |= {"DLCLOUD_HOME": str(self.folder / "home"), "COLUMNS": "200", "NO_COLOR": "1"}
        if self._kubeconfig is not None:
            given["KUBECONFIG"] = str(self._kubeconfig)
        words = [sys.executable, "-m", "dlcloud", *map(str, arguments)]
        return Started(words, given | environment, self._working_dir)


class Started:
    """A process that began, to be asked how it ended."""

    def __init__(self, words: Sequence[str], environment: dict[str, str], working_dir: Path) -> None:
        self._words = words
        self._popen = subprocess.Popen(
            words,
            env=environment,
            cwd=working_dir,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def end(self, code: int = 0, limit_s: float = LIMIT_S) -> str:
        """All that it wrote, once it has ended. Raises AssertionError where that takes longer, or for another code."""
        try:
            said = self._popen.communicate(timeout=limit_s)[0].decode(errors="replace")
        except subprocess.TimeoutExpired as error:
            so_far = (error.stdout or b"").decode(errors="replace")
            raise AssertionError(f"not within {limit_s:g} s: {' '.join(self._words)}\n{so_far}") from None
        assert self._popen.returncode == code, f"{' '.join(self._words)}: {self._popen.returncode}\n{said}"
        return said

    def __enter__(self) -> Started:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._popen.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGKILL)  # its own session: what it started goes with it
            self._popen.communicate()
