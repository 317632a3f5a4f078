"""Processes that do not outlive this one: a program under its shim, its signals and its end.

May import the standard library only. Decides nothing: when to stop a program is the caller's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path

SHIM = Path(__file__).with_name("shim.py")
MARK = "DLCLOUD_SUPERVISED"
_POLL_S = 0.01  # only where a process has no descriptor to wait on (macOS)
_HARD_KILL_S = 5.0


class Supervised:
    """One program under a shim. Made by `start`; `wait` gives its exit code once all its processes are gone."""

    def __init__(self, popen: subprocess.Popen[bytes], mark: str) -> None:
        self._popen = popen
        self._mark = mark
        self._ended = asyncio.get_running_loop().create_future()
        self._watch()

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        log: Path,
        python: str = sys.executable,
        keep_fds: Sequence[int] = (),
    ) -> Supervised:
        """Start `command` with exactly this environment, output appended to `log`.

        A program that does not exist ends with 127 and a line in the log. Raises OSError when no shim can be started.
        """
        mark = str(uuid.uuid4())
        with log.open("ab") as output:
            popen = subprocess.Popen(
                [python, "-I", "-S", "-E", str(SHIM), str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=cwd,
                env={**env, MARK: mark},
                start_new_session=True,  # Ctrl-C in the terminal reaches this program only, and it decides
                pass_fds=tuple(keep_fds),
            )
        return cls(popen, mark)

    @property
    def pid(self) -> int:
        """The shim's process id."""
        return self._popen.pid

    @property
    def ended(self) -> bool:
        return self._ended.done()

    async def wait(self) -> int:
        """The program's exit code; 128 + n when a signal ended it."""
        return await asyncio.shield(self._ended)

    def terminate(self) -> None:
        """SIGTERM for the program alone, as a kubelet does it."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL for the program and all it started; the shim itself follows when it cannot do that within 5 s."""
        if not self.ended:
            self._send(signal.SIGUSR1)
            asyncio.get_running_loop().call_later(_HARD_KILL_S, self._send, signal.SIGKILL)

    async def stop(self, grace_s: float) -> int:
        """Terminate, wait `grace_s`, kill; the exit code."""
        self.terminate()
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(self.wait(), grace_s)
        self.kill()
        return await self.wait()

    def _send(self, number: signal.Signals) -> None:
        if not self.ended:
            self._popen.send_signal(number)

    def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        # Not asyncio's own watcher: up to Python 3.11 it takes a thread per process, and signals race with it.
        if sys.platform == "linux":
            descriptor = os.pidfd_open(self._popen.pid)

            def on_end() -> None:
                loop.remove_reader(descriptor)
                os.close(descriptor)
                self._finish()

            loop.add_reader(descriptor, on_end)
            return

        def look() -> None:
            if self._popen.poll() is None:
                loop.call_later(_POLL_S, look)
            else:
                self._finish()

        look()

    def _finish(self) -> None:
        code = self._popen.wait()
        if code < 0:  # the shim itself was killed: nobody has cleaned up behind the program
            kill_marked(self._mark)
            code = 128 + (signal.SIGTERM if code == -signal.SIGTERM else signal.SIGKILL)
        if not self._ended.done():
            self._ended.set_result(code)


def kill_marked(mark: str) -> None:
    """Kill every process whose environment carries `mark`, until none is left."""
    wanted = f"{MARK}={mark}".encode()
    me = os.getpid()
    killed = True
    while killed:
        killed = False
        for folder in Path("/proc").glob("[0-9]*"):
            if int(folder.name) == me:
                continue
            with contextlib.suppress(OSError):  # gone meanwhile, or another user's
                # A dead process that nobody has reaped has no environment any more, so this ends.
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    os.kill(int(folder.name), signal.SIGKILL)
                    killed = True
