"""The processes the agent starts itself: the zygote, and ranks in images without our package.

May import the standard library only. Everything is started from the main thread: a process that asked to die with its
parent dies with the thread that started it.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .values import RankId

MESSAGE_BYTES = 1 << 17
ZYGOTE_MODULE = "dlcloud_trainer.zygote"

_NO_MODULE = re.compile(rb"No module named '?dlcloud_trainer(\.zygote)?'?\)?\s*$", re.MULTILINE)

# A fresh interpreter runs this and becomes the rank: prctl after a fork of the threaded agent itself would not be safe.
_SHIM = """\
import os, sys
fd, parent, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
try:
    import ctypes
    ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
except Exception:
    pass
if os.getppid() != parent:
    os._exit(1)
os.write(fd, b'{"event":"forked"}\\n')
try:
    os.execvp(command[0], command)
except OSError as error:
    sys.stderr.write("script.command: cannot run %r: %s\\n" % (command[0], error.strerror))
    sys.exit(126 if isinstance(error, PermissionError) else 127)
"""


class Zygote:
    """A running zygote and the socket to it. Its messages and their end are delivered from a thread of its own."""

    def __init__(self, deliver: Callable[[Zygote, dict[str, Any] | None], None]) -> None:
        """Start it. `deliver(zygote, message)` gets every message and at last None. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        output_r, output_w = os.pipe()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", ZYGOTE_MODULE, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=output_w,
                stderr=output_w,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        finally:
            theirs.close()
            os.close(output_w)
        self.output = output_r
        self.greeted = False  # it could import its own module
        self.ready = False
        self.drained = False  # no message will come any more
        self._socket = ours
        self._deliver = deliver
        threading.Thread(target=self._read, name="zygote", daemon=True).start()

    def fork(self, id: RankId, command: Sequence[str], threads: int, env: dict[str, str], fds: Sequence[int]) -> None:
        """Ask for a rank; `fds` are its output and its events. Raises OSError."""
        request = {"do": "fork", "id": list(id), "command": list(command), "threads": threads, "env": env}
        socket.send_fds(self._socket, [json.dumps(request).encode()], list(fds))

    def kill(self) -> None:
        """End it at once; the kernel kills its ranks with it."""
        if self.process.poll() is None:
            self.process.kill()

    def close(self) -> None:
        """Release the socket of a zygote that is gone."""
        self._socket.close()

    def _read(self) -> None:
        while True:
            try:
                data = self._socket.recv(MESSAGE_BYTES)
            except OSError:
                data = b""
            if not data:
                self._deliver(self, None)
                return
            self._deliver(self, json.loads(data))


def start_cold(command: Sequence[str], env: dict[str, str], output: int, events: int) -> subprocess.Popen[bytes]:
    """A rank without zygote, leader of a session of its own. Raises OSError."""
    return subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", _SHIM, str(events), str(os.getpid()), *command],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=[events],
        env={"PYTHONUNBUFFERED": "1", **os.environ, **env, "DLCLOUD_EVENTS_FD": str(events)},
        start_new_session=True,
    )


def zygote_is_absent(code: int, output: bytes) -> bool:
    """Whether `python -m dlcloud_trainer.zygote` ended because the image has no such module."""
    return code == 1 and _NO_MODULE.search(output) is not None
