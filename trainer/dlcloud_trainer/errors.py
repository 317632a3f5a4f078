"""What a rank may find wrong that is no bug, one class and one sentence each.

May import the standard library only. Checkpoints and object stores have errors of their own.
"""

from __future__ import annotations


class InvalidInput(Exception):
    """Data or settings no restart can mend; the message is one sentence for the user."""


class StaleRound(Exception):
    """The store that answered belongs to another round."""


class PeerLost(Exception):
    """Another rank cannot be reached."""


class StoreAway(Exception):
    """A later round cannot reach the checkpoints that its job has: worth another round."""


class NotSaved(Exception):
    """The training is done, and its last state could not be saved."""
