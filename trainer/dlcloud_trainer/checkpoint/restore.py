"""From a lineage to the newest checkpoint that is sound, read to where its tensors belong as it arrives.

May import objects, layout, reading, spread and tries. Writes nothing to the store, and takes no memory worth speaking
of. Damage leads to the checkpoint before, which overwrites all that was read; an unreachable store does not: it is an
error, because the newest checkpoint may be well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from ..objects import Objects
from .errors import Damaged
from .layout import Entry, Manifest, Slice
from .reading import read_manifest, read_pieces
from .settings import Place
from .spread import Spread
from .staging import as_memory, dtype_of
from .tries import in_parallel

THREADS = 6
BUFFER_BYTES = 1 << 20


@dataclass(frozen=True)
class Lineage:
    """Checkpoints of one job, newest first, and the error when none of them can be read."""

    objects: Objects
    entries: tuple[Entry, ...]
    nothing: Callable[[Damaged], Exception]


@dataclass(frozen=True)
class Found:
    """A sound checkpoint: its tensors are where `Place` wanted them, `rest` begins with its entry."""

    manifest: Manifest
    rest: tuple[Entry, ...]
    tensors: dict[str, Tensor]


class Reading:
    """Finds the newest checkpoint whose manifest can be read; its tensors are read once their places are known."""

    def __init__(self, lineage: Lineage, warn: Callable[[str], None]) -> None:
        self._lineage, self._warn = lineage, warn
        self._index = 0
        self._manifest = self._next()

    @property
    def manifest(self) -> Manifest:
        """Of the checkpoint that would be read now."""
        return self._manifest

    def into(self, place: Place) -> Found:
        """Ask `place` for the tensors to fill and fill them; with damage, again for the checkpoint before. Raises what
        `place` raises, what the lineage says when none is sound, and the errors of the store."""
        while True:
            try:
                tensors = self._fill(place)
            except Damaged as damage:
                self._go_back(damage)
                self._manifest = self._next()
            else:
                return Found(self._manifest, self._lineage.entries[self._index :], tensors)

    def _fill(self, place: Place) -> dict[str, Tensor]:
        manifest, objects = self._manifest, self._lineage.objects
        for name, spec in manifest.tensors.items():
            dtype_of(name, spec)
        if not isinstance(manifest.state, dict):
            raise Damaged("its state is no JSON object")
        tensors = place(manifest.tensors, manifest.state)
        spread = Spread(tensors, manifest.tensors)
        starts = accumulate((piece.size_bytes for piece in manifest.slices), initial=0)
        in_parallel(
            lambda one: read_pieces(objects, one[1], Pouring(spread, *one).take),
            list(zip(starts, manifest.slices, strict=False)),
            THREADS,
        )
        return tensors

    def _next(self) -> Manifest:
        while True:
            try:
                return read_manifest(self._lineage.objects, self._lineage.entries[self._index].manifest)
            except Damaged as damage:
                self._go_back(damage)

    def _go_back(self, damage: Damaged) -> None:
        damaged, *rest = self._lineage.entries[self._index :]
        older = f"step {rest[0].step}" if rest else "nothing, this was the oldest"
        self._warn(f"checkpoint of step {damaged.step} is damaged ({damage}); going back to {older}")
        if not rest:
            raise self._lineage.nothing(damage)
        self._index += 1


class Pouring:
    """One slice on its way into the tensors, through a buffer: what arrives ends anywhere, an element does not."""

    def __init__(self, spread: Spread, start: int, piece: Slice) -> None:
        self._spread, self._start, self._size = spread, start, piece.size_bytes
        self._buffer = torch.empty(min(BUFFER_BYTES, piece.size_bytes), dtype=torch.uint8)
        self._memory = as_memory(self._buffer)

    def take(self, at: int, part: memoryview) -> None:
        """The slice's bytes from `at` on; they follow one another."""
        while part:
            filled = at % BUFFER_BYTES
            count = min(len(part), len(self._memory) - filled)
            self._memory[filled : filled + count] = part[:count]
            at, part = at + count, part[count:]
            if at % BUFFER_BYTES == 0 or at == self._size:
                self._spread.scatter(self._start + at - filled - count, self._buffer[: filled + count])
