"""When head.json is lost or damaged: what it most likely listed, from the manifests that are left.

May import layout and errors. Pure: reading is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .errors import Damaged
from .layout import Entry, Manifest, step_and_round

Read = Callable[[str], Manifest | None]  # None: there is no such object; raises `Damaged`


def lineage(keys: Iterable[str], read: Read) -> tuple[Entry, ...]:
    """The newest readable manifest among `keys` and its ancestors, newest first.

    Where an ancestor is gone, retention has dropped it, and what is left before it was kept for its metric or because
    somebody pinned it. Which of the two is not known, so those come back pinned: nothing is lost, and a pin is easily
    taken off.
    """
    known = {key: found for key in keys if (found := step_and_round(key))}
    entries: list[Entry] = []
    candidates = sorted(known, key=lambda key: (known[key][1], known[key][0]), reverse=True)  # by round, then by step
    beyond_gap = False
    while candidates:
        key, *candidates = candidates
        try:
            manifest = read(key)
        except Damaged:
            continue
        if manifest is None or (manifest.step, manifest.round) != known[key]:
            continue
        entries.append(Entry(key, manifest.step, manifest.round, manifest.metric, pinned=beyond_gap))
        parent = step_and_round(manifest.parent) if manifest.parent else None
        if parent is None:
            break
        beyond_gap |= manifest.parent not in known
        # Not what a fenced round left: an ancestor has neither a later step nor a later round than its descendants.
        candidates = [key for key in candidates if known[key][0] <= parent[0] and known[key][1] <= parent[1]]
    return tuple(entries)
