"""Where local runs and the local store live on this machine: the user's folder, never the project's.

May import the standard library only.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path


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
    stem = f"{name}-{started_at.astimezone().strftime('%Y%m%d-%H%M%S')}"
    for suffix in ("", *(f"-{n}" for n in range(2, 1000))):
        folder = runs / f"{stem}{suffix}"
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            continue
        return folder
    raise FileExistsError(f"{runs / stem}: taken a thousand times; give --run-dir DIR")


def short(path: Path) -> str:
    """The path with the home folder as `~`, for messages."""
    try:
        return f"~/{path.relative_to(Path.home())}"
    except (ValueError, RuntimeError):
        return str(path)


def program() -> list[str]:
    """How this very `dlcloud` is called in a shell here: by its name, or by its path when PATH leads elsewhere."""
    beside = Path(sys.executable).parent / "dlcloud"
    found = shutil.which("dlcloud")
    if found is not None and Path(found).parent == beside.parent:
        return ["dlcloud"]
    if not beside.exists():
        return ["python3", "-m", "dlcloud"]
    return [str(beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside)]
