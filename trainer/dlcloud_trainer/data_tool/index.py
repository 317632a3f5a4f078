"""`dlcloud-data.json`: which files a data set has, with their sizes and SHA-256.

May import the standard library only. It is written last, so where it is, all the rest was there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidInput

INDEX = "dlcloud-data.json"
PARTIAL = "dlcloud-data.partial.json"  # of an upload that is not done: what has come so far
VERSION = 1
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Listed:
    """A file of the data set; `etag` is the version that was written, empty when it is not known."""

    name: str
    size_bytes: int
    sha256: str
    etag: str = ""


def is_name(name: str) -> bool:
    """Whether a file of a data set may be called so: a relative path that stays below its folder."""
    parts = name.split("/")
    return bool(name) and all(part not in ("", ".", "..") for part in parts) and name.isprintable()


def index_text(files: Iterable[Listed]) -> str:
    """The file's content, sorted by name, with a final newline."""
    listed = [
        {
            "name": file.name,
            "size": file.size_bytes,
            "sha256": file.sha256,
            **({"etag": file.etag} if file.etag else {}),
        }
        for file in sorted(files, key=lambda file: file.name)
    ]
    return json.dumps({"version": VERSION, "files": listed}, indent=1, ensure_ascii=False) + "\n"


def parse_index(data: bytes, where: str) -> Mapping[str, Listed]:
    """The files by their names; raises `InvalidInput` naming the index."""
    try:
        body = json.loads(data)
        if body["version"] != VERSION:
            raise InvalidInput(
                f"{where}: version {body['version']!r}; this dlcloud reads {VERSION}, upload the data set with "
                "`dlcloud data put` of this version"
            )
        listed = [_parse(entry) for entry in body["files"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InvalidInput(f"{where}: no index of a data set ({reason}); upload it with `dlcloud data put`") from None
    files = {file.name: file for file in listed}
    if len(files) != len(listed) or not files:
        reason = "it lists no file" if not files else "it lists a file twice"
        raise InvalidInput(f"{where}: {reason}; upload the data set with `dlcloud data put`")
    return files


def _parse(entry: Mapping[str, Any]) -> Listed:
    name, size, sha256, etag = entry["name"], entry["size"], entry["sha256"], entry.get("etag", "")
    if not isinstance(name, str) or not is_name(name):
        raise ValueError(f"name {name!r}")
    if isinstance(size, bool) or not isinstance(size, int) or size < 0:
        raise ValueError(f"size of {name}")
    if not isinstance(sha256, str) or not SHA256.fullmatch(sha256) or not isinstance(etag, str):
        raise ValueError(f"sha256 or etag of {name}")
    return Listed(name, size, sha256, etag)
