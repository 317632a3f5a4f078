"""Manifests and slices from the store, checked byte by byte.

May import objects, layout and tries; never torch: the tool for checkpoints reads with it, too.
"""

from __future__ import annotations

import time
import zlib

from ..objects import ObjectMissing, Objects, Take
from .errors import Damaged
from .layout import Manifest, Slice, step_and_round
from .tries import persist

SLICE_RETRY_S = 30.0
READS = 2  # a flipped byte may come from the way: read once more before it counts as damage


def read_manifest(objects: Objects, key: str) -> Manifest:
    """The manifest under this key; raises `Damaged` or the errors of the store."""
    where = objects.uri(key)
    for left in reversed(range(READS)):
        try:
            manifest = Manifest.parse(objects.get(key), where)
            break
        except ObjectMissing:
            raise Damaged(f"{where} is missing") from None
        except Damaged:
            if not left:
                raise
    if step_and_round(key) != (manifest.step, manifest.round):
        raise Damaged(f"{where} is about step {manifest.step} of round {manifest.round}")
    return manifest


def read_slice(objects: Objects, piece: Slice, view: memoryview) -> None:
    """Fill `view` (uint8, writable) with a slice; raises `Damaged` or the errors of the store."""

    def take(at: int, part: memoryview) -> None:
        view[at : at + len(part)] = part

    read_pieces(objects, piece, take)


def read_pieces(objects: Objects, piece: Slice, take: Take) -> None:
    """Hand a slice to `take` as it arrives (see `Objects.get_pieces`); raises `Damaged`, and only then is it known that
    what was taken is wrong, or the errors of the store."""
    where, crc = objects.uri(piece.key), 0

    def check(at: int, part: memoryview) -> None:
        nonlocal crc
        crc = zlib.crc32(part, crc if at else 0)
        take(at, part)

    for _ in range(READS):
        crc = 0
        try:
            size = persist(
                lambda: objects.get_pieces(piece.key, piece.size_bytes, check), until=time.monotonic() + SLICE_RETRY_S
            )
        except ObjectMissing:
            raise Damaged(f"{where} is missing") from None
        if size != piece.size_bytes:
            raise Damaged(f"{where} has {size} bytes instead of {piece.size_bytes}")
        if crc == piece.crc32:
            return
    raise Damaged(f"{where}: its CRC does not match")
