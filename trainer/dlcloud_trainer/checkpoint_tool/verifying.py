"""`verify`: read every byte a checkpoint consists of and compare it with what its manifest says.

May import objects, layout, reading and tries. Writes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..checkpoint.errors import Damaged
from ..checkpoint.layout import HEAD, MANIFESTS, Entry, Manifest, Slice, step_and_round
from ..checkpoint.reading import read_manifest, read_slice
from ..checkpoint.tries import in_parallel
from ..objects import Objects
from .choosing import ALL, choose, read_head
from .lines import Lines
from .tensors import item_size

THREADS = 4


def verify(objects: Objects, words: Sequence[str], lines: Lines) -> bool:
    """Say of each checkpoint whether it is sound; returns whether all are, and head.json as well."""
    entries, sound = _entries(objects, lines)
    wanted = [entry for word in (words or [ALL]) for entry in choose(entries, word)]
    for entry in dict.fromkeys(wanted):
        problem, size = "", 0
        try:
            manifest = read_manifest(objects, entry.manifest)
            size = manifest.size_bytes
            problem = _problem(objects, entry, manifest, lines)
        except Damaged as damage:
            problem = str(damage)
        sound = sound and not problem
        lines.say(
            "checkpoint", step=entry.step, round=entry.round, manifest=objects.uri(entry.manifest), sizeBytes=size,
            sound=not problem, problem=problem,
        )  # fmt: skip
    lines.say("result", sound=sound)
    return sound


def _entries(objects: Objects, lines: Lines) -> tuple[tuple[Entry, ...], bool]:
    """What the head lists; of a damaged head, every manifest that is there, newest first."""
    try:
        return read_head(objects).checkpoints, True
    except Damaged as damage:
        lines.say(
            "checkpoint", step=None, round=None, manifest=objects.uri(HEAD), sizeBytes=0, sound=False,
            problem=f"{damage}; the job's next round puts it together again from the manifests",
        )  # fmt: skip
    found = {key: name for key in objects.list(MANIFESTS) if (name := step_and_round(key)) is not None}
    newest_first = sorted(found, key=lambda key: (found[key][1], found[key][0]), reverse=True)
    return tuple(Entry(key, *found[key]) for key in newest_first), False


def _problem(objects: Objects, entry: Entry, manifest: Manifest, lines: Lines) -> str:
    if (entry.step, entry.round) != (manifest.step, manifest.round):
        return f"{objects.uri(HEAD)} says step {entry.step} of round {entry.round}"
    for name, spec in manifest.tensors.items():
        expected = math.prod(spec.shape) * item_size(spec.dtype)
        if expected != spec.size_bytes:
            return f"tensor {name} of {spec.dtype} {list(spec.shape)} cannot be {spec.size_bytes} bytes long"
    problems: list[str] = []
    lines.begin(f"step {entry.step}", manifest.size_bytes)

    def check(piece: Slice) -> None:
        try:
            read_slice(objects, piece, memoryview(bytearray(piece.size_bytes)))
        except Damaged as damage:
            problems.append(str(damage))
        lines.add(piece.size_bytes)

    in_parallel(check, manifest.slices, THREADS)
    more = f" (and {len(problems) - 1} more of {len(manifest.slices)} slices)" if len(problems) > 1 else ""
    return f"{min(problems)}{more}" if problems else ""
