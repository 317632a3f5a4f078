"""From a lineage to the newest checkpoint that is sound.

May import objects, layout, staging and tries. Writes nothing. Damage leads to the checkpoint before; an unreachable
store does not: it
is an error, because the newest checkpoint may be well.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..objects import ObjectMissing, Objects
from .errors import Damaged
from .layout import Entry, Manifest, Slice, step_and_round
from .staging import allocate, as_memory, views
from .tries import in_parallel, persist

THREADS = 6
SLICE_RETRY_S = 30.0
READS = 2  # a wrong CRC may come from the way: read once more before it counts as damage


@dataclass(frozen=True)
class Loaded:
    """A verified checkpoint; `tensors` are views of `flat` (uint8, 1-d)."""

    key: str
    manifest: Manifest
    flat: Tensor
    tensors: dict[str, Tensor]


def load(objects: Objects, key: str) -> Loaded:
    """Read and verify one checkpoint; raises `Damaged` or the errors of the store."""
    where = objects.uri(key)
    try:
        manifest = Manifest.parse(objects.get(key), where)
    except ObjectMissing:
        raise Damaged(f"{where} is missing") from None
    if step_and_round(key) != (manifest.step, manifest.round):
        raise Damaged(f"{where} is about step {manifest.step} of round {manifest.round}")
    flat = allocate(manifest.size_bytes)
    whole = as_memory(flat)
    parts: list[tuple[Slice, memoryview]] = []
    at = 0
    for piece in manifest.slices:
        parts.append((piece, whole[at : at + piece.size_bytes]))
        at += piece.size_bytes
    in_parallel(lambda part: _fill(objects, *part), parts, THREADS)
    return Loaded(key, manifest, flat, views(flat, manifest.tensors))


def newest_sound(
    objects: Objects, lineage: Sequence[Entry], warn: Callable[[str], None]
) -> tuple[Loaded, tuple[Entry, ...]] | None:
    """The first checkpoint of `lineage` (newest first) that is sound, and the lineage from it on; None when there is
    none."""
    for index, entry in enumerate(lineage):
        try:
            return load(objects, entry.manifest), tuple(lineage[index:])
        except Damaged as damage:
            older = f"step {lineage[index + 1].step}" if index + 1 < len(lineage) else "nothing, this was the oldest"
            warn(f"checkpoint of step {entry.step} is damaged ({damage}); going back to {older}")
    return None


def _fill(objects: Objects, piece: Slice, view: memoryview) -> None:
    where = objects.uri(piece.key)
    for _ in range(READS):
        try:
            size = persist(lambda: objects.get_into(piece.key, view), until=time.monotonic() + SLICE_RETRY_S)
        except ObjectMissing:
            raise Damaged(f"{where} is missing") from None
        if size != piece.size_bytes:
            raise Damaged(f"{where} has {size} bytes instead of {piece.size_bytes}")
        if zlib.crc32(view) == piece.crc32:
            return
    raise Damaged(f"{where}: its CRC does not match")
