"""Who speaks: a bearer token becomes the pod it was issued to, or a refusal with its reason.

May import pyjwt. It never logs a token, never puts one into a message, and trusts no algorithm but RS256 and ES256.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jwt

from .token_cache import TokenCache

log = logging.getLogger(__name__)

# By key type, not by the token's word: a token that names HS256 would make a public key its shared secret.
_ALGORITHM_OF = {"RSA": "RS256", "EC": "ES256"}
_MAX_TOKEN_CHARS = 7800  # below the server's limit for a header line


class Unauthorized(Exception):
    """The token proves nothing; the message is safe to send and to log."""


class UnknownSigner(Unauthorized):
    """The token may be good, but none of the keys at hand signed it: only its issuer could tell."""


class AuthenticatorUnavailable(Exception):
    """Nobody can be identified now (the keys cannot be read): try again later."""


@dataclass(frozen=True)
class PodIdentity:
    """The pod a token was issued to."""

    namespace: str
    pod: str
    uid: str


class Authenticator(Protocol):
    """Turns tokens into pods."""

    async def identify(self, token: str) -> PodIdentity:
        """The pod this token speaks for. Raises Unauthorized; AuthenticatorUnavailable when none can be told."""
        ...


class KeySetAuthenticator:
    """Verifies projected service account tokens against the API server's published keys."""

    def __init__(
        self,
        fetch_keys: Callable[[], Awaitable[Mapping[str, Any]]],
        issuer: str,
        audience: str,
        leeway_s: float = 10.0,  # between the clocks of this machine and of the API server's
        refetch_s: float = 10.0,
        max_age_s: float = 300.0,
        fetch_timeout_s: float = 5.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`fetch_keys` returns a JWKS document; an unknown key asks for it again at most every `refetch_s`.

        Keys older than `max_age_s` are fetched anew, so that a withdrawn one stops being trusted. An empty `issuer`
        takes the document's own member `issuer`. A token that proved good is known for a minute, or until it expires.
        """
        self._fetch_keys = fetch_keys
        self._fixed_issuer = issuer
        self._issuer = issuer
        self._audience = audience
        self._leeway_s = leeway_s
        self._refetch_s = refetch_s
        self._max_age_s = max_age_s
        self._fetch_timeout_s = fetch_timeout_s
        self._monotonic = monotonic
        self._keys: dict[str, jwt.PyJWK] = {}
        self._proven = TokenCache(monotonic=monotonic)
        self._tried_at: float | None = None
        self._fetched_at: float | None = None
        self._fetching = asyncio.Lock()
        self._background: asyncio.Task[None] | None = None

    async def identify(self, token: str) -> PodIdentity:
        """The pod of a valid token. Raises Unauthorized with the reason, AuthenticatorUnavailable without keys."""
        if len(token) > _MAX_TOKEN_CHARS:
            raise Unauthorized(f"the token is longer than {_MAX_TOKEN_CHARS} characters")
        if (known := self._proven.get(token)) is not None:
            return known
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise Unauthorized("the token is not a JSON Web Token") from None
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm not in _ALGORITHM_OF.values():
            raise Unauthorized("the token's algorithm is not allowed; RS256 and ES256 are")
        if not isinstance(key_id, str) or not key_id:
            raise Unauthorized("the token names no key (kid)")
        key = await self._key(key_id)
        if key.algorithm_name != algorithm:
            raise Unauthorized("the token's algorithm does not fit its key")
        claims = self._claims(token, key)
        identity = _pod_of(claims)
        self._proven.put(token, identity, float(claims["exp"]) + self._leeway_s)
        return identity

    def _claims(self, token: str, key: jwt.PyJWK) -> dict[str, Any]:
        try:
            return jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm_name],
                audience=self._audience,
                issuer=self._issuer,
                leeway=self._leeway_s,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.ExpiredSignatureError:
            raise Unauthorized("the token has expired") from None
        except jwt.ImmatureSignatureError:
            raise Unauthorized("the token is not valid yet") from None
        except jwt.MissingRequiredClaimError as error:
            raise Unauthorized(f"the token lacks the claim {error.claim}") from None
        except jwt.InvalidAudienceError:
            raise Unauthorized(f"the token is for another audience; {self._audience!r} is needed") from None
        except jwt.InvalidIssuerError:
            raise UnknownSigner(f"the token is from another issuer; {self._issuer!r} is needed") from None
        except jwt.InvalidSignatureError:
            raise Unauthorized("the token's signature is wrong") from None
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise Unauthorized("the token is damaged") from None

    async def _key(self, key_id: str) -> jwt.PyJWK:
        if key_id not in self._keys:
            await self._refresh(key_id)
        elif self._older_than(self._fetched_at, self._max_age_s) and not self._fetching.locked():
            # In the background: while the API server is away, agents with a known key must not wait for it.
            self._background = asyncio.create_task(self._refresh(key_id))
        key = self._keys.get(key_id)
        if key is not None:
            return key
        if self._fetched_at is None:
            raise AuthenticatorUnavailable("the API server's keys cannot be read yet")
        raise UnknownSigner("the token is signed with an unknown key")

    async def _refresh(self, key_id: str) -> None:
        async with self._fetching:
            fresh = not self._older_than(self._fetched_at, self._max_age_s)
            if (key_id in self._keys and fresh) or not self._older_than(self._tried_at, self._refetch_s):
                return  # somebody fetched while this one waited, or did so a moment ago
            self._tried_at = self._monotonic()
            try:
                document = await asyncio.wait_for(self._fetch_keys(), self._fetch_timeout_s)
                issuer = self._fixed_issuer or str(document["issuer"])
                keys = _parse(document)
                if self._keys.keys() - keys.keys() or issuer != self._issuer:
                    self._proven.clear()  # what a withdrawn key signed proves nothing any more
                self._keys, self._issuer = keys, issuer
                self._fetched_at = self._monotonic()
            except Exception as error:
                # The keys held so far stay in use: an API server that is away must not stop the training.
                log.warning("the API server's keys cannot be read: %r", error)

    def _older_than(self, since: float | None, age_s: float) -> bool:
        return since is None or self._monotonic() - since >= age_s


def _parse(document: Mapping[str, Any]) -> dict[str, jwt.PyJWK]:
    keys = {}
    for entry in document["keys"]:
        if not isinstance(entry, Mapping) or entry.get("kty") not in _ALGORITHM_OF or not entry.get("kid"):
            continue
        if entry.get("use", "sig") != "sig" or entry.get("crv", "P-256") != "P-256":
            continue
        try:
            key = jwt.PyJWK(dict(entry), algorithm=_ALGORITHM_OF[entry["kty"]])
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            log.warning("a key of the API server is unusable and left out: %s", error)
            continue
        keys[str(entry["kid"])] = key
    return keys


def _pod_of(claims: Mapping[str, Any]) -> PodIdentity:
    bound = claims.get("kubernetes.io")
    pod = bound.get("pod") if isinstance(bound, Mapping) else None
    if not isinstance(bound, Mapping) or not isinstance(pod, Mapping):
        raise Unauthorized("the token is not bound to a pod; a projected service account token is needed")
    parts = (bound.get("namespace"), pod.get("name"), pod.get("uid"))
    if not all(isinstance(part, str) and part for part in parts):
        raise Unauthorized("the token's pod claim is incomplete: namespace, name and uid are needed")
    return PodIdentity(*map(str, parts))
