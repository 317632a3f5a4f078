"""`get`: a checkpoint as a standard safetensors file, and the rest of its state as JSON beside it.

May import objects, layout, reading, tries and this package. The file has its name only when it is whole; until then
what has come lies in `NAME.partial`, and a second call goes on from there.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from pathlib import Path
from typing import Any

from ..checkpoint.errors import Damaged
from ..checkpoint.layout import Entry, Manifest, time_text
from ..checkpoint.reading import read_manifest, read_slice
from ..checkpoint.tries import in_parallel
from ..objects import Objects
from .choosing import choose, read_head, steps_text
from .lines import Lines, ToolError
from .partial import PartialFile
from .tensors import FilePlan, Part, cut, parts, parts_of, plan_file, select

THREADS = 4
SUFFIX = ".safetensors"


def get(objects: Objects, word: str, out: Path, *, only: str, force: bool, lines: Lines) -> None:
    """Download one checkpoint to `out`: a file, or a folder for `checkpoint.safetensors` and `state.json`.

    Raises ToolError, `Damaged`, OSError and the errors of the store.
    """
    entries = read_head(objects).checkpoints
    entry = choose(entries, word)[0]
    try:
        manifest = read_manifest(objects, entry.manifest)
    except Damaged as damage:
        raise ToolError(f"{damage}; take another one: {steps_text([e for e in entries if e != entry])}") from None
    file, state = _names(out)
    if file.exists() and not force:
        raise ToolError(f"{file}: exists; give another --out, or --force to replace it", usage=True)
    chosen = select(manifest.tensors, only)
    if only and not chosen:
        known = ", ".join(parts_of(manifest.tensors)) or "none"
        raise ToolError(f"--only: {only!r} has no tensors in this checkpoint; parts with tensors: {known}", usage=True)
    plan = plan_file(chosen, {"step": str(manifest.step), "manifest": objects.uri(entry.manifest)})
    file.parent.mkdir(parents=True, exist_ok=True)
    mark = {"manifest": objects.uri(entry.manifest), "crc32": zlib.crc32(manifest.dump()), "only": only}
    with PartialFile(file, plan, mark) as partial:
        _check_space(partial, plan)
        kept = _download(objects, manifest, plan, partial, lines)
        _write_state(state, objects, entry, manifest, only)
        partial.finish()
    lines.say(
        "result", file=str(file), state=str(state), step=manifest.step, sizeBytes=plan.size_bytes, tensors=len(chosen),
        keptBytes=kept,
    )  # fmt: skip


def _names(out: Path) -> tuple[Path, Path]:
    if out.suffix == SUFFIX and not out.is_dir():
        return out, out.with_name(f"{out.stem}.state.json")
    return out / f"checkpoint{SUFFIX}", out / "state.json"


def _check_space(partial: PartialFile, plan: FilePlan) -> None:
    needed = plan.size_bytes - partial.allocated_bytes()
    free = shutil.disk_usage(partial.path.parent).free
    if needed > free:
        raise ToolError(
            f"{partial.path.parent}: {plan.size_bytes} bytes are needed and {free} are free; free some, or give --out "
            "on another disk"
        )


def _download(objects: Objects, manifest: Manifest, plan: FilePlan, partial: PartialFile, lines: Lines) -> int:
    """Fetch every slice that is not there yet; returns how many bytes of slices were."""
    wanted: list[tuple[Part, list[Any]]] = []
    for part in parts(manifest):
        segments = list(cut(plan.segments, part.begin, part.begin + part.piece.size_bytes))
        if segments:  # with `only`, whole slices may hold nothing of it
            wanted.append((part, segments))
    lines.begin(f"step {manifest.step}", sum(part.piece.size_bytes for part, _ in wanted))
    kept = 0
    missing = []
    for part, segments in wanted:
        if partial.holds(part.index, segments):
            kept += part.piece.size_bytes
            lines.add(part.piece.size_bytes)
        else:
            missing.append((part, segments))

    def fetch(one: tuple[Part, list[Any]]) -> None:
        part, segments = one
        view = memoryview(bytearray(part.piece.size_bytes))
        read_slice(objects, part.piece, view)
        partial.write(part.index, view, part.begin, segments)
        lines.add(len(view))

    in_parallel(fetch, missing, THREADS)
    return kept


def _write_state(path: Path, objects: Objects, entry: Entry, manifest: Manifest, only: str) -> None:
    document = {
        "manifest": objects.uri(entry.manifest),
        "step": manifest.step,
        "samples": manifest.samples,
        "round": manifest.round,
        "createdAt": time_text(manifest.created_at),
        "metric": entry.metric,
        "worldSize": manifest.world_size,
        "threads": manifest.threads,
        "seed": manifest.seed,
        "workload": manifest.workload,
        "parameters": dict(manifest.parameters),
        "only": only or None,
        "state": manifest.state,
    }
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.write_text(json.dumps(document, indent=1) + "\n")
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
