"""The values the agent's parts hand to each other: instructions, results, effects.

May import the standard library only. NamedTuples rather than dataclasses, whose import would lengthen the agent's
start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple


class RankId(NamedTuple):
    """One rank of one round: what a process is known by, since its pid may be used again."""

    round: int
    rank: int


class Moment(NamedTuple):
    """Now, on both clocks: `mono` for waits (s), `wall` for what is told to others (s since the epoch).

    `oom_kills`: processes of this pod the kernel has killed for memory so far; None where it cannot be read.
    """

    mono: float
    wall: float
    oom_kills: int | None = None


class Assignment(NamedTuple):
    """The operator's instruction for one round. `job` is passed on to the ranks untouched."""

    round: int
    nonce: str
    ranks: tuple[int, ...]
    world_size: int
    workers: int
    worker: int
    master_addr: str
    master_port: int
    threads: int
    restarts: int
    job: dict[str, Any]
    text: str  # the instruction as received: DLCLOUD_ASSIGNMENT of a workload's ranks

    @property
    def command(self) -> tuple[str, ...]:
        """What a script job runs; empty for a workload."""
        script = self.job.get("script") or {}
        return tuple(str(part) for part in [*(script.get("command") or []), *(script.get("args") or [])])


class Finished(NamedTuple):
    """The operator's last instruction."""

    phase: str

    @property
    def exit_code(self) -> int:
        """What the agent exits with."""
        return 0 if self.phase == "Succeeded" else 1


class Result(NamedTuple):
    """How one rank ended. `ended_at` in seconds since the epoch, on this pod's clock."""

    round: int
    rank: int
    outcome: str
    exit_code: int | None
    ended_at: float
    message: str


# --- effects: what the state machine wants done, in this order ---


class StartZygote(NamedTuple):
    """Start a zygote; none is alive."""


class RestartZygote(NamedTuple):
    """Kill the zygote with every rank it forked, and start another."""


class OfferPort(NamedTuple):
    """Probe a free port other than `avoid` and put it into the reports."""

    avoid: int


class Launch(NamedTuple):
    """Start a rank: forked by the zygote, or `cold` by the agent itself."""

    id: RankId
    assignment: Assignment
    local_rank: int
    cold: bool


class Signal(NamedTuple):
    """Send a signal to the rank's process group."""

    id: RankId
    number: int


class Report(NamedTuple):
    """Something the operator should hear: at once, or (not urgent) within a second."""

    urgent: bool


class Say(NamedTuple):
    """A line for the pod's log."""

    text: str


class Exit(NamedTuple):
    """Everything is over: write the termination message, send the last report, leave with this code."""

    code: int


if TYPE_CHECKING:
    Effect = StartZygote | RestartZygote | OfferPort | Launch | Signal | Report | Say | Exit
