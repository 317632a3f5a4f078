"""The files of a data set below its URI: which there are, and their bytes.

May import objects, the cache and the index of uploaded data. Decides nothing about formats. What comes from S3 goes
through the cache; what `dlcloud-data.json` says of a file's size and SHA-256 is checked wherever it comes from.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from ..assignment import StoreAddress
from ..data_tool.index import INDEX, PARTIAL, Listed, parse_index
from ..errors import InvalidInput
from ..objects import Described, ObjectMissing, Objects, Take, open_objects
from .cache import Cache, open_cache

THREADS = 8
MAX_FILES = 1_000_000
MAX_BYTES = 8 << 30  # of one file: it is read into memory
ARCHIVES = (".tar.gz", ".tgz")
PUT_AGAIN = "upload the data set again with `dlcloud data put`"


class Files:
    """What lies at a data set's URI, listed once. Where there is an index, it says which files belong to the set."""

    def __init__(self, objects: Objects, cache: Cache | None = None, only: str = "") -> None:
        self._objects, self._cache = objects, cache
        self._found = {found.key: found for found in objects.describe()}
        if len(self._found) > MAX_FILES:
            raise InvalidInput(f"{self.uri()}: more than {MAX_FILES} files; put them into tar.gz archives")
        self._listed: Mapping[str, Listed] = {}
        if INDEX in self._found:
            self._listed = parse_index(objects.get(INDEX), self.uri(INDEX))
        names = self._listed or self._found
        shown = (name for name in names if not any(part.startswith(".") for part in name.split("/")))
        self.names = frozenset(name for name in shown if name not in (INDEX, PARTIAL) and only in ("", name))
        self.unfinished = PARTIAL in self._found and INDEX not in self._found

    def uri(self, name: str = "") -> str:
        """A file's URI, for messages."""
        return self._objects.uri(name)

    def read(self, name: str) -> bytes:
        """A file's content; raises `InvalidInput` for one that is not what the index says, and the store's errors."""
        found, listed = self._found.get(name), self._listed.get(name)
        if found is None:
            if listed is None:
                raise ObjectMissing(f"{self.uri(name)} does not exist")
            raise InvalidInput(f"{self.uri(name)}: the file is missing, {INDEX} lists it; {PUT_AGAIN}")
        if listed is not None and listed.size_bytes != found.size_bytes:
            raise InvalidInput(
                f"{self.uri(name)}: {found.size_bytes} bytes, {INDEX} says {listed.size_bytes}; {PUT_AGAIN}"
            )
        if found.size_bytes > MAX_BYTES:
            raise InvalidInput(
                f"{self.uri(name)}: {found.size_bytes} bytes, at most {MAX_BYTES} are read; split it into smaller ones"
            )
        data, digest = self._cached(found) or self._fetched(found, hashed=listed is not None)
        if listed is not None and digest != listed.sha256:
            raise InvalidInput(f"{self.uri(name)}: its SHA-256 is not what {INDEX} says; {PUT_AGAIN}")
        return data

    def read_all(self, names: Mapping[str, str]) -> dict[str, bytes]:
        """The contents of several, by the keys given."""
        with ThreadPoolExecutor(THREADS, thread_name_prefix="data") as pool:
            return dict(zip(names, pool.map(self.read, names.values()), strict=True))

    def _cached(self, found: Described) -> tuple[bytes, str] | None:
        if self._cache is None:
            return None
        key = found.key

        def fetch(take: Take) -> None:
            self._receive(found, take)

        return self._cache.read(self.uri(key), found.etag, found.size_bytes, fetch)

    def _fetched(self, found: Described, *, hashed: bool) -> tuple[bytes, str]:
        buffer = io.BytesIO()

        def take(at: int, piece: memoryview) -> None:
            buffer.seek(at)
            buffer.write(piece)

        self._receive(found, take)
        data = buffer.getvalue()
        return data, hashlib.sha256(data).hexdigest() if hashed else ""

    def _receive(self, found: Described, take: Take) -> None:
        size = self._objects.get_pieces(found.key, found.size_bytes, take)
        if size != found.size_bytes:
            raise InvalidInput(
                f"{self.uri(found.key)}: {size} bytes, it was listed with {found.size_bytes}; somebody writes it just "
                "now, start again when that is done"
            )


def open_files(uri: str, store: StoreAddress, others: str = "") -> Files:
    """What lies there; a URI may also name one archive. Raises `InvalidInput` for another kind of URI (`others` are
    further ones that the workload takes), and the store's errors."""
    if not uri.startswith(("s3://", "file://")):
        last = f", file:///path or {others}" if others else " or file:///path"
        raise InvalidInput(f"data.uri: {uri!r} is nothing this workload reads; give s3://bucket/prefix{last}")
    only = ""
    if uri.endswith(ARCHIVES):
        uri, _, only = uri.rpartition("/")
    objects = open_objects(uri, endpoint=store.endpoint, region=store.region, ca_file=store.ca_file, what="data.uri")
    return Files(objects, open_cache(os.environ) if uri.startswith("s3://") else None, only)
