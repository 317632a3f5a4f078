"""How a rank's end is judged, and which of its words are kept: pure functions.

May import the standard library only. The names are those of the API's `Outcome`; a test compares them.
"""

from __future__ import annotations

import re
import signal
from typing import NamedTuple

SUCCEEDED = "Succeeded"
STOPPED = "Stopped"
DRAINED = "Drained"
OUT_OF_MEMORY = "OutOfMemory"
SIGNAL = "Signal"
ERROR = "Error"
INVALID_INPUT = "InvalidInput"
STORE_UNUSABLE = "StoreUnusable"
STORE_AWAY = "StoreAway"
STALLED = "Stalled"
FORK_HANG = "ForkHang"
PORT_BUSY = "PortBusy"
FENCED = "Fenced"
PEER_LOST = "PeerLost"

BY_EXIT_CODE = {
    0: SUCCEEDED,
    1: ERROR,
    64: INVALID_INPUT,
    72: PEER_LOST,
    73: PORT_BUSY,
    74: FENCED,
    75: DRAINED,
    76: STALLED,
    77: STORE_UNUSABLE,
    78: PEER_LOST,
    79: STORE_AWAY,
}
FROM_RANKS = frozenset(BY_EXIT_CODE.values()) - {SUCCEEDED}

# The most telling first: what a pod's termination message names when its ranks ended differently.
SEVERITY = (
    OUT_OF_MEMORY, SIGNAL, FORK_HANG, INVALID_INPUT, STORE_UNUSABLE, STORE_AWAY, STALLED, ERROR, FENCED,
    PORT_BUSY, PEER_LOST, DRAINED, STOPPED, SUCCEEDED,
)  # fmt: skip

MESSAGE_BYTES = 1024
_KERNEL = "killed by the kernel: the pod's memory limit was reached"
_TRACEBACK = "Traceback (most recent call last):"
_LINES_AFTER_EXCEPTION = 6
_TORCH_PREFIX = re.compile(r"^\[rank\d+\]: ?", re.MULTILINE)  # what torch.distributed puts before a traceback's lines


class Ending(NamedTuple):
    """All that is known when a rank's process is gone. `code` is negative for a signal, as in subprocess."""

    code: int
    script: bool
    failed: tuple[str, str] | None = None  # outcome and message of the rank's own `failed` line
    sent: frozenset[int] = frozenset()  # signals this agent sent it
    stopping: bool = False  # because a newer round began, or the job is finished
    draining: bool = False
    oom_kills: int = 0  # processes of the pod the kernel killed for memory and no rank has claimed yet
    tail: str = ""  # last words of its output


def judge(end: Ending) -> tuple[str, str]:
    """Outcome and message (at most 1 KiB) of a rank's end."""
    ours = -end.code in end.sent if end.code < 0 else False
    if end.failed is not None:  # even when it was killed on its way out: this is why the round ended
        outcome, message = end.failed
        return (outcome if outcome in FROM_RANKS else ERROR), shorten(message)
    if end.stopping and ours:
        return STOPPED, ""
    if end.code == 0:
        return SUCCEEDED, ""
    if end.draining and (ours or end.script):
        return STOPPED, "ended after SIGTERM to the pod"
    if end.code < 0:
        if end.code == -signal.SIGKILL and end.oom_kills > 0:
            return OUT_OF_MEMORY, f"{_KERNEL}; raise workers.memory or use smaller batches"
        return SIGNAL, _join(f"ended by {signal_name(-end.code)}", end.tail)
    outcome = ERROR if end.script else BY_EXIT_CODE.get(end.code, ERROR)
    message = end.tail or f"exit code {end.code} without a word"
    if end.oom_kills > 0:
        message = _join("the kernel killed a process of this pod for its memory limit", message)
    return outcome, shorten_start(message)


def signal_name(number: int) -> str:
    """`SIGKILL (signal 9)`."""
    try:
        return f"{signal.Signals(number).name} (signal {number})"
    except ValueError:
        return f"signal {number}"


def describe_code(code: int) -> str:
    """An exit code as subprocess has it, in words."""
    return signal_name(-code) if code < 0 else f"exit code {code}"


def last_words(tail: bytes) -> str:
    """The last traceback in the tail of an output, ending with its exception, or else its last lines; at most 1 KiB."""
    text = tail.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n").strip("\n")
    lines = _TORCH_PREFIX.sub("", text).split("\n")
    starts = [number for number, line in enumerate(lines) if line.strip() == _TRACEBACK]
    if starts:
        lines = lines[starts[-1] :]
        exception = next((n for n, line in enumerate(lines) if n and line and not line[0].isspace()), None)
        # An exception's text may have several lines; more than a few are other writers' noise.
        if exception is not None and len(lines) - exception - 1 > _LINES_AFTER_EXCEPTION:
            lines = lines[: exception + 1]
    return shorten_start("\n".join(line.rstrip() for line in lines if line.strip()))


def shorten(text: str, limit: int = MESSAGE_BYTES) -> str:
    """The text cut at its end to `limit` bytes of UTF-8."""
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return data.decode()
    return data[: limit - 4].decode("utf-8", "ignore") + " ..."


def shorten_start(text: str, limit: int = MESSAGE_BYTES) -> str:
    """The text cut at its start, at a line where that loses little, to `limit` bytes of UTF-8."""
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return data.decode()
    kept = data[len(data) - limit + 4 :].decode("utf-8", "ignore")
    newline = kept.find("\n")
    return "...\n" + (kept[newline + 1 :] if 0 <= newline < len(kept) // 2 else kept)


def _join(first: str, rest: str) -> str:
    if not rest:
        return first
    return first + ": " + shorten_start(rest, MESSAGE_BYTES - len(first.encode()) - 2)
