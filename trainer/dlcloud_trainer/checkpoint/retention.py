"""Which checkpoints stay and which objects go. Pure: decides about values, deletes nothing.

May import layout.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from .layout import Entry, attempt_of, step_and_round


def kept(entries: Sequence[Entry], *, keep_last: int, keep_best: int) -> tuple[Entry, ...]:
    """Of entries newest first: the newest `keep_last` (at least one), the `keep_best` of highest metric (of equals
    the newer), and all pinned ones; in the same order."""
    measured = [i for i, entry in enumerate(entries) if entry.metric is not None]
    best = sorted(measured, key=lambda i: (-(entries[i].metric or 0.0), i))[: max(0, keep_best)]
    stay = {*range(max(1, keep_last)), *best, *(i for i, entry in enumerate(entries) if entry.pinned)}
    return tuple(entry for i, entry in enumerate(entries) if i in stay)


def garbage(
    keys: Iterable[str],
    *,
    round: int,
    listed: Collection[str],
    used: Collection[str],
    mine: Collection[str],
    unknown: Collection[int] = (),
) -> list[str]:
    """Keys below `manifests/` and `attempts/` nobody needs any more, manifests first.

    `listed`: manifests in the head; `used`: slices they name; `mine`: manifests and attempt folders of the process that
    asks, which uploads nothing while it asks; `unknown`: rounds of listed manifests that cannot be read, so that any
    slice of theirs may be used. Of others only what lower rounds wrote is touched: the own round's number, or a higher
    one, may be writing right now, a lower one can no longer commit.
    """
    manifests, pieces = [], []
    for key in keys:
        if (found := step_and_round(key)) is not None:
            if key not in listed and (found[1] < round or key in mine):
                manifests.append(key)
        elif (attempt := attempt_of(key)) is not None and key not in used:
            folder, by = attempt
            if (by < round or folder in mine) and by not in unknown:
                pieces.append(key)
    return manifests + pieces
