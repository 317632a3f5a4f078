"""Object stores: `s3://` and `file://` with the same conditional writes.

May import obstore and numpy. Importing it starts no thread and calls nothing of obstore: the zygote does it.
"""

from .base import Data, Described, Objects, Pieces, Take, probe_conditional_writes, probe_rights
from .errors import (
    AccessDenied,
    AlreadyExists,
    BucketMissing,
    ConditionalWritesMissing,
    CredentialsMissing,
    EncryptionRefused,
    NotAnObjectStore,
    ObjectMissing,
    PreconditionFailed,
    StoreFull,
    StoreReadOnly,
    StoreUnreachable,
    StoreUnusable,
    StoreUriInvalid,
)
from .opening import open_objects

__all__ = [
    "AccessDenied",
    "AlreadyExists",
    "BucketMissing",
    "ConditionalWritesMissing",
    "CredentialsMissing",
    "Data",
    "Described",
    "EncryptionRefused",
    "NotAnObjectStore",
    "ObjectMissing",
    "Objects",
    "Pieces",
    "PreconditionFailed",
    "StoreFull",
    "StoreReadOnly",
    "StoreUnreachable",
    "StoreUnusable",
    "StoreUriInvalid",
    "Take",
    "open_objects",
    "probe_conditional_writes",
    "probe_rights",
]
