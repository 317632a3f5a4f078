"""`rm`: first the head stops listing a checkpoint, then its objects go, manifest before slices.

May import objects, layout, reading and tries. Objects of a job that runs are left to its own next cleaning: a rank that
is just starting may still be reading them.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..checkpoint.errors import Damaged
from ..checkpoint.layout import ATTEMPTS, HEAD, MANIFESTS, Entry, Head, Manifest, attempt_of, step_and_round
from ..checkpoint.reading import read_manifest
from ..checkpoint.tries import in_parallel
from ..objects import Objects
from .choosing import choose
from .edit import edit_head
from .lines import Lines, ToolError

THREADS = 4


def remove(objects: Objects, words: Sequence[str], *, force: bool, stopped: bool, lines: Lines) -> None:
    """Take the checkpoints of these steps out of the head, and with `stopped` delete their objects.

    Raises ToolError for a step that is not there, or when a pinned or the newest one is among them without `force`.
    """
    # A removal that was interrupted left objects that no head lists: they may be named again.
    left_over = _left_over(objects, words) if stopped else []
    gone: list[Entry] = []

    def without(entries: Sequence[Entry]) -> Sequence[Entry]:
        nonlocal gone
        wanted = [word for word in words if not _names(left_over, word) or _names([e.manifest for e in entries], word)]
        gone = [entry for word in wanted for entry in choose(entries, word)]
        if not force:
            _refuse(entries, gone)
        keys = {entry.manifest for entry in gone}
        return [entry for entry in entries if entry.manifest not in keys]

    after = edit_head(objects, without)
    keys = list(dict.fromkeys([*(entry.manifest for entry in gone), *left_over]))
    num_bytes = _delete(objects, keys, lines) if stopped else 0
    lines.say(
        "result",
        removed=sorted({entry.step for entry in gone} | {_step(key) for key in left_over}),
        left=[entry.step for entry in after],
        deleted=stopped,
        deletedObjects=num_bytes,
    )


def _refuse(entries: Sequence[Entry], gone: Sequence[Entry]) -> None:
    stay = [entry for entry in entries if entry not in gone]
    reasons = [f"step {entry.step} is pinned" for entry in gone if entry.pinned]
    if not stay and gone:
        reasons.append("no checkpoint would be left, and the job would begin anew")
    elif entries and entries[0] in gone:
        reasons.append(f"step {entries[0].step} is the newest, and the job would go on from step {stay[0].step}")
    if reasons:
        raise ToolError("; ".join(reasons), usage=True, force=True)


def _names(keys: Sequence[str], word: str) -> bool:
    return word.isdecimal() and any(_step(key) == int(word) for key in keys)


def _step(key: str) -> int:
    found = step_and_round(key)
    return found[0] if found else -1


def _left_over(objects: Objects, words: Sequence[str]) -> list[str]:
    found = objects.get_with_etag(HEAD)
    if found is None:
        return []
    listed = {entry.manifest for entry in Head.parse(found[0], objects.uri(HEAD)).checkpoints}
    steps = {int(word) for word in words if word.isdecimal()}
    return [key for key in objects.list(MANIFESTS) if key not in listed and _step(key) in steps]


def _delete(objects: Objects, keys: Sequence[str], lines: Lines) -> int:
    """Delete these manifests and what they alone name; returns how many objects that were."""
    slices: set[str] = set()
    for key in keys:
        try:
            slices |= _slices(read_manifest(objects, key))
        except Damaged as damage:
            lines.say("notice", message=f"{damage}: its slices cannot be told from others' and stay")
    listed = edit_head(objects, lambda entries: entries)  # as it is by now: a round may have begun meanwhile
    try:
        for entry in listed:
            slices -= _slices(read_manifest(objects, entry.manifest))
    except Damaged as damage:
        lines.say("notice", message=f"{damage}: no slice is deleted, because that one may need it")
        slices = set()
    slices = {key for key in slices if attempt_of(key) is not None and key.startswith(ATTEMPTS)}
    doomed = [key for key in keys if key not in {entry.manifest for entry in listed}]
    in_parallel(objects.delete, doomed, THREADS)
    in_parallel(objects.delete, sorted(slices), THREADS)
    return len(doomed) + len(slices)


def _slices(manifest: Manifest) -> set[str]:
    return {piece.key for piece in manifest.slices}
