"""What the agent's threads put into its queue about processes.

May import the standard library only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .processes import Zygote
    from .values import RankId


class ZygoteSaid(NamedTuple):
    """A message of a zygote; None: there will be no more."""

    zygote: Zygote
    message: dict[str, Any] | None


class Told(NamedTuple):
    """SIGTERM or SIGINT."""

    number: int


class ChildrenChanged(NamedTuple):
    """SIGCHLD."""


class RankSaid(NamedTuple):
    """An event of a rank."""

    id: RankId
    event: dict[str, Any]


class PipeDrained(NamedTuple):
    """All that a dead rank left in one of its pipes was read."""

    id: RankId
    pipe: str


class ZygoteReady(NamedTuple):
    """The zygote can fork."""


class ZygoteAbsent(NamedTuple):
    """There is none in this image."""


class ZygoteEnded(NamedTuple):
    """The zygote is gone, its ranks with it."""

    code: int
    message: str


class RankEnded(NamedTuple):
    """A rank was reaped and everything it wrote was read."""

    id: RankId
    code: int
    tail: str
    killed: bool  # by this agent's SIGKILL: it lived until then


class LaunchFailed(NamedTuple):
    """A rank could not be started."""

    id: RankId
    message: str
