"""Who a pod is, locally: a random token per pod, in a file only its owner can read.

May import the engine's rendezvous.auth. Keeps digests only: a token is never logged and cannot be read back from here.
"""

from __future__ import annotations

import hashlib
import secrets

from dlcloud_operator.engine.rendezvous.auth import PodIdentity, Unauthorized


class LocalTokens:
    """Issues tokens and turns them back into pods: the rendezvous server's Authenticator of local mode."""

    def __init__(self) -> None:
        self._pods: dict[bytes, PodIdentity] = {}

    def issue(self, identity: PodIdentity) -> str:
        """A new token that speaks for exactly this pod."""
        token = secrets.token_urlsafe(32)
        self._pods[_digest(token)] = identity
        return token

    def revoke(self, uid: str) -> None:
        """Forget every token of the pod with this uid."""
        self._pods = {digest: pod for digest, pod in self._pods.items() if pod.uid != uid}

    async def identify(self, token: str) -> PodIdentity:
        """The pod this token was issued to. Raises Unauthorized."""
        identity = self._pods.get(_digest(token))
        if identity is None:
            raise Unauthorized("the token belongs to no pod of this run")
        return identity


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
