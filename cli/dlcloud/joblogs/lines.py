"""Lines of a pod's output as values: who wrote them, which are wanted, how they are shown.

May import the jobs' protocol. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..jobs.source import LogLine

_WRITER = re.compile(r"\[(?:rank (\d+)|[a-z]+)\] ?")
_POD = re.compile(r".*-(\d+)-(\d+)")


@dataclass(frozen=True)
class Line:
    """A line and its writer; `rank` is None for the agent and whatever else speaks in a pod."""

    pod: str
    raw: str  # as it stands in the pod's output
    text: str  # without the writer before it
    rank: int | None

    @property
    def place(self) -> tuple[int, int] | None:
        """Worker index and incarnation, from the pod's name."""
        return place_of(self.pod)


def place_of(pod: str) -> tuple[int, int] | None:
    """Worker index and incarnation of `{job}-{index}-{incarnation}`."""
    found = _POD.fullmatch(pod)
    return (int(found[1]), int(found[2])) if found else None


def split_line(line: LogLine) -> Iterator[Line]:
    """The line of each writer; what one of them overwrote with a carriage return is left out, as on a terminal."""
    last: Line | None = None
    for piece in line.text.split("\r"):
        if not piece and last is not None:
            continue
        found = _WRITER.match(piece)
        rank = int(found[1]) if found and found[1] else None
        new = Line(line.pod, piece, piece[found.end() :] if found else piece, rank)
        if last is not None and (last.rank != rank or (rank is None and last.raw[:8] != piece[:8])):
            yield last
        last = new
    if last is not None:
        yield last


@dataclass(frozen=True)
class Selection:
    """What the user asked for; nothing given means everything."""

    ranks: frozenset[int] = frozenset()
    worker: int | None = None

    def wants_pod(self, pod: str) -> bool:
        """Whether lines of this pod are wanted at all."""
        place = place_of(pod)
        return self.worker is None or (place is not None and place[0] == self.worker)

    def wants(self, line: Line) -> bool:
        """Whether to show the line."""
        return self.wants_pod(line.pod) and (not self.ranks or line.rank in self.ranks)

    def show(self, line: Line) -> str:
        """The line as text; of a single rank without the rank."""
        return line.text if len(self.ranks) == 1 else line.raw


def as_json(line: Line) -> str:
    """One JSON object: pod, worker, incarnation, rank (null for the agent), text."""
    worker, incarnation = line.place or (None, None)
    fields = {"pod": line.pod, "worker": worker, "incarnation": incarnation, "rank": line.rank, "text": line.text}
    return json.dumps(fields)
