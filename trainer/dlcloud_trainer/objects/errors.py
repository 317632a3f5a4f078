"""What can be wrong with an object store, one class and one sentence each.

May import the standard library only. No message may ever hold a credential: none of them quotes a server's answer.
"""

from __future__ import annotations


class ObjectMissing(Exception):
    """There is no object under this key."""


class AlreadyExists(Exception):
    """`put_if_absent` found an object."""


class PreconditionFailed(Exception):
    """`put_if_match` found another version of the object, or none."""


class StoreUnusable(Exception):
    """The store cannot be used as it is; the message says why and what to do."""


class StoreUnreachable(StoreUnusable):
    """No answer, or an answer that asks to come again: the one kind that is worth a retry."""


class StoreUriInvalid(StoreUnusable):
    """URI, endpoint or CA file cannot be right."""


class NotAnObjectStore(StoreUnusable):
    """Something answers at the endpoint, and it is no S3 server."""


class CredentialsMissing(StoreUnusable):
    """There is nothing to sign requests with."""


class AccessDenied(StoreUnusable):
    """The store refused: wrong keys, or keys without the right."""


class BucketMissing(StoreUnusable):
    """There is no such bucket."""


class EncryptionRefused(StoreUnusable):
    """The store does not encrypt as `objectStore.encryption` asks."""


class StoreReadOnly(StoreUnusable):
    """The folder or file system cannot be written."""


class StoreFull(StoreUnusable):
    """No space or quota left."""


class ConditionalWritesMissing(StoreUnusable):
    """The store ignores `If-Match` or `If-None-Match`: two writers could overwrite each other's checkpoints."""
