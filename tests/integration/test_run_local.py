"""`dlcloud run --local` as its user meets it: a real process, real pods, signals, pipes and terminals."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shlex
import shutil
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dlcloud.local.state import read_job

from .command import WAIT_FOREVER, Place, read_until, wait_for


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    result = Place(tmp_path)
    yield result
    result.close()


def test_a_script_that_ends_well_gives_exit_code_0_and_its_output(place: Place) -> None:
    code, said = place.run("run", place.job("pass"), "--local")
    assert code == 0, said
    for part in ("[rank 0] hello of 0 of 2", "[rank 1] hello of 1 of 2", "Succeeded after"):
        assert part in said, said
    assert place.processes() == []


def test_without_a_cluster_a_job_runs_on_this_machine_and_says_so(place: Place) -> None:
    code, said = place.run("run", place.light_job("pass"))
    assert code == 0, said
    assert said.startswith("no cluster is named")
    assert f"run: {place.run_dir().name}\n" in said


def test_a_run_folder_of_ones_own_stays_with_job_and_output_and_is_listed(place: Place) -> None:
    code, said = place.run("run", place.job("pass"), "--local", "--workers", "1", "--run-dir", place.folder / "here")
    assert code == 0, said
    assert (place.folder / "here" / "job.json").exists()
    assert "hello of 0 of 1" in next(place.folder.glob("here/pods/try-0-*/log")).read_text()
    assert [job.run_dir for job in place.jobs()] == [place.folder / "here"]
    code, said = place.run("rm", "./here")
    assert (code, (place.folder / "here").exists(), place.jobs()) == (0, False, []), said


def test_a_failing_script_gives_exit_code_1_and_its_message(place: Place) -> None:
    code, said = place.run("run", place.job("if rank == 1: raise ValueError('the data is upside down')"), "--local")
    assert code == 1, said
    assert "Failed after" in said
    assert "ValueError: the data is upside down" in said.split("Failed after")[1]
    assert place.processes() == []


def test_every_mistake_of_a_manifest_is_told_with_its_line_and_no_traceback(place: Place) -> None:
    manifest = place.job("pass")
    manifest.write_text(manifest.read_text().replace("count: 2", "cuont: 2").replace("5s", "fast"))
    for command in (("run", manifest, "--local"), ("validate", manifest)):
        code, said = place.run(*command)
        assert code == 2
        assert re.search(r"try\.yaml:7:\d+: spec\.workers\.cuont: ", said), said
        assert re.search(r"try\.yaml:9:\d+: spec\.limits\.drain: ", said), said
        assert "Traceback" not in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--local", "--set", "workers.cuont=3"), "spec.workers.cuont"),
        (("--local", "--set", "nonsense"), "path=value"),
        (("--local", "--set", "suspend=true"), "suspend=false"),
        (("--local", "--run-dir", "."), "not empty"),
        (("--local", "--workers", "0"), "--workers"),
        (("--local", "--endpoint", "nowhere", "--set", "checkpoint.uri=s3://bucket/"), "--endpoint"),
        (("--local", "--endpoint", "http://me:secret@host:9000", "--set", "checkpoint.uri=s3://bucket/"), "password"),
    ],
)
def test_a_wrong_option_gives_exit_code_2_and_a_remedy(place: Place, arguments: tuple[str, ...], words: str) -> None:
    code, said = place.run("run", place.job("pass"), *arguments)
    assert code == 2, said
    assert words in said
    assert "Traceback" not in said


def test_a_missing_manifest_is_said_in_a_sentence(place: Place) -> None:
    code, said = place.run("run", "none.yaml", "--local")
    assert (code, "Traceback" in said) == (2, False)
    assert "none.yaml" in said


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_stops_the_run_and_leaves_no_process(place: Place, number: signal.Signals, expected: int) -> None:
    process = place.start("run", place.job(WAIT_FOREVER), "--local")
    said = read_until(process, "hello of 1")
    process.send_signal(number)
    rest, _ = process.communicate(timeout=30)
    said += rest.decode()
    assert process.returncode == expected, said
    assert "Stopped" in said
    assert "Traceback" not in said
    assert place.processes() == []


def test_a_second_ctrl_c_kills_workers_that_do_not_listen(place: Place) -> None:
    body = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True)\n" + WAIT_FOREVER
    process = place.start("run", place.job(body), "--local", "--set", "limits.drain=10m")
    read_until(process, "deaf")
    process.send_signal(signal.SIGINT)
    said = read_until(process, "Ctrl-C again")
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=30)
    assert process.returncode == 130, said + rest.decode()
    assert time.monotonic() - began < 5
    assert "were killed" in rest.decode()
    assert place.processes() == []


def test_ctrl_c_saves_and_the_command_that_is_named_goes_on_from_there(place: Place) -> None:
    manifest = place.cnn(20, "s3://checkpoints/")
    process = place.start("run", manifest, "--local")
    said = read_until(process, "checkpoint at step")
    process.send_signal(signal.SIGINT)
    said += process.communicate(timeout=60)[0].decode()
    assert process.returncode == 130, said
    saved = re.search(r"^saved: step (\d+) at (s3://.*)$", said, re.M)
    assert saved, said
    kept = read_job(place.run_dir())
    assert kept is not None and kept[0].status.checkpoint is not None
    assert kept[0].status.checkpoint.step == int(saved[1])
    assert place.processes() == []

    command = re.search(r"^go on with: (.*)$", said, re.M)
    assert command, said
    words = shlex.split(command[1])
    assert words[-2:] == ["resume", place.run_dir().name]
    code, more = place.run(*words[-2:])
    assert code == 0, more
    steps = [int(step) for step in re.findall(r"step (\d+)/", more)]
    assert steps[0] >= int(saved[1]), more
    assert steps[-1] == 400, more
    again = read_job(place.run_dir())
    assert again is not None and again[0].uid == kept[0].uid


def test_ctrl_c_during_the_start_leaves_no_process(place: Place) -> None:
    process = place.start("run", place.job(WAIT_FOREVER), "--local", "--set", "checkpoint.uri=s3://bucket/")
    wait_for(lambda: list(place.folder.glob("home/store/weed.log")))
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 130, said.decode()
    assert b"Traceback" not in said
    assert place.processes() == []


def test_no_process_outlives_a_killed_command(place: Place) -> None:
    process = place.start("run", place.job(WAIT_FOREVER), "--local", "--set", "checkpoint.uri=s3://bucket/")
    read_until(process, "hello of 1")
    assert len(place.processes()) > 4
    process.kill()
    process.wait()
    wait_for(lambda: not place.processes(), limit_s=5)


def test_a_run_whose_folder_is_deleted_ends_with_a_sentence(place: Place) -> None:
    process = place.start("run", place.job(WAIT_FOREVER), "--local", "--run-dir", place.folder / "here")
    read_until(process, "hello of 1")
    shutil.rmtree(place.folder / "here")
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 1, said.decode()
    assert b"folder was deleted" in said
    assert place.processes() == []


def test_a_reader_that_leaves_ends_the_run_quietly(place: Place) -> None:
    process = place.start("run", place.job("while True: print('line', flush=True); time.sleep(0.05)"), "--local")
    assert process.stdout is not None
    read_until(process, "line")
    process.stdout.close()
    assert process.wait(timeout=30) == 141
    assert place.processes() == []


def terminal_size(fd: int, rows: int, columns: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def read_terminal(fd: int, process: subprocess.Popen[bytes], limit_s: float = 60) -> str:
    """All that is written to the terminal until the process ends."""
    said, give_up = b"", time.monotonic() + limit_s
    while time.monotonic() < give_up:
        if select.select([fd], [], [], 0.1)[0]:
            try:
                said += os.read(fd, 65536)
            except OSError:  # the other side is closed
                break
        elif process.poll() is not None:
            break
    process.wait(timeout=5)
    return said.decode(errors="replace")


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (40, 10)])
def test_the_live_view_fits_its_terminal_and_restores_it(place: Place, columns: int, rows: int) -> None:
    ours, theirs = pty.openpty()
    terminal_size(theirs, rows, columns)
    process = place.start("run", place.job("time.sleep(1)"), "--local", stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = read_terminal(ours, process)
    os.close(ours)
    assert process.returncode == 0, said
    assert "rank 0" in said
    assert "Succeeded after" in said
    assert "Traceback" not in said
    assert said.rindex("\x1b[?25h") > said.rindex("\x1b[?25l"), "the cursor is shown again"
    frames = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.split("Succeeded after")[0]).replace("\r", "\n").split("\n")
    assert max(map(len, frames)) <= columns


def test_a_terminal_that_vanishes_ends_the_run_and_leaves_no_process(place: Place) -> None:
    ours, theirs = pty.openpty()
    process = place.start(
        "run", place.job(WAIT_FOREVER), "--local", stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    said = b""
    while b"hello of 1" not in said:
        assert select.select([ours], [], [], 30)[0], said
        said += os.read(ours, 65536)
    os.close(ours)
    assert process.wait(timeout=30) == 129
    assert place.processes() == []
