"""Service account tokens, with real keys and a real JWKS endpoint: who is let in, and why the others are not."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from typing import Any

import aiohttp
import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from dlcloud_operator.engine.rendezvous import (
    AuthenticatorUnavailable,
    KeySetAuthenticator,
    PodIdentity,
    Unauthorized,
)

from .memory_cluster import until

ISSUER = "https://kubernetes.default.svc.cluster.local"
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
P384_KEY = ec.generate_private_key(ec.SECP384R1())


def public_jwk(key: Any, key_id: str) -> dict[str, Any]:
    algorithm = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
    return {**json.loads(algorithm.to_jwk(key.public_key())), "kid": key_id, "use": "sig"}


DOCUMENT = {
    "keys": [
        public_jwk(RSA_KEY, "rsa-1"),
        public_jwk(EC_KEY, "ec-1"),
        public_jwk(P384_KEY, "p384"),
        {"kty": "oct", "kid": "shared", "k": base64.urlsafe_b64encode(b"secret").decode()},
        {"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"},
        "not even an object",
    ]
}


def claims(**changes: Any) -> dict[str, Any]:
    now = int(time.time())
    full = {
        "aud": ["dlcloud"], "iss": ISSUER, "iat": now, "nbf": now, "exp": now + 600,
        "sub": "system:serviceaccount:default:default",
        "kubernetes.io": {
            "namespace": "default", "pod": {"name": "mnist-0-1", "uid": "u0"}, "serviceaccount": {"name": "default"}
        },
    }  # fmt: skip
    return {name: value for name, value in {**full, **changes}.items() if value is not None}


def token(key: Any = RSA_KEY, algorithm: str = "RS256", key_id: str | None = "rsa-1", **changes: Any) -> str:
    headers = {} if key_id is None else {"kid": key_id}
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers=headers)


def bound(to: Any) -> str:
    changes: dict[str, Any] = {"kubernetes.io": to}
    return token(**changes)


def encoded(part: Mapping[str, Any] | bytes) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class Keys:
    """A place to fetch keys from; counts, and may be out of order."""

    def __init__(self, document: Mapping[str, Any] = DOCUMENT) -> None:
        self.document: Mapping[str, Any] | Exception = document
        self.fetched = 0

    async def __call__(self) -> Mapping[str, Any]:
        self.fetched += 1
        await asyncio.sleep(0)
        if isinstance(self.document, Exception):
            raise self.document
        return self.document


def authenticator(keys: Keys | None = None, clock: Clock | None = None) -> KeySetAuthenticator:
    return KeySetAuthenticator(keys or Keys(), ISSUER, "dlcloud", leeway_s=5.0, monotonic=clock or Clock())


def identify(text: str) -> PodIdentity:
    return asyncio.run(authenticator().identify(text))


@pytest.mark.parametrize(
    "text", [token(), token(EC_KEY, "ES256", "ec-1"), token(aud="dlcloud")], ids=["RS256", "ES256", "one audience"]
)
def test_a_pods_token_names_its_pod(text: str) -> None:
    assert identify(text) == PodIdentity("default", "mnist-0-1", "u0")


def test_the_keys_are_read_from_a_real_endpoint() -> None:
    async def scenario() -> None:
        async def serve(request: web.Request) -> web.Response:
            return web.json_response(DOCUMENT)

        app = web.Application()
        app.router.add_get("/openid/v1/jwks", serve)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/openid/v1/jwks"
        async with aiohttp.ClientSession() as session:

            async def fetch() -> dict[str, Any]:
                async with session.get(url) as response:
                    document: dict[str, Any] = await response.json()
                    return document

            one = KeySetAuthenticator(fetch, ISSUER, "dlcloud")
            assert (await one.identify(token(EC_KEY, "ES256", "ec-1"))).uid == "u0"
        await runner.cleanup()

    asyncio.run(scenario())


def unsigned() -> str:
    return f"{encoded({'alg': 'none', 'typ': 'JWT', 'kid': 'rsa-1'})}.{encoded(claims())}."


def signed_with_the_public_key() -> str:
    """The classic confusion: HMAC with the public key's PEM as its secret."""
    pem = RSA_KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    body = f"{encoded({'alg': 'HS256', 'typ': 'JWT', 'kid': 'rsa-1'})}.{encoded(claims())}"
    return f"{body}.{encoded(hmac.new(pem, body.encode(), hashlib.sha256).digest())}"


def changed_after_signing() -> str:
    head, _, signature = token().split(".")
    forged = claims(**{"kubernetes.io": {"namespace": "default", "pod": {"name": "mnist-1-1", "uid": "u1"}}})
    return f"{head}.{encoded(forged)}.{signature}"


NOW = int(time.time())
HEAD = {"alg": "RS256", "kid": "rsa-1"}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("", "not a JSON Web Token", id="empty"),
        pytest.param("a.b.c", "not a JSON Web Token", id="garbage"),
        pytest.param("x" * 9000, "longer than", id="long"),
        pytest.param("\udcff.\udcff.\udcff", "not a JSON Web Token", id="no text"),
        pytest.param(f"{encoded(b'[' * 4000)}.e.e", "not a JSON Web Token", id="deeply nested"),
        pytest.param(unsigned(), "algorithm is not allowed", id="alg none"),
        pytest.param(signed_with_the_public_key(), "algorithm is not allowed", id="HS256 with the public key"),
        pytest.param(token(b"secret" * 8, "HS256", "shared"), "algorithm is not allowed", id="HS256"),
        pytest.param(token(algorithm="RS512"), "algorithm is not allowed", id="RS512"),
        pytest.param(token(key_id=None), "names no key", id="no kid"),
        pytest.param(token(key_id="rsa-9"), "unknown key", id="unknown kid"),
        pytest.param(token(key_id="broken"), "unknown key", id="unusable key"),
        pytest.param(token(EC_KEY, "ES256", "p384"), "unknown key", id="another curve"),
        pytest.param(token(EC_KEY, "ES256", "rsa-1"), "does not fit its key", id="EC signature, RSA key"),
        pytest.param(token(OTHER_RSA_KEY), "signature is wrong", id="another key"),
        pytest.param(changed_after_signing(), "signature is wrong", id="changed after signing"),
        pytest.param(token(aud=["https://kubernetes"]), "another audience", id="audience"),
        pytest.param(token(aud=None), "lacks the claim aud", id="no audience"),
        pytest.param(token(iss="https://evil"), "another issuer", id="issuer"),
        pytest.param(token(iss=None), "lacks the claim iss", id="no issuer"),
        pytest.param(token(exp=NOW - 3600), "expired", id="expired"),
        pytest.param(token(exp=None), "lacks the claim exp", id="no expiry"),
        pytest.param(token(nbf=NOW + 3600), "not valid yet", id="not yet valid"),
        pytest.param(bound(None), "not bound to a pod", id="no claim"),
        pytest.param(bound({"namespace": "default"}), "not bound to a pod", id="no pod"),
        pytest.param(bound({"namespace": "default", "pod": {"name": "p"}}), "incomplete", id="no uid"),
        pytest.param(bound({"pod": {"name": "p", "uid": "u"}}), "incomplete", id="no namespace"),
        pytest.param(
            bound({"namespace": "d", "pod": {"name": ["p"], "uid": "u"}}),
            "incomplete",
            id="a list",
        ),
    ],
)
def test_any_other_token_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(Unauthorized, match=reason) as caught:
        identify(text)
    assert not text or text not in str(caught.value)


@pytest.mark.parametrize(("claim", "offset_s"), [("exp", -1), ("nbf", 3)], ids=["expiry", "begin"])
def test_a_small_difference_of_clocks_is_allowed(claim: str, offset_s: int) -> None:
    assert identify(token(**{claim: int(time.time()) + offset_s})).uid == "u0"


def test_keys_are_fetched_once_for_many_tokens() -> None:
    async def scenario() -> None:
        keys = Keys()
        one = authenticator(keys)
        await asyncio.gather(*(one.identify(token()) for _ in range(5)))
        assert keys.fetched == 1

    asyncio.run(scenario())


def test_unknown_keys_are_looked_for_at_most_every_ten_seconds() -> None:
    async def scenario() -> None:
        keys, clock = Keys(), Clock()
        one = authenticator(keys, clock)
        for _ in range(5):
            with pytest.raises(Unauthorized, match="unknown key"):
                await one.identify(token(key_id="rsa-2"))
        assert keys.fetched == 1
        clock.seconds += 10
        with pytest.raises(Unauthorized):
            await one.identify(token(key_id="rsa-2"))
        assert keys.fetched == 2

    asyncio.run(scenario())


def test_a_new_key_of_the_api_server_is_found() -> None:
    async def scenario() -> None:
        keys, clock = Keys(), Clock()
        one = authenticator(keys, clock)
        await one.identify(token())
        keys.document = {"keys": [public_jwk(OTHER_RSA_KEY, "rsa-2")]}
        clock.seconds += 11
        assert (await one.identify(token(OTHER_RSA_KEY, key_id="rsa-2"))).uid == "u0"

    asyncio.run(scenario())


def test_a_withdrawn_key_stops_being_trusted() -> None:
    async def scenario() -> None:
        keys, clock = Keys(), Clock()
        one = authenticator(keys, clock)
        await one.identify(token())
        keys.document = {"keys": [public_jwk(EC_KEY, "ec-1")]}
        clock.seconds += 301
        await one.identify(token())  # the last time: it starts the look for newer keys
        await until(lambda: keys.fetched == 2)
        with pytest.raises(Unauthorized, match="unknown key"):
            await one.identify(token())

    asyncio.run(scenario())


def test_known_keys_stay_in_use_while_the_api_server_is_away() -> None:
    async def scenario() -> None:
        keys, clock = Keys(), Clock()
        one = authenticator(keys, clock)
        await one.identify(token())
        keys.document = OSError("connection refused")
        for _ in range(3):
            clock.seconds += 400
            fetched = keys.fetched
            assert (await one.identify(token())).uid == "u0"
            await until(lambda: keys.fetched > fetched)  # noqa: B023 - awaited in this turn

    asyncio.run(scenario())


@pytest.mark.parametrize("answer", [OSError("refused"), {"keys": None}, {}], ids=["away", "no list", "empty"])
def test_without_any_keys_nobody_is_judged(answer: Any) -> None:
    async def scenario() -> None:
        keys = Keys()
        keys.document = answer
        with pytest.raises(AuthenticatorUnavailable):
            await authenticator(keys).identify(token())

    asyncio.run(scenario())


def test_a_token_is_verified_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    verified = []
    decode = jwt.decode

    def counting(*args: Any, **options: Any) -> Any:
        verified.append(1)
        return decode(*args, **options)

    monkeypatch.setattr(jwt, "decode", counting)
    clock, text = Clock(), token()
    one = authenticator(clock=clock)

    async def scenario() -> None:
        for _ in range(5):
            assert await one.identify(text) == PodIdentity("default", "mnist-0-1", "u0")
        assert len(verified) == 1
        clock.seconds += 60
        await one.identify(text)
        assert len(verified) == 2

    asyncio.run(scenario())


def test_the_issuer_may_come_with_the_keys() -> None:
    async def scenario(issuer: str) -> PodIdentity:
        one = KeySetAuthenticator(Keys({**DOCUMENT, "issuer": issuer}), "", "dlcloud")
        return await one.identify(token())

    assert asyncio.run(scenario(ISSUER)).uid == "u0"
    with pytest.raises(Unauthorized, match="another issuer"):
        asyncio.run(scenario("https://elsewhere.example"))


def test_keys_without_an_issuer_are_no_keys_where_they_are_to_name_it() -> None:
    with pytest.raises(AuthenticatorUnavailable):
        asyncio.run(KeySetAuthenticator(Keys(), "", "dlcloud").identify(token()))
