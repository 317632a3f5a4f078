"""Where local runs and the local store live on this machine: the user's folder, never the project's.

May import the standard library only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

PLUGIN = "kubectl-dlcloud"  # the program's name as a plugin of kubectl: there a cluster is meant


def home(environ: Mapping[str, str]) -> Path:
    """`$DLCLOUD_HOME`, else `$XDG_DATA_HOME/dlcloud`, else `~/.local/share/dlcloud`."""
    if environ.get("DLCLOUD_HOME"):
        return Path(environ["DLCLOUD_HOME"]).expanduser().absolute()
    data = environ.get("XDG_DATA_HOME") or ""
    base = (
        Path(data) if data.startswith("/") else Path.home() / ".local" / "share"
    )  # the XDG rule: relative paths are ignored
    return base / "dlcloud"


def make_run_folder(runs: Path, name: str, started_at: datetime) -> Path:
    """Make and return `{runs}/{name}-{time}`, with a number behind it when that is taken. Raises OSError."""
    runs.mkdir(parents=True, exist_ok=True)
    for folder in run_names(runs, name, started_at):
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(f"{folder}: taken a thousand times; give --run-dir DIR")


def run_names(runs: Path, name: str, started_at: datetime) -> Iterator[Path]:
    """The folders a run that begins now may have, best first."""
    stem = f"{name}-{started_at.astimezone().strftime('%Y%m%d-%H%M%S')}"
    yield runs / stem
    yield from (runs / f"{stem}-{number}" for number in range(2, 1000))


def write_private(path: Path, text: str) -> None:
    """Replace a file by one only its owner can read, whole or not at all. Raises OSError."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123
            file.write(text)
        new.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            new.unlink()
        raise


def short(path: Path) -> str:
    """The path with the home folder as `~`, for messages."""
    try:
        return f"~/{path.relative_to(Path.home())}"
    except (ValueError, RuntimeError):
        return str(path)


def program() -> list[str]:
    """How this very `dlcloud` is called in a shell here: by its name, or by its path when PATH leads elsewhere."""
    if Path(sys.argv[0]).name == PLUGIN:
        return ["kubectl", "dlcloud"]
    beside = Path(sys.executable).parent / "dlcloud"
    found = shutil.which("dlcloud")
    if found is not None and Path(found).parent == beside.parent:
        return ["dlcloud"]
    if not beside.exists():
        return ["python3", "-m", "dlcloud"]
    return [str(beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside)]
