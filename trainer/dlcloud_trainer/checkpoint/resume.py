"""`resumeFrom` and `from`: where another job's checkpoints, or one manifest, are to be read. Reads only.

May import objects, layout and restore.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from ..objects import Objects
from .errors import Damaged, NothingToResume
from .layout import HEAD, Entry, Head, step_and_round
from .restore import Lineage

SHOWN = 3
_MANIFEST_URI = re.compile(r"(.*/)(manifests/[^/]+\.json)")
WHAT = "resumeFrom"


def foreign_lineage(uri: str, open_store: Callable[[str, str], Objects], what: str = WHAT) -> Lineage:
    """The checkpoints `uri` leads to, `what` is the setting that gave it; raises `NothingToResume` and the errors of
    the store."""
    if found := _MANIFEST_URI.fullmatch(uri):
        store, key = open_store(found[1], what), found[2]
        if (about := step_and_round(key)) is None:
            raise NothingToResume(
                f"{what}: {uri!r} is no manifest; give .../manifests/<step>-<round>.json or a job's prefix"
            )
        return Lineage(
            store,
            (Entry(key, *about),),
            lambda damage: NothingToResume(f"{what}: {damage}; give another manifest, or the job's prefix"),
        )
    store = open_store(uri, what)
    head = store.get_with_etag(HEAD)
    if head is None:
        raise NothingToResume(f"{what}: there is no checkpoint at {uri!r} (no {HEAD}); {_advice(store)}")
    try:
        entries = Head.parse(head[0], store.uri(HEAD)).checkpoints
    except Damaged as damage:
        raise NothingToResume(f"{what}: {damage}; give the URI of one of its manifests") from None
    if not entries:
        raise NothingToResume(f"{what}: the job at {uri!r} has committed no checkpoint yet; wait for its first")
    none = f"{what}: none of the {len(entries)} checkpoints at {uri!r} can be read; give another job's prefix"
    return Lineage(store, entries, lambda damage: NothingToResume(none))


def _advice(store: Objects) -> str:
    heads = [key for key in store.list() if key.endswith(f"/{HEAD}")][:SHOWN]
    if not heads:
        return "give the prefix that holds a job's head.json, or the URI of a manifest"
    return "below it there is " + ", ".join(store.uri(key.removesuffix(HEAD)) for key in heads)
