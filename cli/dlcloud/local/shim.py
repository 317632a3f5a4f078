"""The small process between this program and a pod: whatever dies, the pod's processes die with it.

Run as a file by a bare interpreter (`python -I -S -E shim.py PARENT_PID PROGRAM [ARG...]`), so it may import the
standard library only, and little of it: its start is part of every pod's. It never writes to the pod's output but to
say that the program cannot be started.

It ends with the program's exit code (128 + signal, as container runtimes do) once all the program left behind is dead.
SIGTERM goes on to the program; SIGUSR1 kills everything now; the parent's death does the same.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PARENT_POLL_S = 1.0  # where no signal tells of the parent's death (macOS), and in case one is lost
KILLED = 128 + signal.SIGKILL

# Python ignores these two, and a shell's background job the others; a program started here must not inherit that.
_DEFAULT_AGAIN = (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP)
_HANDLED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD)


def main(arguments: list[str]) -> int:
    parent, command = int(arguments[0]), arguments[1:]
    received: set[int] = set()
    wake = _listen(received)
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    # Fires when the thread that forked us ends, too: the signal only makes us look at getppid().
    _prctl(PR_SET_PDEATHSIG, signal.SIGUSR2)
    if os.getppid() != parent:
        return KILLED
    if ended_early := received & {signal.SIGTERM, signal.SIGUSR1}:
        return 128 + signal.SIGTERM if signal.SIGTERM in ended_early else KILLED
    program = _start(command)
    code = None
    while code is None:
        select.select([wake], [], [], PARENT_POLL_S)
        with contextlib.suppress(BlockingIOError):
            os.read(wake, 4096)
        if signal.SIGUSR1 in received or os.getppid() != parent:
            kill_descendants(program)
            return KILLED
        if signal.SIGTERM in received:
            received.discard(signal.SIGTERM)
            os.kill(program, signal.SIGTERM)  # not reaped yet, so the number is still the program's
        code = _reap(program)
    kill_descendants(program)
    return code


def kill_descendants(group: int) -> None:
    """Kill and reap until no child is left; a subreaper inherits every orphan, so then no descendant is left either."""
    pause_s = 0.0005
    while True:
        if sys.platform != "linux":
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)  # all there is where orphans do not come to us (macOS)
        for pid in descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            return
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.05)


def descendants(root: int) -> list[int]:
    """Every process below `root`, by one pass over /proc (empty where there is none)."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else ():  # noqa: PTH112, PTH208 - pathlib costs 10 ms here
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                # The name may hold spaces and brackets: the fields that can be split begin after the last one.
                parent = int(file.read().rpartition(b")")[2].split()[1])
                children.setdefault(parent, []).append(int(name))
    found, new = [], [root]
    while new:
        new = [child for parent in new for child in children.get(parent, ())]
        found += new
    return found


def _listen(received: set[int]) -> int:
    """Note signals in `received`; the descriptor that is returned becomes readable at each."""
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.set_blocking(write_end, False)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    for number in _HANDLED:
        signal.signal(number, lambda number, _: received.add(number))
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    return read_end


def _start(command: list[str]) -> int:
    # Blocked over the fork: a SIGTERM passed on before the program runs must end it, not reach a copy of our handler.
    old = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
    me = os.getpid()
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
        return pid
    code = 126
    try:
        os.setsid()
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.set_wakeup_fd(-1)
        for number in _HANDLED + _DEFAULT_AGAIN:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        if os.getppid() == me:
            os.execvp(command[0], command)
    except FileNotFoundError:
        code = 127
        _say(f"cannot start {command[0]!r}: no such program in {os.environ.get('PATH', '')}")
    except OSError as error:
        _say(f"cannot start {command[0]!r}: {error.strerror}")
    finally:
        os._exit(code)


def _reap(program: int) -> int | None:
    """Reap whatever has ended; the program's exit code when it is among it."""
    code = None
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == program:
                number = os.waitstatus_to_exitcode(status)
                code = number if number >= 0 else 128 - number
    return code


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(2, f"dlcloud: {text}\n".encode())


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
