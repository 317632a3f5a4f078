"""`dlcloud data put|ls|verify`: the tool's events as words for a user.

May import the checkpoints' way to run a tool, formats and output. Nothing here reads or writes data: the tool does.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ..checkpoints.running import Refused, run
from ..checkpoints.tool import DATA, Event
from ..exits import EXIT_FAILED, EXIT_OK
from ..formats import Column, Format, document_text, table_lines
from ..jobs.errors import JobsError
from ..objects import Access
from ..output import Output
from ..target import Target, uri_access
from ..view.words import size

_COLUMNS = (Column("SIZE", right=True), Column("FILE"), Column("STATE"), Column("SHA-256", wide=True))
_URI = re.compile(r"s3://[^/]+(/.*)?|file:///.*")


@contextlib.contextmanager
def open_place(uri: str, endpoint: str, *, writes: bool = False) -> Iterator[Target]:
    """What lies at the URI, while the context lasts; on the S3 server of local runs a bucket is made for what is
    written. Raises JobsError."""
    if not _URI.fullmatch(uri):
        raise Refused(f"{uri}: is no place for data; give s3://bucket/prefix or file:///folder")
    with uri_access(uri, endpoint) as access:
        if writes and access is not None and not endpoint and _is_here(access):
            _ensure_bucket(access, urlsplit(uri).netloc)
        yield Target(uri, uri.rstrip("/") + "/", access)


def put(target: Target, source: Path, out: Output, err: Output) -> int:
    """Upload a file or a folder."""
    try:
        result = run("put", target, [str(source)], (), lambda event: None, DATA)
    except KeyboardInterrupt:
        err.line("interrupted; the same command goes on with what has not come")
        raise
    kept = f", {result['keptFiles']} were there already ({size(result['keptBytes'])})" if result["keptFiles"] else ""
    out.line(f"{_files(result['files'])}, {size(result['sizeBytes'])}{kept}")
    out.line(f"  {result['index']}")
    out.line(f"use it: data: {{uri: {target.label}}}")
    return EXIT_OK


def ls(target: Target, form: Format, out: Output, err: Output) -> int:
    """List the files of a data set."""
    found: list[Mapping[str, Any]] = []

    def file_told(event: Event) -> None:
        if event.kind == "file":
            found.append(event.fields)

    result = run("ls", target, [], (), file_told, DATA)
    if form.for_machines:
        out.line(document_text(found, form))
        return EXIT_OK
    rows = [[size(one["sizeBytes"]), one["name"], one["state"], one["sha256"]] for one in found]
    for line in table_lines(_COLUMNS, rows, wide=form is Format.WIDE):
        out.line(line)
    if result["unfinished"]:
        err.line("an upload to this place is not done; start it again")
    elif not result["indexed"]:
        err.line("no dlcloud-data.json is there, so nothing can be verified; `dlcloud data put` writes one")
    return EXIT_OK


def verify(target: Target, form: Format, out: Output) -> int:
    """Say what is missing or different; 1 when something is."""
    found: list[Mapping[str, Any]] = []

    def told(event: Event) -> None:
        if event.kind == "problem":
            found.append(event.fields)
            if not form.for_machines:
                out.line(f"{event.fields['name']}: {event.fields['problem']}")

    result = run("verify", target, [], (), told, DATA)
    if form.for_machines:
        out.line(document_text(found, form))
    elif result["sound"]:
        out.line(f"{_files(result['files'])}, {size(result['sizeBytes'])}: OK")
    else:
        out.line(
            f"{result['problems']} of {_files(result['files'])} not as uploaded; `dlcloud data put` sends them again"
        )
    return EXIT_OK if result["sound"] else EXIT_FAILED


def _files(count: int) -> str:
    return f"{count} file{'s' * (count != 1)}"


def _is_here(access: Access) -> bool:
    return urlsplit(access.endpoint).hostname == "127.0.0.1"


def _ensure_bucket(access: Access, name: str) -> None:
    import urllib3
    from minio import Minio
    from minio.error import MinioException

    client = Minio(
        urlsplit(access.endpoint).netloc, access_key=access.access_key, secret_key=access.secret_key, secure=False
    )
    try:
        if not client.bucket_exists(name):
            client.make_bucket(name)
    except (MinioException, urllib3.exceptions.HTTPError, ValueError) as error:
        raise JobsError(f"bucket {name!r}: cannot be made on the S3 server of local runs ({error})") from None
