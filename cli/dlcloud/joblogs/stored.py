"""The output that agents keep on the store: `logs/{pod}/{part:06d}.log` below the job's prefix.

May import the objects module and the jobs' protocol. A part is read again only when it has grown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from ..jobs.source import LogLine
from ..objects import Reader

LOGS = "logs/"
_PART = re.compile(r"logs/([^/]+)/(\d+)\.log")
Wanted = Callable[[LogLine], int]


@dataclass
class _State:
    """How far a pod's output was handed out: up to `offset` of `part`; `rest` is a line that has not ended."""

    part: int = 0
    offset: int = 0
    rest: bytes = b""


class StoredLogs:
    """Hands out what the store holds of pods, oldest first within a pod."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._states: dict[str, _State] = {}

    def poll(self, wants_pod: Callable[[str], bool], *, tail: int | None = None, wanted: Wanted | None = None,
             last: bool = False) -> Iterator[LogLine]:  # fmt: skip
        """The complete lines that came since the last call, of the pods that are wanted; with `last` also those that
        have not ended.

        `tail`: of a pod met for the first time only the newest parts are read, as many as hold that many `wanted`
        lines (it says how many a line counts). Raises StoreError.
        """
        pods: dict[str, dict[int, int]] = {}
        for info in self._reader.list(LOGS):
            found = _PART.fullmatch(info.key)
            if found and wants_pod(found[1]):
                pods.setdefault(found[1], {})[int(found[2])] = info.size_bytes
        for pod, parts in sorted(pods.items(), key=lambda item: pod_order(item[0])):
            state = self._states.get(pod)
            if state is None:
                first = self._first_part(pod, parts, tail, wanted) if tail is not None and wanted else 0
                state = self._states[pod] = _State(first)
            yield from self._read(pod, state, parts)
            if last and state.rest:
                yield _line(pod, state.rest)
                state.rest = b""

    def _first_part(self, pod: str, parts: Collection[int], tail: int, wanted: Wanted) -> int:
        count = 0
        for part in sorted(parts, reverse=True):
            data = self._reader.read(_key(pod, part)) or b""
            count += sum(wanted(_line(pod, raw)) for raw in data.split(b"\n"))
            if count > tail:  # one more than asked: the first line may be half
                return part
        return 0

    def _read(self, pod: str, state: _State, parts: dict[int, int]) -> Iterator[LogLine]:
        for part in sorted(number for number in parts if number >= state.part):
            if part > state.part:
                state.part, state.offset = part, 0
            if parts[part] <= state.offset:
                continue
            data = (self._reader.read(_key(pod, part)) or b"")[state.offset :]
            state.offset += len(data)
            *lines, state.rest = (state.rest + data).split(b"\n")
            for raw in lines:
                yield _line(pod, raw)


def pod_order(pod: str) -> tuple[int, int, str]:
    """Worker by worker, and in each one its pods in the order they were made."""
    _, index, incarnation = (["", "", *pod.rsplit("-", 2)])[-3:]
    return (int(index), int(incarnation), "") if index.isdigit() and incarnation.isdigit() else (0, 0, pod)


def _key(pod: str, part: int) -> str:
    return f"{LOGS}{pod}/{part:06d}.log"


def _line(pod: str, raw: bytes) -> LogLine:
    return LogLine(pod, raw.decode("utf-8", "replace").rstrip("\r"))
