"""A real S3 server for all integration tests, on free ports of 127.0.0.1: one SeaweedFS for the session, or one MinIO
with TEST_STORE=minio (`make test-minio`)."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from dlcloud.local.store import EmbeddedStore

from ..rig.fixtures import control_plane, kube, kubectl, make_control_plane, namespace
from ..servers.minio import MinioMissing, MinioServer

__all__ = ["control_plane", "kube", "kubectl", "make_control_plane", "namespace"]
# Operators that watch all namespaces, and jobs and definitions that they would act on: one after the other.
ON_CLUSTER = ("operator/", "chart/", "test_cluster_command.py", "test_crd_on_api_server.py")
STORES = {"seaweedfs": EmbeddedStore, "minio": MinioServer}


@dataclass(frozen=True)
class S3Server:
    """`make_bucket(name="")` makes a bucket (of a random name) and returns its name; `kind` is a key of `STORES`."""

    endpoint: str
    access_key: str
    secret_key: str
    make_bucket: Callable[..., str]
    kind: str = "seaweedfs"


class InRow(LoadScopeScheduling):
    """What one worker runs in a row: a file, since its tests share fixtures; all tests of `ON_CLUSTER`."""

    # (pytest-xdist's own groups, --dist loadgroup, do nothing with pytest 9.2.)
    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "cluster" if any(f"integration/{name}" in file for name in ON_CLUSTER) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> InRow:
    return InRow(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark with `s3` what runs on the store that TEST_STORE names."""
    for item in items:
        on_s3 = "s3" in getattr(getattr(item, "callspec", None), "params", {}).values()
        if on_s3 or "s3_server" in getattr(item, "fixturenames", ()):
            item.add_marker("s3")


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    kind = os.environ.get("TEST_STORE") or "seaweedfs"
    if kind not in STORES:
        pytest.fail(f"TEST_STORE: {kind!r} is no store; give one of {', '.join(STORES)}", pytrace=False)
    with asyncio.Runner() as runner:
        store = STORES[kind](tmp_path_factory.mktemp("s3"))
        try:
            runner.run(store.start())
        except MinioMissing as missing:
            pytest.fail(str(missing), pytrace=False)

        def make_bucket(name: str = "") -> str:
            name = name or f"test-{secrets.token_hex(6)}"
            runner.run(store.ensure_bucket(name))
            return name

        try:
            yield S3Server(store.endpoint, store.access_key, store.secret_key, make_bucket, kind)
        finally:
            runner.run(store.stop())


@pytest.fixture(scope="session")
def s3_bucket(s3_server: S3Server) -> str:
    """One bucket for the session: tests keep apart by their prefixes."""
    return s3_server.make_bucket()
