"""Whose checkpoints are meant: a job's, by its ID, or whatever lies under a URI.

May import the jobs' protocol, the objects module and the stores; a store of our own is started while it is needed.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from dlcloud_operator.api import InvalidManifest

from .home import home
from .jobs.errors import JobsError
from .jobs.source import JobRecord
from .objects import Access, Reader, StoreError, open_reader
from .place import Place
from .store import given_access

_MANIFEST = re.compile(r"(?:head\.json|manifests/[^/]*)?$")


@dataclass(frozen=True)
class Target:
    """A prefix with checkpoints. `label` is what the user gave; `record` is None for a URI."""

    label: str
    prefix: str
    access: Access | None
    record: JobRecord | None = None

    @property
    def name(self) -> str:
        """A short name, for files."""
        return self.record.id if self.record else self.prefix.rstrip("/").rsplit("/", 1)[-1] or "checkpoint"

    def reader(self) -> Reader:
        """The objects below the prefix. Raises JobsError."""
        try:
            return open_reader(self.prefix, self.access)
        except StoreError as error:
            raise JobsError(str(error)) from None


@contextlib.contextmanager
def open_target(text: str, place: Place) -> Iterator[Target]:
    """The target that `text` names, while the context lasts. Raises JobsError."""
    if "://" in text:
        prefix = uri_prefix(text)
        with uri_access(prefix, place.endpoint) as access:
            yield Target(text, prefix, access)
        return
    source = place.open()
    record = source.find(text)
    if not record.checkpoint_prefix:
        raise JobsError(f"{record.id}: the job has no spec.checkpoint, so it saves nothing")
    with source.access(record) as access:
        yield Target(record.id, record.checkpoint_prefix, access, record)


def uri_prefix(text: str) -> str:
    """The job's prefix, with `/` at its end; the URI of its head or of a manifest will do. Raises JobsError."""
    if not re.match(r"s3://[^/]+|file:///", text):
        raise JobsError(f"{text}: is no store; give s3://bucket/prefix/ or file:///folder/, or the ID of a job")
    return _MANIFEST.sub("", text, count=1).rstrip("/") + "/"


def own_access(endpoint: str) -> Access:
    """The user's S3 server, keys from the environment. Raises JobsError."""
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
    try:
        return given_access(endpoint, region, os.environ)
    except InvalidManifest as invalid:
        raise JobsError("; ".join(problem.message for problem in invalid.problems)) from None


@contextlib.contextmanager
def uri_access(prefix: str, endpoint: str) -> Iterator[Access | None]:
    """As for `run`: the server of --endpoint or $AWS_ENDPOINT_URL, else the one of local runs."""
    endpoint = endpoint or os.environ.get("AWS_ENDPOINT_URL", "")
    if prefix.startswith("file:"):
        yield None
    elif endpoint:
        yield own_access(endpoint)
    else:
        folder = home(os.environ) / "store"
        if not (folder / "data").is_dir():
            raise JobsError(f"{prefix}: no S3 server is known for it; give --endpoint URL or set AWS_ENDPOINT_URL")
        from .jobs.local_store import embedded_server

        with embedded_server(folder) as access:
            yield access
