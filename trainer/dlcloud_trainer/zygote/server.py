"""The zygote's only loop: orders from the agent in, forks and exits out.

May import the standard library only. One thread, no buffer shared with children; a child leaves the loop by returning
its order.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import signal
import socket
import sys
from dataclasses import dataclass
from typing import Any

REQUEST_BYTES = 1 << 18


@dataclass(frozen=True)
class Order:
    """A rank to be, in the child that is to be it."""

    id: list[int]
    command: tuple[str, ...]  # empty for a workload
    threads: int
    env: dict[str, str]
    output: int
    events: int
    zygote_pid: int


class Server:
    """Forks on demand and reaps."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._ranks: dict[int, list[int]] = {}  # pid -> id

    def tell(self, message: dict[str, Any]) -> None:
        """Send the agent a message. A dead agent is noticed by the loop."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._control.send(json.dumps(message).encode())

    def serve(self) -> Order | None:
        """Work until the agent is gone (None), or until this is a forked child (its order)."""
        self._wake_r, self._wake_w = socket.socketpair()
        self._wake_r.setblocking(False)
        self._wake_w.setblocking(False)
        signal.set_wakeup_fd(self._wake_w.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        self._poll = select.poll()
        self._poll.register(self._control, select.POLLIN)
        self._poll.register(self._wake_r, select.POLLIN)
        while True:
            ready = [fd for fd, _ in self._poll.poll()]
            if self._wake_r.fileno() in ready:
                with contextlib.suppress(BlockingIOError):
                    while self._wake_r.recv(4096):
                        pass
                self._reap()
            if self._control.fileno() in ready:
                data, fds, _, _ = socket.recv_fds(self._control, REQUEST_BYTES, 2)
                if not data:
                    return None
                order = self._fork(json.loads(data), fds)
                if order is not None:
                    return order

    def _fork(self, request: dict[str, Any], fds: list[int]) -> Order | None:
        order = Order(
            id=request["id"],
            command=tuple(request["command"]),
            threads=int(request["threads"]),
            env=request["env"],
            output=fds[0],
            events=fds[1],
            zygote_pid=os.getpid(),
        )
        sys.stdout.flush()
        sys.stderr.flush()
        gc.freeze()  # a collection in the child would otherwise write to every page it shares
        # Blocked until the child has its own handlers: a signal in between would be lost to the zygote's.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
        except OSError as error:
            pid = -1
            self.tell({"is": "refused", "id": order.id, "message": f"fork: {error.strerror}"})
        if pid == 0:
            signal.set_wakeup_fd(-1)
            for end in (self._control, self._wake_r, self._wake_w):
                end.close()
            return order
        os.close(order.output)
        os.close(order.events)
        if pid > 0:
            self._ranks[pid] = order.id
            self.tell({"is": "forked", "id": order.id, "pid": pid})
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
        return None

    def _reap(self) -> None:
        while True:
            try:
                child = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if child is None:
                return
            id = self._ranks.pop(child.si_pid, None)
            if id is not None:  # its group ends with it, while the zombie still keeps the number from others
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(child.si_pid, signal.SIGKILL)
            _, status = os.waitpid(child.si_pid, 0)
            if id is not None:
                self.tell({"is": "exited", "id": id, "code": os.waitstatus_to_exitcode(status)})
