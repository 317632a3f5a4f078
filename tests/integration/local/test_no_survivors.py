"""No process outlives its pod, and no pod outlives the program that started it, however that ends."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from dlcloud.local.processes import Supervised

from .bench import alive, on_a_loop, processes_with, until

# A program with a child, and a grandchild that leaves the session, ignores SIGTERM and loses its parent.
FAMILY = """
import os, signal, subprocess, sys, time
stubborn = "import os, signal, time; os.setsid(); signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)"
leaving = f"import subprocess, sys; subprocess.Popen([sys.executable, '-S', '-c', {stubborn!r}])"
subprocess.Popen([sys.executable, "-S", "-c", leaving]).wait()
subprocess.Popen(["sleep", "1000"])
print("ready", os.getpid(), flush=True)
"""
WAITS = FAMILY + "time.sleep(1000)"
OWNER = """
import asyncio, sys
from pathlib import Path
from dlcloud.local.processes import Supervised

async def main():
    folder = Path(sys.argv[1])
    command = [sys.executable, "-S", "-c", sys.argv[2]]
    env = {"PATH": "/usr/bin:/bin", "FAMILY": str(folder)}
    process = Supervised.start(command, env=env, cwd=folder, log=folder / "log")
    await process.wait()

asyncio.run(main())
"""


def start(folder: Path, code: str) -> Supervised:
    env = {"PATH": "/usr/bin:/bin", "FAMILY": str(folder)}
    return Supervised.start([sys.executable, "-S", "-c", code], env=env, cwd=folder, log=folder / "log")


def ready(folder: Path) -> int:
    """The program's process id once its family is complete, else 0."""
    log = folder / "log"
    return int(log.read_text().split()[1]) if log.exists() and "ready" in log.read_text() else 0


async def family(folder: Path, size: int = 4) -> list[int]:
    """Ids of shim, program, child and grandchild, once all run."""
    await until(lambda: ready(folder), "a complete family")
    await until(lambda: len(processes_with(f"FAMILY={folder}")) == size, f"{size} processes")
    return processes_with(f"FAMILY={folder}")


def owner(folder: Path, script: str = OWNER, code: str = WAITS) -> subprocess.Popen[bytes]:
    """Another program that runs the family, as the command line runs a pod, in a process group of its own."""
    return subprocess.Popen([sys.executable, "-c", script, str(folder), code], start_new_session=True)


async def all_gone(pids: list[int], limit_s: float = 3.0) -> None:
    await until(lambda: not any(map(alive, pids)), f"the end of {pids}", limit_s)


@on_a_loop
async def test_what_a_program_leaves_behind_at_its_normal_end_is_gone_when_its_end_is_seen(tmp_path: Path) -> None:
    process = start(tmp_path, FAMILY + "sys.exit(5)")
    assert await process.wait() == 5
    assert processes_with(f"FAMILY={tmp_path}") == []


@on_a_loop
async def test_the_family_of_a_killed_program_is_gone_when_its_end_is_seen(tmp_path: Path) -> None:
    process = start(tmp_path, WAITS)
    pids = await family(tmp_path)
    os.kill(ready(tmp_path), signal.SIGKILL)
    assert await process.wait() == 137
    assert not any(map(alive, pids))


@on_a_loop
async def test_kill_ends_the_whole_family(tmp_path: Path) -> None:
    process = start(tmp_path, WAITS)
    pids = await family(tmp_path)
    process.kill()
    assert await process.wait() == 137
    assert not any(map(alive, pids))


@on_a_loop
async def test_sigterm_goes_to_the_program_and_its_answer_counts(tmp_path: Path) -> None:
    process = start(tmp_path, "import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(9))\n" + WAITS)
    pids = await family(tmp_path)
    process.terminate()
    assert await process.wait() == 9
    assert not any(map(alive, pids))


@on_a_loop
async def test_a_program_asked_to_end_before_it_began_never_begins(tmp_path: Path) -> None:
    process = start(tmp_path, "print('ready')\nimport time; time.sleep(1000)")
    process.terminate()
    assert await process.wait() == 143


@on_a_loop
async def test_nothing_survives_when_the_owner_is_killed(tmp_path: Path) -> None:
    parent = owner(tmp_path)
    pids = await family(tmp_path)
    parent.kill()
    parent.wait()
    await all_gone(pids)


@on_a_loop
async def test_nothing_survives_when_owner_and_program_are_killed_together(tmp_path: Path) -> None:
    parent = owner(tmp_path)
    pids = await family(tmp_path)
    os.kill(ready(tmp_path), signal.SIGKILL)
    parent.kill()
    parent.wait()
    await all_gone(pids)


@on_a_loop
async def test_nothing_survives_when_the_shim_itself_is_killed(tmp_path: Path) -> None:
    process = start(tmp_path, WAITS)
    pids = await family(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    assert await process.wait() == 137
    await all_gone(pids)


@on_a_loop
async def test_ctrl_c_reaches_the_owner_and_not_the_program(tmp_path: Path) -> None:
    heard = tmp_path / "heard"
    notes_it = (
        f"import signal, pathlib\nsignal.signal(signal.SIGINT, lambda *_: pathlib.Path({str(heard)!r}).touch())\n"
    )
    # The owner ignores it, as one that drains first; it leads the foreground group of its terminal.
    script = OWNER.replace(
        "import asyncio, sys", "import asyncio, signal, sys; signal.signal(signal.SIGINT, signal.SIG_IGN)"
    )
    parent = owner(tmp_path, script, notes_it + WAITS)
    try:
        pids = await family(tmp_path)
        os.killpg(parent.pid, signal.SIGINT)
        with pytest.raises(AssertionError, match="without: a signal"):
            await until(heard.exists, "a signal", 0.5)
        assert all(map(alive, pids))
    finally:
        parent.kill()
        parent.wait()
    await all_gone(pids)


@on_a_loop
async def test_the_end_of_the_thread_that_started_it_does_not_end_a_program(tmp_path: Path) -> None:
    started: list[subprocess.Popen[bytes]] = []

    def starts() -> None:
        from dlcloud.local.processes import SHIM

        command = [sys.executable, "-I", "-S", "-E", str(SHIM), str(os.getpid()), sys.executable, "-S", "-c", WAITS]
        with (tmp_path / "log").open("wb") as log:
            started.append(
                subprocess.Popen(command, stdout=log, env={"PATH": "/usr/bin:/bin", "FAMILY": str(tmp_path)})
            )
        give_up = time.monotonic() + 10
        while not ready(tmp_path) and time.monotonic() < give_up:
            time.sleep(0.01)  # ends with the condition: the shim must have asked for the signal by then

    thread = threading.Thread(target=starts)
    thread.start()
    await asyncio.to_thread(thread.join)
    pids = await family(tmp_path)
    try:
        with pytest.raises(AssertionError, match="without: a death"):
            await until(lambda: not all(map(alive, pids)), "a death", 0.5)
    finally:
        started[0].send_signal(signal.SIGUSR1)
        started[0].wait()
    assert not any(map(alive, pids))


@on_a_loop
async def test_a_program_starts_with_the_usual_signals(tmp_path: Path) -> None:
    process = start(tmp_path, "print('ready 0'); print(open('/proc/self/status').read())")
    await process.wait()
    status = dict(line.split(":\t", 1) for line in (tmp_path / "log").read_text().splitlines() if ":\t" in line)
    # Python itself ignores SIGPIPE and SIGXFSZ; nothing else is ignored, nothing blocked. Signals 32 and 33 belong to
    # the C library: it lets no program change what it inherited for them.
    ours = 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)
    standard = (1 << 31) - 1
    assert int(status["SigIgn"], 16) & standard & ~ours == 0 and int(status["SigBlk"], 16) == 0
