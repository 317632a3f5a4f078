"""How the server encrypts what is written: from the job's words to the S3 client's.

May import the standard library, credentials and errors. Pure. Must never put the customer's key into a message or a
`repr`.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import Any

from .credentials import CUSTOMER_KEY
from .errors import CredentialsMissing, StoreUriInvalid

KEY_BYTES = 32
ALGORITHMS = {"SSE-S3": "AES256", "SSE-KMS": "aws:kms", "SSE-C": "sse-c"}


@dataclass(frozen=True)
class Encryption:
    """`kind` is a key of `ALGORITHMS`; `kms_key_id` may be empty (the server's default key)."""

    kind: str
    kms_key_id: str = ""
    customer_key: str = field(default="", repr=False)  # base64, for SSE-C

    def client_settings(self) -> dict[str, Any]:
        """The settings of obstore's `S3Store`."""
        settings = {"server_side_encryption": ALGORITHMS[self.kind]}
        if self.kms_key_id:
            settings["sse_kms_key_id"] = self.kms_key_id
        if self.customer_key:
            settings["sse_customer_key_base64"] = self.customer_key
        return settings

    def __str__(self) -> str:
        return f"{self.kind} with key {self.kms_key_id!r}" if self.kms_key_id else self.kind


def parse_encryption(kind: str, kms_key_id: str, customer_key: str, endpoint: str) -> Encryption | None:
    """None for an empty `kind`; `customer_key` (base64) counts for SSE-C only. Raises `StoreUriInvalid` and
    `CredentialsMissing`."""
    if not kind:
        return None
    if kind not in ALGORITHMS:
        raise StoreUriInvalid(f"objectStore.encryption.type: {kind!r} is unknown; give {', '.join(ALGORITHMS)}")
    if kind != "SSE-C":
        return Encryption(kind, kms_key_id if kind == "SSE-KMS" else "")
    if endpoint and not endpoint.startswith("https://"):
        raise StoreUriInvalid(
            f"objectStore.encryption: SSE-C sends its key with every request, in the clear to {endpoint}; give an "
            "https:// endpoint"
        )
    if not customer_key:
        raise CredentialsMissing(
            f"objectStore.encryption: SSE-C needs {CUSTOMER_KEY} in the Secret of objectStore.credentialsSecret: "
            f"{KEY_BYTES} random bytes in base64"
        )
    try:
        size = len(base64.b64decode(customer_key, validate=True))
    except (binascii.Error, ValueError):
        size = 0
    if size != KEY_BYTES:
        raise CredentialsMissing(
            f"objectStore.encryption: {CUSTOMER_KEY} is not {KEY_BYTES} bytes in base64; make one with: openssl rand "
            f"-base64 {KEY_BYTES}"
        )
    return Encryption(kind, customer_key=customer_key)
