"""Tries an object store as a run uses it: `python -m dlcloud_trainer.checks.store < request.json`. Lines of JSON.

May import objects; a workload when data is to be read. It writes below a folder of a random name alone, and removes it.
Credentials come from the environment, as in a pod; none is ever written out.

The request: `{"stores": [{"what", "uri", "write": bool, "endpoint", "region", "caFile", ...}], "data": {"workload",
"uri", ...} or null}`.
"""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ..objects import ObjectMissing, Objects, StoreUnusable, open_objects, probe_conditional_writes
from .lines import one_line, tell, timed

_NAMES = {
    "endpoint": "endpoint",
    "region": "region",
    "caFile": "ca_file",
    "encryption": "encryption",
    "kmsKeyId": "kms_key_id",
}


def main() -> None:
    """Try everything in the request; a store's later steps are left out when an earlier one fails."""
    request = json.load(sys.stdin)
    for store in request.get("stores") or []:
        _try_store(store)
    if request.get("data"):
        _try_data(request["data"])


def _try_store(store: Mapping[str, Any]) -> None:
    what, uri = str(store["what"]), str(store["uri"])

    def step(name: str, action: Callable[[], Any]) -> bool:
        with timed() as seconds:
            try:
                said = action()
            except (StoreUnusable, ObjectMissing) as error:
                tell(what=what, step=name, ok=False, kind=type(error).__name__, message=str(error), seconds=seconds())
                return False
            tell(what=what, step=name, ok=True, message=said or "", seconds=seconds())
            return True

    options = {ours: store[theirs] for theirs, ours in _NAMES.items() if store.get(theirs)}
    try:
        base = open_objects(uri, what=what, **options)
        folder = open_objects(f"{uri.rstrip('/')}/doctor-{secrets.token_hex(8)}/", what=what, **options)
    except StoreUnusable as error:
        tell(what=what, step="open", ok=False, kind=type(error).__name__, message=str(error))
        return
    if not store.get("write"):
        step("read", lambda: _read(base))
        return
    made = _missing_folders(uri)
    try:
        _try_writes(folder, step)
    finally:
        _clean(folder, made)


def _try_writes(folder: Objects, step: Callable[[str, Callable[[], Any]], bool]) -> None:
    key, data = "attempts/000000-doctor/00000.bin", secrets.token_bytes(4096)

    def same() -> None:
        if folder.get(key) != data:
            raise StoreUnusable(f"{folder.uri(key)}: what is read is not what was written; use another store")

    def shown() -> None:
        if folder.list() != [key]:
            raise StoreUnusable(f"{folder.uri()}: an object that was written is not listed; use another store")

    def gone() -> None:
        folder.delete(key)
        if folder.list():
            raise StoreUnusable(f"{folder.uri(key)}: is still listed after it was deleted; use another store")

    if step("put", lambda: folder.put(key, data)[:0]) and step("get", same) and step("list", shown):
        step("conditions", lambda: probe_conditional_writes(folder))
        step("delete", gone)


def _read(base: Objects) -> str:
    if not base.list():
        raise StoreUnusable(f"{base.uri()}: nothing is there; correct the URI, or put the objects there")
    return ""


def _try_data(data: Mapping[str, Any]) -> None:
    from ..assignment import StoreAddress
    from ..errors import InvalidInput
    from ..parameters import parse_parameters
    from ..workloads import find_workload

    with timed() as seconds:
        try:
            address = StoreAddress(data.get("endpoint") or "", data.get("region") or "us-east-1", data.get("caFile"))
            workload = find_workload(str(data["workload"]))
            parameters = parse_parameters(workload, data.get("parameters") or {})
            splits = workload.load_data(str(data["uri"]), address, parameters)
            sizes = ", ".join(f"{len(getattr(splits, name)[0])} {name}" for name in ("train", "validation", "test"))
        except (InvalidInput, StoreUnusable, ObjectMissing) as error:
            tell(what="data.uri", step="read", ok=False, kind=type(error).__name__, message=str(error))
            return
        except Exception as error:  # a workload's own reader: whatever it raises is about the data
            tell(what="data.uri", step="read", ok=False, kind=type(error).__name__, message=one_line(error))
            return
        tell(what="data.uri", step="read", ok=True, message=f"{sizes} samples", seconds=seconds())


def _missing_folders(uri: str) -> list[Path]:
    """Of file://: the folders this try will make, the deepest first."""
    parts = urlsplit(uri)
    if parts.scheme != "file":
        return []
    path = Path(unquote(parts.path))
    return [folder for folder in (path, *path.parents) if not folder.exists()]


def _clean(folder: Objects, made: list[Path]) -> None:
    with suppress(StoreUnusable):
        for key in folder.list():
            folder.delete(key)
    parts = urlsplit(folder.uri())
    if parts.scheme == "file":
        path = Path(unquote(parts.path))
        for leftover in path.glob(".dlcloud*"):
            leftover.unlink(missing_ok=True)
        for empty in (path, *made):
            with suppress(OSError):
                empty.rmdir()


if __name__ == "__main__":
    main()
