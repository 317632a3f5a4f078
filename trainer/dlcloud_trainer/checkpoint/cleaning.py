"""Deletes what nobody needs any more, right after an own commit. Never an error of training's: what fails is tried
after the next commit.

May import objects, layout, reading and retention.

Every commit lists what is there, though a round's first cleaning finds most of it: a process of an older round that was
frozen goes on uploading when it wakes, and hears only at its commit that it is too late.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..objects import Objects, StoreUnusable
from .errors import Damaged
from .layout import ATTEMPTS, MANIFESTS, Entry, Manifest, attempt_of
from .reading import read_manifest
from .retention import garbage
from .tries import in_parallel

THREADS = 4


class Cleaner:
    """Knows which slices belong to which listed manifest, and what this process has written."""

    def __init__(self, objects: Objects, *, round: int, warn: Callable[[str, str], None]) -> None:
        self._objects, self._round, self._warn = objects, round, warn
        self._slices: dict[str, tuple[str, ...]] = {}
        # Manifests and attempt folders: of the listed checkpoints, and of all uploads that failed, because a request
        # nobody waits for any more may still arrive.
        self._mine: set[str] = set()
        self._unreadable: set[str] = set()  # listed manifests somebody was warned of

    def abandon(self, *written: str) -> None:
        """These attempt folders and manifests of our own go with the next cleaning, unless the head lists them then."""
        self._mine.update(written)

    def learn(self, key: str, manifest: Manifest) -> None:
        """What a manifest in the head consists of."""
        self._slices[key] = tuple(piece.key for piece in manifest.slices)

    def clean(self, committed: Sequence[Entry]) -> None:
        """Delete what `committed` (the head just written) does not list. Warns, never raises."""
        try:
            self._clean(committed)
        except StoreUnusable as error:
            self._warn("CheckpointCleanupFailed", f"{error}; old checkpoints stay until a later commit removes them")

    def _clean(self, committed: Sequence[Entry]) -> None:
        listed = {entry.manifest for entry in committed}
        unknown = {entry.round for entry in committed if not self._knows(entry)}
        current = {key: slices for key, slices in self._slices.items() if key in listed}
        used = {piece for slices in current.values() for piece in slices}
        keys = [*self._objects.list(MANIFESTS), *self._objects.list(ATTEMPTS)]
        doomed = garbage(keys, round=self._round, listed=listed, used=used, mine=self._mine, unknown=unknown)
        # Manifests before their slices: a reader finds a checkpoint whole or not at all.
        for folder in (MANIFESTS, ATTEMPTS):
            in_parallel(self._objects.delete, [key for key in doomed if key.startswith(folder)], THREADS)
        for key in self._slices.keys() - current:
            self._mine -= {key, *(found[0] for piece in self._slices[key] if (found := attempt_of(piece)))}
        self._slices = current

    def _knows(self, entry: Entry) -> bool:
        if entry.manifest in self._slices:
            return True
        try:
            self.learn(entry.manifest, read_manifest(self._objects, entry.manifest))
            return True
        except Damaged as damage:
            if entry.manifest not in self._unreadable:
                self._unreadable.add(entry.manifest)
                self._warn(
                    "CheckpointDamaged",
                    f"checkpoint of step {entry.step} is damaged ({damage}); while head.json lists it, the slices of "
                    f"round {entry.round} are not cleaned up",
                )
            return False
