"""`python -m tests.rig build|up|down|env|status|which`: the rig by hand."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from .binaries import ALL, ProgramsMissing, cache_folder, find, find_programs
from .processes import RigError

STARTED = time.monotonic()


def say(line: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] rig: {line}", flush=True)  # noqa: T201


def build() -> None:
    from .builder import ensure_programs

    if os.environ.get("TEST_KUBECONFIG"):
        find_programs(("kubectl",))
        return say("TEST_KUBECONFIG names a cluster: nothing to build")
    ensure_programs(say)
    return say(f"ready: {', '.join(sorted({str(path.parent) for name in ALL if (path := find(name))}))}")


def up(folder: Path, nodes: int) -> None:
    from .control_plane import ControlPlane

    if running(folder):
        return say('is up already: eval "$(python -m tests.rig env)"')
    shutil.rmtree(folder, ignore_errors=True)
    plane = ControlPlane(folder, detached=True, kwok_nodes=nodes)
    plane.start()
    plane.apply_definition()
    (folder / "pids.json").write_text(json.dumps(plane.pids()))
    return say(f'ready in {time.monotonic() - STARTED:.1f} s: eval "$(python -m tests.rig env)"')


def down(folder: Path) -> None:
    for pid in running(folder).values():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)
    say("is down")


def env(folder: Path) -> None:
    kubectl = find_programs(("kubectl",))["kubectl"]
    print(f'export KUBECONFIG="{folder / "kubeconfig"}" PATH="{kubectl.parent}:$PATH"')  # noqa: T201


def status(folder: Path) -> None:
    for name in ALL:
        say(f"{name:24} {find(name) or 'missing: make rig'}")
    for name, pid in running(folder).items():
        say(f"{name:24} pid {pid}")
    say(f"kubeconfig {folder / 'kubeconfig'}" if running(folder) else "is down")


def which(name: str) -> None:
    """Print where a program is; any helm or kubectl of the PATH will do."""
    path = shutil.which(name) or find(name)
    if path is None:
        sys.exit(1)
    print(path)  # noqa: T201


def running(folder: Path) -> dict[str, int]:
    """Those programs of `up` that still run."""
    try:
        pids = json.loads((folder / "pids.json").read_text())
    except OSError:
        return {}
    return {name: pid for name, pid in pids.items() if is_running(name, pid)}


def is_running(name: str, pid: int) -> bool:
    """Whether the process is still this program: numbers are given again."""
    with contextlib.suppress(OSError):
        return Path(Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0]).name == name
    return False


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.rig", description="A Kubernetes control plane on 127.0.0.1.")
    parser.add_argument("--folder", type=Path, default=cache_folder() / "up", help="its state (default: %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("build", help="build the programs that are missing")
    starting = commands.add_parser("up", help="start it, with the definition of TrainingJob")
    starting.add_argument("--nodes", type=int, default=0, metavar="N", help="simulated nodes (default 0)")
    commands.add_parser("down", help="stop it, and delete its data")
    commands.add_parser("env", help='for the shell: eval "$(python -m tests.rig env)"')
    commands.add_parser("status", help="where the programs are, what runs")
    commands.add_parser("which", help="print the path of a program").add_argument("name", choices=ALL)
    given = parser.parse_args()
    folder = given.folder.resolve()
    try:
        match given.command:
            case "build":
                build()
            case "up":
                up(folder, given.nodes)
            case "down":
                down(folder)
            case "env":
                env(folder)
            case "status":
                status(folder)
            case "which":
                which(given.name)
    except (ProgramsMissing, RigError) as error:
        sys.exit(f"rig: {error}")


if __name__ == "__main__":
    main()
