"""Deletes what nobody needs any more, right after an own commit. Never an error of training's: what fails is tried
after the next commit.

May import objects, layout and retention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..objects import ObjectMissing, Objects, StoreUnusable
from .errors import Damaged
from .layout import ATTEMPTS, MANIFESTS, Entry, Manifest
from .retention import garbage
from .tries import in_parallel

THREADS = 4


class Cleaner:
    """Knows which slices belong to which manifest, and what of this round was given up."""

    def __init__(self, objects: Objects, *, round: int, warn: Callable[[str, str], None]) -> None:
        self._objects, self._round, self._warn = objects, round, warn
        self._slices: dict[str, tuple[str, ...]] = {}
        self._abandoned: set[str] = set()
        self._doomed: set[str] = set()  # could not be deleted yet
        self._swept = False  # older rounds leave things only once

    def abandon(self, folder: str) -> None:
        """This attempt's slices go with the next cleaning, unless a listed manifest names them by then."""
        self._abandoned.add(folder)

    def learn(self, key: str, manifest: Manifest) -> None:
        self._slices[key] = tuple(piece.key for piece in manifest.slices)

    def clean(self, committed: Sequence[Entry]) -> None:
        """Delete what `committed` (the head just written) does not list. Warns, never raises."""
        listed = {entry.manifest for entry in committed}
        try:
            for key in listed - set(self._slices):
                self._read(key)
            used = {piece for key in listed for piece in self._slices[key]}
            for key in set(self._slices) - listed:
                self._doomed |= {key, *self._slices.pop(key)}
            if not self._swept or len(self._abandoned) > 1:
                keys = [*self._objects.list(MANIFESTS), *self._objects.list(ATTEMPTS)]
                self._doomed |= set(
                    garbage(keys, round=self._round, listed=listed, used=used, abandoned=self._abandoned)
                )
                self._swept = True
            self._abandoned.clear()
            self._delete(self._doomed - used - listed)
        except (StoreUnusable, Damaged, ObjectMissing) as error:
            self._warn("CheckpointCleanupFailed", f"{error}; old checkpoints stay until a later commit removes them")

    def _delete(self, keys: set[str]) -> None:
        def delete(key: str) -> None:
            self._objects.delete(key)
            self._doomed.discard(key)

        # Manifests before their slices ("manifests/" sorts after "attempts/"): a reader finds a checkpoint whole or
        # not at all.
        manifests = sorted(key for key in keys if key.startswith(MANIFESTS))
        in_parallel(delete, manifests, THREADS)
        in_parallel(delete, sorted(keys - set(manifests)), THREADS)
        self._doomed.clear()

    def _read(self, key: str) -> None:
        self.learn(key, Manifest.parse(self._objects.get(key), self._objects.uri(key)))
