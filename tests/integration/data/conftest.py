"""A data set on a real S3 server, and a proxy that counts what is asked of it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dlcloud_trainer.objects import Objects, open_objects

from ..checkpoint.proxy import Proxy


@dataclass
class DataPlace:
    """A prefix of its own; `keys` are its AWS variables, `cache` is the folder that DLCLOUD_CACHE names."""

    uri: str
    proxy: Proxy
    cache: Path
    keys: dict[str, str] = field(repr=False, default_factory=dict)

    @property
    def endpoint(self) -> str:
        return self.proxy.endpoint

    def objects(self) -> Objects:
        return open_objects(self.uri, endpoint=self.endpoint)

    def upload(self, files: Mapping[str, bytes]) -> None:
        """Put the files there, without an index; what was asked so far is forgotten."""
        store = self.objects()
        for name, data in files.items():
            store.put_pieces(name, lambda data=data: [data])  # type: ignore[misc]
        self.proxy.forget()

    def fetched(self) -> list[str]:
        """Names of the files that were read, in their order, since `upload`."""
        prefix = "/" + self.uri.removeprefix("s3://") + "/"
        return sorted(
            path.partition("?")[0].removeprefix(prefix)
            for method, path in self.proxy.seen
            if method == "GET" and path.startswith(prefix)
        )

    def entries(self, ending: str = ".data") -> list[Path]:
        """What the cache holds."""
        return sorted(self.cache.glob(f"*{ending}"))


@pytest.fixture
def place(s3_server: Any, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DataPlace]:
    keys = {"AWS_ACCESS_KEY_ID": s3_server.access_key, "AWS_SECRET_ACCESS_KEY": s3_server.secret_key}
    for name, value in {**keys, "DLCLOUD_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    with Proxy(s3_server.endpoint).running() as proxy:
        yield DataPlace(f"s3://{s3_bucket}/data/{secrets.token_hex(6)}", proxy, tmp_path / "cache", keys)
