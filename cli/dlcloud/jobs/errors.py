"""What commands on jobs raise for the user to read. May import nothing."""

from __future__ import annotations


class JobsError(Exception):
    """What was asked for cannot be done; the message is one sentence for the user and says what to do."""


class JobNotFound(JobsError):
    """There is no such job; the message names the nearest ones."""


class Unreachable(JobsError):
    """The cluster or the store does not answer, or refuses these credentials: the same may work later."""
