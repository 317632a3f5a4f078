"""head.json changed by another hand than its owner's: pins and removals (docs/protocol.md, section 4).

May import objects, layout and tries. Must never change round, nonce or what it does not know, and never write without
`If-Match`: the owner finds its commit refused, reads the head again and keeps what was done here.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

from ..checkpoint.layout import HEAD, Entry, Head, seal
from ..checkpoint.tries import persist
from ..objects import Objects, PreconditionFailed
from .lines import ToolError

CONFLICTS = 30
LIMIT_S = 20.0
Change = Callable[[Sequence[Entry]], Sequence[Entry]]


def edit_head(objects: Objects, change: Change) -> tuple[Entry, ...]:
    """Let `change` decide about the entries (newest first) until its answer is written; returns the new entries.

    `change` may be asked several times, each time with what the head holds by then. Raises ToolError, `Damaged` and
    the errors of the store.
    """
    until = time.monotonic() + LIMIT_S
    for _ in range(CONFLICTS):
        found = objects.get_with_etag(HEAD)
        if found is None:
            raise ToolError(f"{objects.uri()}: there is no checkpoint ({HEAD} is missing)")
        data, etag = found
        before = Head.parse(data, objects.uri(HEAD)).checkpoints
        after = tuple(change(before))
        if after == before:
            return before
        edited = _edited(data, before, after)
        if persist(lambda edited=edited, etag=etag: _replace(objects, edited, etag), until=until):  # type: ignore[misc]
            return after
    raise ToolError(f"{objects.uri(HEAD)}: the job changed it {CONFLICTS} times meanwhile; try again")


def _edited(data: bytes, before: Sequence[Entry], after: Sequence[Entry]) -> bytes:
    """The head with other entries and a new `write`; all else, also what a newer program wrote, stays as it is."""
    body: dict[str, Any] = json.loads(data)
    body.pop("crc32")
    written = {entry.manifest: raw for entry, raw in zip(before, body["checkpoints"], strict=True)}
    body["checkpoints"] = [written[entry.manifest] | {"pinned": entry.pinned} for entry in after]
    body["write"] = secrets.token_hex(8)
    return seal(body)


def _replace(objects: Objects, data: bytes, etag: str) -> bool:
    """Whether `data` is the head now; False when somebody else changed it."""
    try:
        objects.put_if_match(HEAD, data, etag)
    except PreconditionFailed:
        # The reply to an earlier send of these bytes may have been lost.
        found = objects.get_with_etag(HEAD)
        return found is not None and found[0] == data
    return True
