"""One run's folder: who holds it, and what must be known to go on with it. Secrets are never written here.

May import the standard library and `home`, and nothing slow: the shell's completion reads these folders. That a run is
alive is a lock its process holds, so it stays the truth after kill -9, a reboot and a process id that is used again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from ..home import home, run_names, write_private
from .errors import JobsError

RUN_FILE = "run.json"
LOCK_FILE = "lock"
REQUEST_FILE = "stop.json"
OUTPUT_FILE = "dlcloud.out"
SUSPEND, KILL = "suspend", "kill"
_LOOKING_S = 2.0  # a reader takes the lock for an instant to see whether it is free
_POLL_S = 0.02
KEPT_STINTS = 100


class RunHeld(JobsError):
    """The run's own process is there."""


@dataclass(frozen=True)
class Stint:
    """One process that ran the job. `mark` is random: a request names the stint it is for."""

    mark: str
    pid: int
    process_start: str  # as the system tells it: with the pid it names one process only
    host: str
    started_at: datetime
    ended_at: datetime | None = None
    exit_code: int | None = None


@dataclass(frozen=True)
class RunInfo:
    """What `resume` needs beside the job. `endpoint`: the user's own S3 server, empty for the embedded one."""

    manifest: str
    settings: tuple[str, ...]
    working_dir: Path
    endpoint: str
    store: Path
    version: str
    stints: tuple[Stint, ...] = ()


def runs_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where runs are kept, and links to those that are elsewhere."""
    return home(environ) / "runs"


def run_ids(environ: Mapping[str, str] = os.environ) -> list[str]:
    """The names of all runs, oldest first by their name's time; quick, nothing is read."""
    try:
        return sorted(entry.name for entry in runs_folder(environ).iterdir() if not entry.name.startswith("."))
    except OSError:
        return []


def link_run(folder: Path, name: str, started_at: datetime, environ: Mapping[str, str] = os.environ) -> str:
    """Have a folder elsewhere listed, too; the run's id: the link's name, or the folder's path when there is none."""
    runs = runs_folder(environ)
    with contextlib.suppress(OSError):
        runs.mkdir(parents=True, exist_ok=True)
        for link in run_names(runs, name, started_at):
            with contextlib.suppress(FileExistsError):
                link.symlink_to(folder)
                return link.name
    return str(folder)


# --- the lock ---


def hold(folder: Path) -> int:
    """Take the run for this process: a descriptor to keep open. Raises RunHeld, OSError."""
    lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    give_up = time.monotonic() + _LOOKING_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            if time.monotonic() > give_up:
                os.close(lock)
                raise RunHeld(f"{folder.name}: is running already, in another process") from None
        except BaseException:
            os.close(lock)
            raise
        time.sleep(_POLL_S)


def is_held(folder: Path) -> bool:
    """Whether the run's process is there."""
    try:
        lock = os.open(folder / LOCK_FILE, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two readers do not take each other for the owner
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(lock)
    return False


# --- run.json ---


def write_info(folder: Path, info: RunInfo) -> None:
    """Replace run.json. Raises OSError."""
    document = {
        "manifest": info.manifest,
        "settings": list(info.settings),
        "workingDirectory": str(info.working_dir),
        "endpoint": info.endpoint,
        "store": str(info.store),
        "version": info.version,
        "stints": [
            {
                "mark": stint.mark,
                "pid": stint.pid,
                "processStart": stint.process_start,
                "host": stint.host,
                "startedAt": stint.started_at.isoformat(),
                "endedAt": stint.ended_at.isoformat() if stint.ended_at else None,
                "exitCode": stint.exit_code,
            }
            for stint in info.stints[-KEPT_STINTS:]
        ],
    }
    write_private(folder / RUN_FILE, json.dumps(document, indent=1))


def read_info(folder: Path) -> RunInfo:
    """What run.json says. Raises JobsError when it is missing or damaged."""
    try:
        found = json.loads((folder / RUN_FILE).read_text())
        return RunInfo(
            manifest=str(found["manifest"]),
            settings=tuple(map(str, found["settings"])),
            working_dir=Path(found["workingDirectory"]),
            endpoint=str(found["endpoint"]),
            store=Path(found["store"]),
            version=str(found["version"]),
            stints=tuple(_stint(one) for one in found["stints"]),
        )
    except OSError as error:
        raise JobsError(f"{folder / RUN_FILE}: {error.strerror}; how the job was run is not known any more") from None
    except (ValueError, KeyError, TypeError) as error:
        raise JobsError(f"{folder / RUN_FILE}: is damaged ({type(error).__name__}: {error})") from None


def _stint(found: Mapping[str, Any]) -> Stint:
    ended = found.get("endedAt")
    return Stint(
        mark=str(found["mark"]),
        pid=int(found["pid"]),
        process_start=str(found["processStart"]),
        host=str(found["host"]),
        started_at=datetime.fromisoformat(found["startedAt"]),
        ended_at=datetime.fromisoformat(ended) if ended else None,
        exit_code=found.get("exitCode"),
    )


def begin_stint(folder: Path, info: RunInfo, stint: Stint) -> None:
    """Write down that this process runs the job now; what was asked of an earlier one is void. Raises OSError."""
    (folder / REQUEST_FILE).unlink(missing_ok=True)
    write_info(folder, replace(info, stints=(*info.stints, stint)))


def end_stint(folder: Path, mark: str, ended_at: datetime, exit_code: int) -> None:
    """Write down how the stint ended; a disk that is full now loses the note, not the run."""
    with contextlib.suppress(OSError, JobsError):
        info = read_info(folder)
        stints = tuple(
            replace(stint, ended_at=ended_at, exit_code=exit_code) if stint.mark == mark else stint
            for stint in info.stints
        )
        write_info(folder, replace(info, stints=stints))


def new_mark() -> str:
    """A name for a stint."""
    return secrets.token_hex(8)


# --- asking the run's process to stop ---


def request_stop(folder: Path, mark: str, how: str) -> None:
    """Ask the process of this stint to save and stop (SUSPEND), or to kill its pods (KILL). Raises OSError."""
    write_private(folder / REQUEST_FILE, json.dumps({"for": mark, "how": how}))


def requested_stop(folder: Path, mark: str) -> str:
    """What was asked of this stint; empty for nothing."""
    try:
        found = json.loads((folder / REQUEST_FILE).read_text())
        return str(found["how"]) if found["for"] == mark else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""
