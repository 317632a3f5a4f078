"""A real S3 server for all integration tests: one SeaweedFS for the session, on free ports of 127.0.0.1."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from dlcloud.local.store import EmbeddedStore


@dataclass(frozen=True)
class S3Server:
    """`make_bucket(name="")` makes a bucket (of a random name) and returns its name."""

    endpoint: str
    access_key: str
    secret_key: str
    make_bucket: Callable[..., str]


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with asyncio.Runner() as runner:
        store = EmbeddedStore(tmp_path_factory.mktemp("s3"))
        runner.run(store.start())

        def make_bucket(name: str = "") -> str:
            name = name or f"test-{secrets.token_hex(6)}"
            runner.run(store.ensure_bucket(name))
            return name

        try:
            yield S3Server(store.endpoint, store.access_key, store.secret_key, make_bucket)
        finally:
            runner.run(store.stop())


@pytest.fixture(scope="session")
def s3_bucket(s3_server: S3Server) -> str:
    """One bucket for the session: tests keep apart by their prefixes."""
    return s3_server.make_bucket()
