"""`make demo` end to end: a real training, a real kill, a real S3 server."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def start(out: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "dlcloud.demo", "--out", str(out), *options]
    env = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def processes_of(folder: Path) -> list[int]:
    """The processes that carry this folder in their environment or command, but ours."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if str(folder).encode() in (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    out = tmp_path_factory.mktemp("demo")
    process = start(out)
    try:
        text, _ = process.communicate(timeout=240)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, text
    return text, out


@pytest.mark.timeout(300)
def test_the_demo_learns_the_digits_though_a_rank_was_killed(said: tuple[str, Path]) -> None:
    text, _ = said
    accuracy = re.search(r"^test accuracy +([0-9.]+)%$", text, re.M)
    assert accuracy, text
    assert float(accuracy[1]) > 90
    assert "rank 1 (process" in text
    assert re.search(r"^time .* 1 restart$", text, re.M), text


def test_the_demo_tells_what_the_kill_cost(said: tuple[str, Path]) -> None:
    cost = re.search(r"^cost of the kill +([0-9.]+) s until the next step, \d+ steps? done again", said[0], re.M)
    assert cost, said[0]
    assert 0 < float(cost[1]) < 30


def test_the_demo_lists_the_checkpoints_on_s3(said: tuple[str, Path]) -> None:
    listed = re.findall(r"^  step (\d+) +[0-9.]+ [KM]iB  \d\d:\d\d:\d\d  round (\d+)", said[0], re.M)
    assert len(listed) > 1, said[0]
    assert [int(step) for step, _ in listed] == sorted((int(step) for step, _ in listed), reverse=True)


def test_the_demo_leaves_a_picture_and_nothing_else_running(said: tuple[str, Path]) -> None:
    text, out = said
    assert (out / "learning-curve.png").read_bytes()[:4] == b"\x89PNG"
    assert any(0x2800 < ord(c) < 0x2900 for c in text), "the curve in the terminal"
    assert not list(out.glob("*/store")), "the data of the S3 server is removed"
    assert processes_of(out) == []


@pytest.mark.timeout(90)
@pytest.mark.parametrize("moment", ["weed.log", "pods"])
def test_ctrl_c_at_any_moment_leaves_no_process(tmp_path: Path, moment: str) -> None:
    process = start(tmp_path)
    give_up = time.monotonic() + 30
    while not list(tmp_path.rglob(moment)):
        assert time.monotonic() < give_up
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=45)
    assert process.returncode == 130, text
    assert "Traceback" not in text
    assert "nothing of it runs any more" in text
    assert processes_of(tmp_path) == []
