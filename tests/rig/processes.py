"""Programs as child processes: their logs, their signals, and their end with the process they belong to.

May import the standard library only. Waits, but never decides what to do with a program that has ended.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, TypeVar

KEEPER = Path(__file__).with_name("keeper.py")
PORTS = range(
    20_000, 32_000
)  # below what the kernel gives to outgoing connections: a port stays free while its program restarts
TAIL_LINES = 25
T = TypeVar("T")


class RigError(Exception):
    """The rig could not do what was asked; the message says why, with the end of the program's log."""


class Keeper:
    """A process that outlives `owner` and kills what it was given then."""

    _lock = threading.Lock()
    _keepers: ClassVar[dict[int, Keeper]] = {}

    def __init__(self, owner: int) -> None:
        command = [sys.executable, "-I", "-S", str(KEEPER), str(owner)]
        pipe = subprocess.PIPE
        self._popen = subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True)
        assert self._popen.stdout is not None
        if not self._popen.stdout.readline():
            raise RigError(f"process {owner} is gone")

    @classmethod
    def of(cls, owner: int) -> Keeper:
        """The one of this process for `owner`, a process id."""
        with cls._lock:
            keeper = cls._keepers.get(owner)
            if keeper is None or keeper._popen.poll() is not None:
                keeper = cls._keepers[owner] = cls(owner)
            return keeper

    def keep(self, pid: int) -> None:
        """Kill process `pid` when the owner has ended."""
        assert self._popen.stdin is not None
        self._popen.stdin.write(f"{pid}\n".encode())
        self._popen.stdin.flush()


class Program:
    """One program with its log. It may be started again under the same name; the log goes on."""

    def __init__(self, name: str, log: Path, owner: int | None) -> None:
        """`owner`: the process it must not outlive; None: it outlives all."""
        self.name, self.log, self._owner = name, log, owner
        self._popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Raises RigError when it is not running."""
        if self._popen is None or self._popen.poll() is not None:
            raise RigError(f"{self.name} is not running{self.tail()}")
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start `command` with exactly this environment."""
        keeper = None if self._owner is None else Keeper.of(self._owner)
        with self.log.open("ab") as output:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(environment),
                cwd=self.log.parent,
                start_new_session=True,  # Ctrl-C in the terminal is for the tests, which then stop what they started
            )
        if keeper is not None:
            keeper.keep(self._popen.pid)

    def signal(self, number: signal.Signals) -> None:
        """Raises RigError when it is not running."""
        os.kill(self.pid, number)

    def stand_still(self, limit_s: float = 10.0) -> None:
        """SIGSTOP; returns when all of its threads have met it, some of which may still answer meanwhile."""
        self.signal(signal.SIGSTOP)
        until(f"{self.name} stands still", lambda: set(states(self.pid)) == {"T"}, limit_s, poll_s=0.005)

    def stop(self, grace_s: float) -> None:
        """Terminate, and kill what is still there after `grace_s`; 0 kills at once."""
        if self._popen is None:
            return
        if grace_s > 0 and self._popen.poll() is None:
            self._popen.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(grace_s)
        self._popen.kill()  # a stopped process (SIGSTOP) dies of it too
        self._popen.wait()

    def tail(self) -> str:
        """The end of its log, to be put behind a message."""
        with contextlib.suppress(OSError):
            lines = self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
            return f"; the end of {self.log}:\n" + "\n".join(f"  {line}" for line in lines)
        return ""


def states(pid: int) -> list[str]:
    """What each of its threads is at, as in proc(5): R runs, S sleeps, T is stopped."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            found.append(task.read_text().rpartition(")")[2].split()[0])
    return found


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 on which nothing listens; all different."""
    found: list[int] = []
    with contextlib.ExitStack() as held:
        for port in random.sample(PORTS, len(PORTS)):
            one = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                one.bind(("127.0.0.1", port))
                found.append(port)
            if len(found) == count:
                return found
    raise RigError(f"no {count} free ports in {PORTS.start}..{PORTS.stop} of 127.0.0.1")


def until(what: str, look: Callable[[], T | None], limit_s: float, *needs: Program, poll_s: float = 0.02) -> T:
    """What `look` returns once it is true. Raises RigError after `limit_s`, or when a program of `needs` has ended."""
    give_up = time.monotonic() + limit_s
    while True:
        if found := look():
            return found
        for program in needs:
            if not program.running:
                raise RigError(f"{program.name} has ended, waiting until {what}{program.tail()}")
        if time.monotonic() > give_up:
            raise RigError(f"not within {limit_s:g} s: {what}" + "".join(program.tail() for program in needs))
        time.sleep(poll_s)
