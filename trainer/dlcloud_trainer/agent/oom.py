"""How many processes of this pod the kernel has killed for memory, from the pod's own cgroup (v2 or v1).

May import the standard library only. Where the count cannot be read there is no claim: None, never an exception.
"""

from __future__ import annotations

from pathlib import Path


def find_counter(proc: Path = Path("/proc/self")) -> Path | None:
    """The file that holds `oom_kill` for the own cgroup: memory.events (v2) or memory.oom_control (v1)."""
    try:
        groups = [line.split(":", 2) for line in (proc / "cgroup").read_text().splitlines()]
        mounts = [_mount(line) for line in (proc / "mountinfo").read_text().splitlines()]
    except (OSError, ValueError):
        return None
    own = {controllers: path for _, controllers, path in (group for group in groups if len(group) == 3)}
    v1 = next((path for controllers, path in own.items() if "memory" in controllers.split(",")), None)
    for wanted, path, name in (("cgroup", v1, "memory.oom_control"), ("cgroup2", own.get(""), "memory.events")):
        if path is None:
            continue
        for kind, root, point, options in mounts:
            if kind == wanted and (wanted == "cgroup2" or "memory" in options.split(",")):
                file = _inside(root, point, path) / name
                if read_counter(file) is not None:
                    return file
    return None


def read_counter(file: Path | None) -> int | None:
    """The number in the `oom_kill` line, None where there is none."""
    try:
        words = file.read_text().split() if file else []
        return int(words[words.index("oom_kill") + 1])
    except (OSError, ValueError, IndexError):
        return None


def _mount(line: str) -> tuple[str, str, str, str]:
    """File system type, root, mount point and super options of a line of mountinfo."""
    before, _, after = line.partition(" - ")
    fields, tail = before.split(" "), after.split(" ")
    return tail[0], _plain(fields[3]), _plain(fields[4]), tail[2] if len(tail) > 2 else ""


def _inside(root: str, point: str, path: str) -> Path:
    """Where the cgroup `path` lies when the hierarchy's part `root` is mounted at `point`.

    In a container without its own cgroup namespace, path and root are the host's; with one, both are `/`.
    """
    base = root.rstrip("/")
    if path == base or path.startswith(base + "/"):
        return Path(point) / path[len(base) :].lstrip("/")
    return Path(point)


def _plain(text: str) -> str:
    return text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
