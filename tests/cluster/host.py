"""The host's kernel settings, which nodes change or need: `prepare_settings`, `restore_settings`.

May import this package's engine. Puts them back only when no cluster of kind is left.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from .engine import LABEL, Engine, cluster_folder

# kubelet sets these for the whole machine
SETTINGS = ("vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops")
# "too many open files" with several nodes: https://kind.sigs.k8s.io/docs/user/known-issues (watches of files, per user)
NEEDED = {"fs/inotify/max_user_instances": 512, "fs/inotify/max_user_watches": 524_288}
KERNEL = Path("/proc/sys")


def file() -> Path:
    return cluster_folder() / "kernel-settings.json"


def any_node(engine: Engine) -> bool:
    """Whether any cluster of kind has a container here, ours or not."""
    return bool(engine.run("ps", "--all", "--quiet", "--filter", f"label={LABEL}").strip())


def prepare_settings(engine: Engine, say: Callable[[str], None]) -> None:
    """Before a cluster is made: remember what is set unless one is there already, and raise what is too low."""
    if not KERNEL.exists():
        return
    if not any_node(engine):
        file().write_text(json.dumps({name: (KERNEL / name).read_text().strip() for name in (*SETTINGS, *NEEDED)}))
    for name, needed in NEEDED.items():
        present = int((KERNEL / name).read_text())
        if present < needed:
            say(f"{name.replace('/', '.')}: {needed} instead of {present}, too few for several nodes")
            put(name, str(needed), say)


def put(name: str, value: str, say: Callable[[str], None]) -> None:
    """Set it where we may, else say so."""
    try:
        (KERNEL / name).write_text(value)
    except OSError as error:
        say(f"sysctl {name.replace('/', '.')}={value} failed ({error.strerror}); set it as root")


def restore_settings(engine: Engine, say: Callable[[str], None]) -> None:
    """After the last cluster."""
    if any_node(engine):
        return
    try:
        told = json.loads(file().read_text())
    except (OSError, ValueError):
        return
    for name, value in told.items():
        if (KERNEL / name).read_text().strip() != value:
            put(name, value, say)
    file().unlink(missing_ok=True)
