"""`ls` and `verify`: what a data set has, and whether it is still what was uploaded.

May import objects and the index. Writes nothing.
"""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor

from ..checkpoint_tool.lines import Lines, ToolError
from ..objects import Described, ObjectMissing, Objects
from .index import INDEX, PARTIAL, Listed, parse_index

THREADS = 4


def ls(objects: Objects, lines: Lines) -> None:
    """Say of each file its size and, where there is an index, its SHA-256; raises `ToolError` where nothing is."""
    there = {found.key: found for found in objects.describe()}
    listed = parse_index(objects.get(INDEX), objects.uri(INDEX)) if INDEX in there else None
    if not there:
        raise ToolError(f"{objects.uri()}: nothing is there; correct the URI, or upload with `dlcloud data put`")
    if listed is None:
        for name, found in sorted(there.items()):
            if name != PARTIAL:
                lines.say("file", name=name, sizeBytes=found.size_bytes, sha256="", state="not listed")
    else:
        for name, file in sorted(listed.items()):
            state = "" if name in there else "missing"
            lines.say("file", name=name, sizeBytes=file.size_bytes, sha256=file.sha256, state=state)
    lines.say("result", indexed=listed is not None, unfinished=PARTIAL in there)


def verify(objects: Objects, lines: Lines) -> bool:
    """Read every byte and compare it with the index; says what is missing or different, returns whether nothing is."""
    there = {found.key: found for found in objects.describe()}
    if INDEX not in there:
        raise ToolError(
            f"{objects.uri(INDEX)}: there is no index to compare with; upload the data set with `dlcloud data put`"
        )
    listed = parse_index(objects.get(INDEX), objects.uri(INDEX))
    to_read = [file for name, file in sorted(listed.items()) if _size_of(there.get(name)) == file.size_bytes]
    lines.begin("verify", sum(file.size_bytes for file in to_read))
    lock, problems = threading.Lock(), 0

    def say(name: str, problem: str) -> None:
        nonlocal problems
        with lock:
            problems += 1
        lines.say("problem", name=name, problem=problem)

    for name, file in sorted(listed.items()):
        size = _size_of(there.get(name))
        if size is None:
            say(name, "it is missing")
        elif size != file.size_bytes:
            say(name, f"{size} bytes, {INDEX} says {file.size_bytes}")

    def check(file: Listed) -> None:
        problem = _read(objects, file, lines)
        if problem:
            say(file.name, problem)

    with ThreadPoolExecutor(THREADS, thread_name_prefix="verify") as pool:
        list(pool.map(check, to_read))
    lines.say(
        "result", sound=not problems, files=len(listed), problems=problems,
        sizeBytes=sum(file.size_bytes for file in listed.values()),
    )  # fmt: skip
    return not problems


def _size_of(found: Described | None) -> int | None:
    return None if found is None else found.size_bytes


def _read(objects: Objects, file: Listed, lines: Lines) -> str:
    digest, counted = hashlib.sha256(), 0

    def take(at: int, piece: memoryview) -> None:
        nonlocal digest, counted
        if at == 0:
            digest = hashlib.sha256()
        digest.update(piece)
        if at + len(piece) > counted:
            lines.add(at + len(piece) - counted)
            counted = at + len(piece)

    try:
        size = objects.get_pieces(file.name, file.size_bytes, take)
    except ObjectMissing:
        return "it is missing"
    if size != file.size_bytes:
        return f"{size} bytes, {INDEX} says {file.size_bytes}"
    return "" if digest.hexdigest() == file.sha256 else f"its SHA-256 is not the one in {INDEX}"
