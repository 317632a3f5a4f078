"""Whose token is this: the API server's published keys tell, or, where those cannot be had, the API server itself.

May import the engine's rendezvous and the package's api. It never logs a token; whether the pod still lives is for the
index of pods to say.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from dlcloud_operator.engine.rendezvous import (
    Authenticator,
    AuthenticatorUnavailable,
    KeySetAuthenticator,
    PodIdentity,
    TokenCache,
    Unauthorized,
    UnknownSigner,
)

from .api import ApiError, KubeApi, path_of

log = logging.getLogger(__name__)

LEEWAY_S = 10.0  # between our clock and the API server's
_REVIEWS = path_of("tokenreviews", group="authentication.k8s.io")
_POD_NAME, _POD_UID = "authentication.kubernetes.io/pod-name", "authentication.kubernetes.io/pod-uid"
_ACCOUNT = "system:serviceaccount:"


def make_authenticator(api: KubeApi, audience: str, token_review: bool = False) -> Authenticator:
    """Verifies pods' tokens; with `token_review` the API server is asked about those no published key can verify."""
    published = KeySetAuthenticator(lambda: _published(api), issuer="", audience=audience, leeway_s=LEEWAY_S)
    return ReviewingAuthenticator(published, api, audience) if token_review else published


async def _published(api: KubeApi) -> Mapping[str, Any]:
    configuration = await api.get("/.well-known/openid-configuration")
    # Not the document's own jwks_uri: it is for readers outside of the cluster, and may be out of our reach.
    keys = await api.get("/openid/v1/jwks")
    return {"issuer": configuration["issuer"], "keys": keys["keys"]}


class ReviewingAuthenticator:
    """Asks the API server (TokenReview) where another authenticator cannot tell."""

    def __init__(
        self,
        first: Authenticator,
        api: KubeApi,
        audience: str,
        max_age_s: float = 60.0,
        refusal_s: float = 10.0,
        in_flight: int = 8,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Good tokens are known for `max_age_s`, refused ones for `refusal_s`; more than `in_flight` reviews wait."""
        self._first = first
        self._api = api
        self._audience = audience
        self._refusal_s = refusal_s
        self._monotonic = monotonic
        self._proven = TokenCache(max_age_s=max_age_s, monotonic=monotonic)
        self._refused: OrderedDict[int, tuple[float, str]] = OrderedDict()  # by hash of the token: until when, why
        self._room = asyncio.Semaphore(in_flight)
        self._waiting = 0

    async def identify(self, token: str) -> PodIdentity:
        """The pod this token speaks for. Raises Unauthorized; AuthenticatorUnavailable when none can be told."""
        if (known := self._proven.get(token)) is not None:
            return known
        with contextlib.suppress(UnknownSigner, AuthenticatorUnavailable):
            return await self._first.identify(token)
        until, why = self._refused.get(hash(token), (0.0, ""))
        if self._monotonic() < until:
            raise Unauthorized(why)
        expires_at = self._plausible(token)
        if self._waiting >= 256:
            raise AuthenticatorUnavailable("too many tokens wait for the API server's word; try again later")
        self._waiting += 1
        try:
            async with self._room:
                status = await self._review(token)
        finally:
            self._waiting -= 1
        try:
            identity = _pod_of(status, self._audience)
        except Unauthorized as error:
            self._refused[hash(token)] = (self._monotonic() + self._refusal_s, str(error))
            if len(self._refused) > 4096:
                self._refused.popitem(last=False)
            raise
        self._proven.put(token, identity, expires_at + LEEWAY_S)
        return identity

    def _plausible(self, token: str) -> float:
        """The token's own word on its expiry. Raises Unauthorized for what need not be sent to the API server."""
        try:
            payload = token.split(".")[1]
            claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
            expires_at, told = float(claims["exp"]), claims["aud"]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError):
            raise Unauthorized("the token is not a JSON Web Token with an expiry and an audience") from None
        if self._audience not in ([told] if isinstance(told, str) else told or ()):
            raise Unauthorized(f"the token is for another audience; {self._audience!r} is needed")
        if expires_at + LEEWAY_S < time.time():
            raise Unauthorized("the token has expired")
        return expires_at

    async def _review(self, token: str) -> Mapping[str, Any]:
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [self._audience]},
        }
        try:
            async with asyncio.timeout(5.0):
                return (await self._api.create(_REVIEWS, body)).get("status") or {}
        except (ApiError, TimeoutError) as error:
            log.warning("a token cannot be reviewed: %s", error or "no answer in time")
            raise AuthenticatorUnavailable("the API server cannot be asked about this token now") from None


def _pod_of(status: Mapping[str, Any], audience: str) -> PodIdentity:
    if status.get("authenticated") is not True:
        raise Unauthorized("the API server does not accept the token")
    if audience not in (status.get("audiences") or ()):
        raise Unauthorized(f"the token is for another audience; {audience!r} is needed")
    user = status.get("user") or {}
    account = str(user.get("username") or "")
    namespace = account.removeprefix(_ACCOUNT).partition(":")[0] if account.startswith(_ACCOUNT) else ""
    extra = user.get("extra") or {}
    pod, uid = ("".join((extra.get(key) or [""])[:1]) for key in (_POD_NAME, _POD_UID))
    if not (namespace and pod and uid):
        raise Unauthorized("the token is not bound to a pod; a projected service account token is needed")
    return PodIdentity(namespace, pod, uid)
