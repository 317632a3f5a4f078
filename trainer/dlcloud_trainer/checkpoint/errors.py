"""What can go wrong with checkpoints, one class and one sentence each. `StoreUnusable` and its subclasses come from
the object stores.

May import objects.errors only.
"""

from __future__ import annotations

from ..objects.errors import (
    AccessDenied,
    BucketMissing,
    ConditionalWritesMissing,
    CredentialsMissing,
    NotAnObjectStore,
    StoreFull,
    StoreReadOnly,
    StoreUnreachable,
    StoreUnusable,
    StoreUriInvalid,
)

__all__ = [
    "AccessDenied",
    "BucketMissing",
    "CheckpointError",
    "ConditionalWritesMissing",
    "CredentialsMissing",
    "Damaged",
    "Fenced",
    "NewerFormat",
    "NoRoom",
    "NotAnObjectStore",
    "NothingSound",
    "NothingToResume",
    "StateMismatch",
    "StateNotPlain",
    "StoreFull",
    "StoreReadOnly",
    "StoreUnreachable",
    "StoreUnusable",
    "StoreUriInvalid",
    "UploadFailed",
]


class CheckpointError(Exception):
    """Base of what the engine itself finds wrong."""


class Fenced(CheckpointError):
    """A newer round owns the checkpoints: this process must stop, and has changed nothing."""


class Damaged(CheckpointError):
    """An object is not what its manifest says, or cannot be read as what it should be."""


class StateNotPlain(CheckpointError):
    """A state_dict holds something that cannot be stored without pickle."""


class StateMismatch(CheckpointError):
    """The checkpoint's state does not fit the program that asks for it."""


class NoRoom(CheckpointError):
    """There is no memory for a copy of the state: a save must send it from where it lies."""


class UploadFailed(CheckpointError):
    """A checkpoint could not be uploaded or committed in time."""


class NewerFormat(StoreUnusable):
    """A newer program wrote this: reading on would lose what it says."""


class NothingSound(StoreUnusable):
    """The job has checkpoints, and none of them can be read: it must not silently begin anew."""


class NothingToResume(StoreUnusable):
    """`resumeFrom` names nothing a job can begin from."""
