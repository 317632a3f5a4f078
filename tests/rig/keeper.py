"""Kills the programs it was told about as soon as the process it was started for is gone.

Run as `python -I -S keeper.py OWNER_PID`; it says that it is watching, and takes a process id a line on its standard
input. Imports the standard library only.
A death signal (PR_SET_PDEATHSIG) would not do: it comes when the *thread* that started a program ends.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time

LINUX = hasattr(os, "pidfd_open")


def main(owner: int) -> None:
    programs: list[tuple[int, int]] = []
    try:
        descriptor = os.pidfd_open(owner) if LINUX else -1
    except ProcessLookupError:
        return
    os.write(1, b"watching\n")
    if LINUX:
        watch_pidfd(descriptor, programs)
    else:
        watch_polling(owner, programs)
    for pid, descriptor in programs:
        with contextlib.suppress(ProcessLookupError):
            # A descriptor names the process for good, a number may have gone to another one.
            if LINUX:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            else:
                os.kill(pid, signal.SIGKILL)


def watch_pidfd(owner: int, programs: list[tuple[int, int]]) -> None:
    poll = select.poll()
    poll.register(owner, select.POLLIN)
    poll.register(sys.stdin, select.POLLIN | select.POLLHUP)
    while True:
        ready = {descriptor for descriptor, _ in poll.poll()}
        if sys.stdin.fileno() in ready and not take(programs):
            poll.unregister(sys.stdin)
        if owner in ready:
            while select.select([sys.stdin], [], [], 0)[0] and take(programs):  # what was written before the end
                pass
            return


def watch_polling(owner: int, programs: list[tuple[int, int]]) -> None:
    while True:
        if select.select([sys.stdin], [], [], 0.2)[0] and not take(programs):
            time.sleep(0.2)
        try:
            os.kill(owner, 0)
        except ProcessLookupError:
            return


def take(programs: list[tuple[int, int]]) -> bool:
    """Note the next program; False at the end of the input."""
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(sys.stdin.fileno(), 1)
        if not piece:
            return False
        line += piece
    with contextlib.suppress(ProcessLookupError):
        programs.append((int(line), os.pidfd_open(int(line)) if LINUX else -1))
    return True


if __name__ == "__main__":
    main(int(sys.argv[1]))
