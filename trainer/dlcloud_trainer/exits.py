"""From an exception to the exit code and the outcome of docs/protocol.md, section 3: the one place that knows the words
of gloo and NCCL.

May import torch. Pure; a test for every text that was seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist

from .checkpoint.errors import Fenced, StateMismatch, StoreUnusable, UploadFailed
from .errors import InvalidInput, NotSaved, PeerLost, StaleRound, StoreAway

SUCCEEDED, ERROR = 0, 1
INVALID_INPUT, PEER_LOST, PORT_BUSY, FENCED, DRAINED, STORE_UNUSABLE, STALE, STORE_AWAY = 64, 72, 73, 74, 75, 77, 78, 79

_PORT_BUSY = ("eaddrinuse", "address already in use")
# Mistakes in how a backend was called, not signs of a lost peer.
_MISUSE = ("ncclinvalidusage", "ncclinvalidargument", "ncclunhandledcudaerror", "duplicate gpu")
_LOST = (
    "connection closed by peer",
    "connection reset by peer",
    "connection refused",
    "connection was likely closed",
    "connection timed out",
    "connection aborted",
    "broken pipe",
    "socket closed",
    "socket timeout",
    "socket timed out",
    "no route to host",
    "network is unreachable",
    "host is unreachable",
    "timed out waiting",
    "application timeout caused pair closure",
    "pair is not connected",
    "gloo/transport/",
    "connectfullmesh failed",
    "nccl communicator was aborted",
    "ncclremoteerror",
    "ncclsysteme",
    "remote process exited or there was a network error",
    "collective operation timeout",
    "failed to recv, got 0 bytes",
    "wait timeout after",
)


@dataclass(frozen=True)
class Ending:
    """How a rank ends. `expected`: the message says it all, a traceback would only frighten."""

    code: int
    outcome: str
    message: str
    expected: bool = True


def judge(error: BaseException, *, draining: bool) -> Ending:
    """The ending an exception asks for; `draining`: this rank was told to stop, so lost peers are no news."""
    message = str(error).strip() or type(error).__name__
    if isinstance(error, Fenced):
        return Ending(FENCED, "Fenced", message)
    if isinstance(error, InvalidInput | StateMismatch):
        return Ending(INVALID_INPUT, "InvalidInput", message)
    if isinstance(error, StoreUnusable | UploadFailed):
        return Ending(STORE_UNUSABLE, "StoreUnusable", message)
    if isinstance(error, StoreAway):
        return Ending(STORE_AWAY, "StoreAway", message)
    if isinstance(error, NotSaved):
        return Ending(ERROR, "Error", message)
    first_line = message.splitlines()[0]
    if is_port_busy(error):
        return Ending(PORT_BUSY, "PortBusy", first_line)
    if isinstance(error, StaleRound) or is_peer_lost(error):
        if draining:
            return Ending(DRAINED, "Drained", "stopped with the other ranks")
        code = STALE if isinstance(error, StaleRound) else PEER_LOST
        return Ending(code, "PeerLost", f"lost the connection to another rank: {first_line}")
    return Ending(ERROR, "Error", f"{type(error).__name__}: {message}", expected=False)


def is_port_busy(error: BaseException) -> bool:
    """The store could not listen: another process has its port."""
    return isinstance(error, RuntimeError | OSError) and _has(error, _PORT_BUSY)


def is_peer_lost(error: BaseException) -> bool:
    """A collective or the store failed because another rank is gone or out of reach."""
    if isinstance(error, PeerLost | ConnectionError):
        return True
    if not isinstance(error, RuntimeError) or _has(error, _MISUSE):
        return False
    return isinstance(error, dist.DistError) or _has(error, _LOST)


def _has(error: BaseException, texts: tuple[str, ...]) -> bool:
    message = str(error).lower()
    return any(text in message for text in texts)
