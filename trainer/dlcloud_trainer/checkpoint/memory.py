"""How much memory this process may still take before the kernel ends it.

May import the standard library only. Reads small files and changes nothing; where a file is missing that limit is
taken for absent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MARGIN = 64 << 20  # what sending takes beside the buffers, and an allocator's waste
UNLIMITED = 1 << 60  # control groups of version 1 have no word for it
_FILE_PAGES = re.compile(r"^(?:total_)?(?:in)?active_file (\d+)$", re.MULTILINE)
_FILE_PAGES_V1 = re.compile(r"^total_(?:in)?active_file (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Lack:
    """Too little memory: `free_bytes` are left and `missing_bytes` more would do."""

    free_bytes: int
    missing_bytes: int


def lack(size_bytes: int, *, root: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc")) -> Lack | None:
    """What is missing to take `size_bytes` more and still have room for what this process once needed; None when
    nothing is."""
    free = free_bytes(root=root, proc=proc)
    if free is None:
        return None
    missing = size_bytes + MARGIN + _grows_back(proc) - free
    return Lack(free, missing) if missing > 0 else None


def free_bytes(*, root: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc")) -> int | None:
    """The least that any control group of ours, or the machine, has left; the page cache counts as free."""
    found = [left for folder, version in _groups(root, proc) if (left := _left(folder, version)) is not None]
    available = re.search(r"^MemAvailable:\s+(\d+) kB", _read(proc / "meminfo"), re.MULTILINE)
    if available:
        found.append(int(available[1]) << 10)
    return min(found, default=None)


def _groups(root: Path, proc: Path) -> Iterator[tuple[Path, int]]:
    """Our memory group and all above it. In a container the path may be the host's: what is not there is left out."""
    for line in _read(proc / "self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            base, version = root, 2
        elif "memory" in controllers.split(","):
            base, version = root / "memory", 1
        else:
            continue
        inner = Path(path.lstrip("/"))
        yield from ((base / folder, version) for folder in (inner, *inner.parents))


def _left(folder: Path, version: int) -> int | None:
    names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    limit, used = (_read(folder / name).strip() for name in names)
    if not limit.isdigit() or not used.isdigit() or int(limit) >= UNLIMITED:
        return None
    pages = (_FILE_PAGES if version == 2 else _FILE_PAGES_V1).findall(_read(folder / "memory.stat"))
    return max(0, int(limit) - int(used) + sum(map(int, pages)))


def _grows_back(proc: Path) -> int:
    """What this process had at its peak and gave back: a forward and backward will ask for it again."""
    status = _read(proc / "self/status")
    peak, now = (re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE) for name in ("VmHWM", "VmRSS"))
    return max(0, int(peak[1]) - int(now[1])) << 10 if peak and now else 0


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
