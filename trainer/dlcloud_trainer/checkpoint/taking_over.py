"""The start of a round: own the prefix, prove that the store does what checkpoints need, find where to go on.

May import the rest of this package but the checkpointer. Everything that is wrong with a store must come out here, not
at the first checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..objects import Objects, probe_rights
from .cleaning import Cleaner
from .errors import NothingSound
from .head import TAKE_OVER_S, HeadFile
from .layout import HEAD, attempt_folder
from .restore import Lineage, Reading
from .resume import foreign_lineage
from .settings import CheckpointSettings, Place, Restored
from .tries import Aside
from .upload import deadline

Warn = Callable[[str, str], None]


@dataclass(frozen=True)
class Taken:
    """What a round owns, and the checkpoints it may go on from."""

    head: HeadFile
    cleaner: Cleaner
    lineage: Lineage | None
    reading: Reading | None

    def restore(self, place: Place) -> Restored | None:
        """Read the newest sound checkpoint to where `place` wants its tensors; None when there is none to read. Once
        only: raises what `Reading.into` raises, and `Fenced`."""
        if self.lineage is None or self.reading is None:
            return None
        found = self.reading.into(place)
        entry, store, manifest = found.rest[0], self.lineage.objects, found.manifest
        if self.lineage.entries == self.head.checkpoints:  # else another job's
            if len(found.rest) < len(self.head.checkpoints):
                self.head.commit(found.rest, tuple, until=deadline(TAKE_OVER_S))
            self.cleaner.learn(entry.manifest, manifest)
        return Restored(
            step=manifest.step,
            samples=manifest.samples,
            manifest=store.uri(entry.manifest),
            metric=manifest.metric,
            tensors=found.tensors,
            state=manifest.state,
            specs=manifest.tensors,
        )


def take_over(
    settings: CheckpointSettings,
    store: Objects,
    watched: Objects,
    open_store: Callable[[str, str], Objects],
    warn: Warn,
) -> Taken:
    """Make this round the owner of `store`; `watched` is the same for the uploads. Raises `Fenced`, `StoreUnusable`."""
    head = HeadFile(watched, round=settings.round, nonce=settings.nonce, warn=warn)
    head.take_over()
    cleaner = Cleaner(store, round=settings.round, warn=warn)
    # The right to change the head says nothing of the rest; beside the reading the proof takes no time.
    rights = None if head.proven else Aside(lambda: probe_rights(store, attempt_folder(settings.round, "probe")))
    lineage = _lineage(settings, store, head, open_store)
    reading = Reading(lineage, lambda message: warn("CheckpointDamaged", message)) if lineage else None
    if rights is not None:
        rights.join()
    return Taken(head, cleaner, lineage, reading)


def _lineage(
    settings: CheckpointSettings, store: Objects, head: HeadFile, open_store: Callable[[str, str], Objects]
) -> Lineage | None:
    if head.checkpoints:
        none = (
            f"{store.uri(HEAD)}: none of its {len(head.checkpoints)} checkpoints can be read; put the missing objects "
            f"back, or delete everything below {store.uri()} to begin anew"
        )
        return Lineage(store, head.checkpoints, lambda damage: NothingSound(none))
    return foreign_lineage(settings.resume_from, open_store) if settings.resume_from else None
