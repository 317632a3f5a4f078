"""Standard output that may vanish: a closed pipe, a terminal that is gone, a full disk.

May import the standard library only. Never raises for a write; `gone` tells that nobody can read any more,
`closed_pipe` that the reader left on purpose (`| head`) and the command should end.
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TextIO

_GONE = {errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO}


class Output:
    """Writes whole lines at once and flushes them; a full disk loses lines, a vanished reader sets `gone`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.gone = False
        self.closed_pipe = False

    def line(self, text: str = "") -> None:
        """Write one line."""
        if self.gone:
            return
        try:
            self._stream.write(text + "\n")
            self._stream.flush()
        except UnicodeEncodeError:
            encoding = self._stream.encoding or "ascii"
            self.line(text.encode(encoding, "replace").decode(encoding))
        except (OSError, ValueError) as error:
            self.failed(error)

    def failed(self, error: Exception) -> None:
        """Take note of an error met while writing to the stream by other means."""
        if isinstance(error, ValueError) or (isinstance(error, OSError) and error.errno in _GONE):
            self.gone = True
            self.closed_pipe = isinstance(error, OSError) and error.errno == errno.EPIPE
            silence(self._stream)


def silence(stream: TextIO) -> None:
    """Point the stream's descriptor at /dev/null: the interpreter flushes at exit and would complain."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
