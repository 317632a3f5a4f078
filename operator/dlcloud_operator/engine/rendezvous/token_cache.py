"""Which tokens proved good a moment ago: a signature costs more to verify than everything else a report needs.

Standard library only. Digests alone are kept: no token can be read from here. That its pod still lives is not known
here and is asked for each request.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .auth import PodIdentity


@dataclass(frozen=True)
class _Proof:
    identity: PodIdentity
    until: float  # monotonic
    expires_at: float  # wall clock


class TokenCache:
    """The last `size` good tokens, each for at most `max_age_s` and never beyond its own expiry."""

    def __init__(
        self,
        size: int = 8192,
        max_age_s: float = 60.0,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """`wall`: seconds since the epoch, what a token's expiry is compared with."""
        self._size = size
        self._max_age_s = max_age_s
        self._monotonic = monotonic
        self._wall = wall
        self._proofs: OrderedDict[bytes, _Proof] = OrderedDict()  # least recently used first

    def get(self, token: str) -> PodIdentity | None:
        """The pod of a token that proved good a moment ago, or None."""
        digest = _digest(token)
        proof = self._proofs.get(digest)
        if proof is None:
            return None
        if self._monotonic() >= proof.until or self._wall() >= proof.expires_at:
            del self._proofs[digest]
            return None
        self._proofs.move_to_end(digest)
        return proof.identity

    def put(self, token: str, identity: PodIdentity, expires_at: float) -> None:
        """Remember a token that proved good; `expires_at` is in seconds since the epoch."""
        digest = _digest(token)
        self._proofs[digest] = _Proof(identity, self._monotonic() + self._max_age_s, expires_at)
        self._proofs.move_to_end(digest)
        if len(self._proofs) > self._size:
            self._proofs.popitem(last=False)

    def clear(self) -> None:
        """Forget them all."""
        self._proofs.clear()

    def __len__(self) -> int:
        return len(self._proofs)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()  # a header may hold any bytes
