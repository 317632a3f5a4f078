"""Where the bytes of a checkpoint's slices go in a safetensors file.

May import layout. Pure. The format: https://huggingface.co/docs/safetensors - tensors without gaps, so the order is
by element size, the largest first: then each begins at a multiple of its own and can be mapped into memory.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..checkpoint.errors import Damaged
from ..checkpoint.layout import Manifest, Slice, TensorSpec

ITEM_SIZES = {
    "C128": 16, "F64": 8, "I64": 8, "U64": 8, "C64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2,
    "U16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Segment:
    """`size` bytes at `source` of the flat buffer belong at `target` of the file."""

    source: int
    target: int
    size: int


@dataclass(frozen=True)
class FilePlan:
    """A safetensors file: its header's bytes, its size, and its tensors' segments in ascending `source`."""

    header: bytes
    size_bytes: int
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Part:
    """A slice and where in the flat buffer it begins."""

    index: int
    piece: Slice
    begin: int


def item_size(dtype: str) -> int:
    """Bytes of one element. Raises `Damaged` for a type nobody knows."""
    if dtype not in ITEM_SIZES:
        raise Damaged(f"a tensor has dtype {dtype!r}, which this program does not know")
    return ITEM_SIZES[dtype]


def select(tensors: Mapping[str, TensorSpec], only: str) -> dict[str, TensorSpec]:
    """The tensors of one part of the state, without its name before theirs; all, as they are, without `only`."""
    if not only:
        return dict(tensors)
    return {name.removeprefix(f"{only}."): spec for name, spec in tensors.items() if name.startswith(f"{only}.")}


def parts_of(tensors: Mapping[str, TensorSpec]) -> list[str]:
    """What `only` may be."""
    return sorted({name.partition(".")[0] for name in tensors if "." in name})


def plan_file(tensors: Mapping[str, TensorSpec], metadata: Mapping[str, str]) -> FilePlan:
    """The file that holds these tensors. Raises `Damaged`."""
    order = sorted(tensors.items(), key=lambda item: -item_size(item[1].dtype))
    entries: dict[str, Any] = {"__metadata__": {"format": "pt", **metadata}}
    at = 0
    for name, spec in order:
        # The format has no complex128: two float64 in a last dimension, as torch.view_as_complex takes them.
        dtype, shape = ("F64", [*spec.shape, 2]) if spec.dtype == "C128" else (spec.dtype, list(spec.shape))
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + spec.size_bytes]}
        at += spec.size_bytes
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = struct.pack("<Q", len(text)) + text
    targets = {name: len(header) + entries[name]["data_offsets"][0] for name in tensors}
    segments = [Segment(spec.offset, targets[name], spec.size_bytes) for name, spec in order if spec.size_bytes]
    return FilePlan(header, len(header) + at, tuple(sorted(segments, key=lambda segment: segment.source)))


def parts(manifest: Manifest) -> list[Part]:
    """The slices, and where each begins."""
    found, at = [], 0
    for index, piece in enumerate(manifest.slices):
        found.append(Part(index, piece, at))
        at += piece.size_bytes
    return found


def cut(segments: Sequence[Segment], begin: int, end: int) -> Iterator[Segment]:
    """What of the segments lies in `begin` to `end` of the flat buffer."""
    for segment in segments:
        first, last = max(begin, segment.source), min(end, segment.source + segment.size)
        if first < last:
            yield Segment(first, segment.target + first - segment.source, last - first)
