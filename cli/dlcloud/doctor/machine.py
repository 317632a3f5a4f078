"""This machine: interpreter, packages, processors, memory, disks, limits, loopback.

May import the standard library and this package. Every function takes where to look, so that a test can show it another
machine.
"""

from __future__ import annotations

import os
import platform
import resource
import secrets
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from ..home import short
from .findings import Finding, fail, ok, size_text, skip, warn

MIN_PYTHON = (3, 11)
# module -> distribution, extra of ours that brings it
LOCAL_NEEDS = {
    "aiohttp": ("aiohttp", "operator"),
    "jinja2": ("Jinja2", "operator"),
    "jwt": ("PyJWT", "operator"),
    "torch": ("torch", "trainer"),
    "numpy": ("numpy", "trainer"),
    "obstore": ("obstore", "trainer"),
    "minio": ("minio", "local"),
}
LOCAL_WISHES = {"matplotlib": ("matplotlib", "local"), "kubernetes": ("kubernetes", "local")}
CLUSTER_NEEDS = {"kubernetes": ("kubernetes", "local"), "minio": ("minio", "local")}
_MISSING_FOR = {"matplotlib": "`dlcloud plot` draws no PNG or SVG", "kubernetes": "commands reach no cluster"}
GIB = 1 << 30
MIB = 1 << 20


def python(*, local: bool) -> Finding:
    """Version and platform; `local`: runs are to be made here."""
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {sys.executable}"
    if sys.version_info < MIN_PYTHON:
        return fail(text, "install Python 3.11 or newer")
    if local and sys.platform != "linux":
        return fail(text, "local runs need Linux; train in a cluster, or in a container or virtual machine with Linux")
    return ok(text)


def packages(needs: Mapping[str, tuple[str, str]], wishes: Mapping[str, tuple[str, str]]) -> Finding:
    """Which packages are there, and by which extra the others come."""
    missing = [name for name in needs if find_spec(name) is None]
    if missing:
        extras = sorted({needs[name][1] for name in missing})
        remedy = f"pip install 'dlcloud[{'local' if len(extras) > 1 else extras[0]}]'"
        return fail(f"not installed: {', '.join(missing)}", remedy)
    lacking = [name for name in wishes if find_spec(name) is None]
    if lacking:
        return warn(
            "; ".join(f"without {name} {_MISSING_FOR[name]}" for name in lacking), "pip install 'dlcloud[local]'"
        )
    return ok(", ".join(f"{distribution} {_version(distribution)}" for distribution, _ in needs.values()))


def processors(root: Path = Path("/")) -> Finding:
    """Cores this process may use, after affinity and the container's limit."""
    cores = float(len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else float(os.cpu_count() or 1)
    limit = cpu_limit(root)
    if limit is not None and limit < cores:
        text = f"{limit:g} of {cores:g} cores (the container's limit)"
        return ok(text) if limit >= 1 else warn(text, "give the container one CPU or more: ranks will be slow")
    return ok(f"{cores:g} core{'s' * (cores != 1)}")


def memory(root: Path = Path("/")) -> Finding:
    """Memory that is free for runs, after the container's limit."""
    facts = memory_free(root)
    if facts is None:
        return skip("the amount of memory cannot be told here")
    free, limited = facts
    text = f"{size_text(free)} free" + (" (the container's limit)" if limited else "")
    if free < 512 * MIB:
        return fail(
            text, "a worker with torch needs 0.5 GiB or more: end other programs, or raise the container's limit"
        )
    return ok(text) if free >= GIB else warn(text, "room for one small worker; end other programs for more")


def shared_memory(folder: Path = Path("/dev/shm")) -> Finding:
    """Data loaders and NCCL put their buffers there."""
    try:
        facts = os.statvfs(folder)
    except OSError as error:
        return warn(f"{folder}: {error.strerror}", "data loaders with workers, and NCCL, need it: mount a tmpfs there")
    free = facts.f_bavail * facts.f_frsize
    text = f"{folder}: {size_text(free)} free"
    if free < 256 * MIB or not os.access(folder, os.W_OK):
        remedy = "data loaders with workers, and NCCL, may end with a bus error: run the container with --shm-size=1g"
        return warn(text, remedy)
    return ok(text)


def disk(folder: Path, variable: str) -> Finding:
    """Whether a folder can be made, or written, and how much fits. Writes 1 MiB: a quota does not show otherwise."""
    where = next((path for path in (folder, *folder.parents) if path.exists()), Path("/"))
    change = f"set {variable} to a folder on another disk"
    try:
        _write_and_remove(where)
        free = shutil.disk_usage(where).free
    except OSError as error:
        return fail(f"{short(folder)} cannot be written: {error.strerror}", f"mend that, or {change}")
    text = f"{short(folder)}: {size_text(free)} free"
    if free < 200 * MIB:
        return fail(text, f"free some space, or {change}")
    return ok(text) if free >= 2 * GIB else warn(text, f"a few checkpoints will fill it: free some space, or {change}")


def temporary_folder(environ: Mapping[str, str]) -> Path:
    """Where temporary files go, also when nothing can be written there."""
    return Path(environ.get("TMPDIR") or tempfile.gettempdir())


def open_files() -> Finding:
    """The limit on open files: each rank and each connection takes some."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < 1024:
        can = "" if hard in (resource.RLIM_INFINITY,) or hard >= 4096 else " (as root, or in limits.conf)"
        return warn(f"{soft} at most", f"runs with many workers need more: ulimit -n 4096{can}")
    return ok("no limit" if soft == resource.RLIM_INFINITY else f"{soft} at most")


def loopback() -> Finding:
    """Whether processes of this machine can talk to each other: ports can be had, bytes arrive."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(5)
            port = server.getsockname()[1]
            with socket.create_connection(("127.0.0.1", port), timeout=5) as client, server.accept()[0] as accepted:
                accepted.settimeout(5)
                client.sendall(b"dlcloud")
                heard = accepted.recv(16)
    except OSError as error:
        return fail(
            f"127.0.0.1: {error.strerror or error}", "ranks talk over 127.0.0.1: bring it up (ip link set lo up)"
        )
    return ok("127.0.0.1 works, ports are free") if heard == b"dlcloud" else fail("127.0.0.1 loses bytes")


# --- facts, also for what a manifest asks for ---


def cpu_limit(root: Path = Path("/")) -> float | None:
    """The container's limit in cores (cgroup v2, then v1); None without one."""
    quota = _read(root, ["sys/fs/cgroup/cpu.max"])
    if quota is not None:
        words = quota.split()
        return int(words[0]) / int(words[1]) if words and words[0].isdigit() else None
    given = _read(root, ["sys/fs/cgroup/cpu/cpu.cfs_quota_us", "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us"])
    period = _read(root, ["sys/fs/cgroup/cpu/cpu.cfs_period_us", "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us"])
    if given is None or period is None or int(given) <= 0:
        return None
    return int(given) / int(period)


def memory_free(root: Path = Path("/")) -> tuple[int, bool] | None:
    """Free bytes, and whether the container's limit is what bounds them; None where that cannot be told."""
    found: list[tuple[int, bool]] = []
    for line in (_read(root, ["proc/meminfo"]) or "").splitlines():
        if line.startswith("MemAvailable:"):
            found.append((int(line.split()[1]) * 1024, False))
    for folder, limit, used in (
        ("sys/fs/cgroup", "memory.max", "memory.current"),
        ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        most, now = _read(root, [f"{folder}/{limit}"]), _read(root, [f"{folder}/{used}"])
        if most is not None and most.isdigit() and now is not None:
            cache = _cache(_read(root, [f"{folder}/memory.stat"]) or "")
            found.append((max(0, int(most) - int(now) + cache), True))
    return min(found) if found else None


def _cache(stat: str) -> int:
    """Of what a cgroup uses, the part that is given up when memory is needed."""
    fields = dict(line.split()[:2] for line in stat.splitlines() if len(line.split()) >= 2)
    return int(fields.get("total_inactive_file") or fields.get("inactive_file") or 0)


def _read(root: Path, names: Iterable[str]) -> str | None:
    for name in names:
        try:
            return (root / name).read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            continue
    return None


def _write_and_remove(folder: Path) -> None:
    file = folder / f".dlcloud-doctor-{secrets.token_hex(8)}"
    try:
        with file.open("xb") as stream:
            stream.write(b"\0" * MIB)
            stream.flush()
            os.fsync(stream.fileno())
    finally:
        file.unlink(missing_ok=True)


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "(no version)"
