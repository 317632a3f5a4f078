"""`dlcloud top` on a real terminal, and `top`, `plot` and `checkpoints rm` on a real run while it trains and after."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dlcloud.sabotage import rank_pids

from .conftest import Cli

MANIFEST = """
apiVersion: dlcloud.dev/v1
kind: TrainingJob
metadata: {{name: digits}}
spec:
  workload: cnn
  parameters: {{epochs: 4000, architecture: conv8, logEverySteps: 1}}
  data: {{uri: builtin://digits}}
  workers: {{count: 1, memory: 1Gi}}
  checkpoint: {{uri: "file://{folder}/saved", everySeconds: 1, keepLast: 4}}
  limits: {{drain: 20s}}
"""


def wait_for(condition: Any, limit_s: float = 60) -> Any:
    give_up = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < give_up
        time.sleep(0.1)
    return found


def state(cli: Cli) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(cli("top", "digits", "-o", "json")[1])
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cli, subprocess.Popen[str]]]:
    """A training that goes on until it is told to stop, with one restart behind it."""
    cli = Cli(tmp_path_factory.mktemp("top"))
    (cli.folder / "digits.yaml").write_text(MANIFEST.format(folder=cli.folder))
    process = cli.start("run", "digits.yaml", "--local", "--plain", stdout=subprocess.DEVNULL)
    wait_for(lambda: list(cli.folder.glob("home/runs/*/job.json")))
    wait_for(lambda: len(list(cli.folder.glob("saved/**/manifests/*.json"))) >= 2)
    (status,) = (json.loads(p.read_text())["status"] for p in cli.folder.glob("home/runs/*/job.json"))
    os.kill(rank_pids(status["round"]["members"][0]["uid"])[0], signal.SIGKILL)
    wait_for(lambda: list(cli.folder.glob("saved/**/metrics/000002/*.jsonl")))
    yield cli, process
    process.send_signal(signal.SIGINT)
    process.wait(30)


def test_the_table_tells_of_the_running_job(run: tuple[Cli, subprocess.Popen[str]]) -> None:
    cli = run[0]
    code, said = cli("top")
    assert code == 0
    assert re.search(r"digits-\d+-\d+ +R\w+ .* 1 ", said), said
    row = state(cli)
    assert (row["restarts"], row["totalSteps"] > row["step"] > 0, row["checkpointStep"] > 0) == (1, True, True)


def test_one_job_is_told_with_workers_loss_and_events(run: tuple[Cli, subprocess.Popen[str]]) -> None:
    code, said = run[0]("top", "digits", "--once")
    assert code == 0
    assert re.search(r"^worker 0 +rank 0 ", said, re.M), said
    assert re.search(r"^loss \S{8,} ", said, re.M), said
    assert "RankFailed" in said


class Screen:
    """A terminal of so many columns with `dlcloud top` on it."""

    def __init__(self, cli: Cli, columns: int, *arguments: str) -> None:
        self.fd, theirs = pty.openpty()
        self.resize(columns)
        self.before = termios.tcgetattr(theirs)
        self.process = cli.start(
            "top", *arguments, stdin=theirs, stdout=theirs, stderr=theirs, env_term="xterm-256color"
        )
        self.theirs, self.said = theirs, ""

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def read_until(self, pattern: str, limit_s: float = 20) -> str:
        start, give_up = len(self.said), time.monotonic() + limit_s
        while not re.search(pattern, self.said[start:]):
            assert time.monotonic() < give_up, self.said[start:]
            if select.select([self.fd], [], [], 0.1)[0]:
                self.said += os.read(self.fd, 65536).decode(errors="replace")
        return self.said[start:]

    def end(self) -> int:
        self.process.wait(15)
        while select.select([self.fd], [], [], 0.1)[0]:
            self.said += os.read(self.fd, 65536).decode(errors="replace")
        assert termios.tcgetattr(self.theirs) == self.before, "the terminal is as it was"
        os.close(self.theirs)
        os.close(self.fd)
        assert self.said.rindex("\x1b[?25h") > self.said.rindex("\x1b[?25l"), "the cursor is shown again"
        assert self.said.rindex("\x1b[?1049l") > self.said.rindex("\x1b[?1049h"), "the screen is given back"
        assert "Traceback" not in self.said
        return self.process.returncode


@pytest.mark.parametrize(
    ("how", "code"), [("q", 0), (signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["q", "ctrl-c", "sigterm"]
)
def test_however_it_ends_the_terminal_is_as_before(run: tuple[Cli, subprocess.Popen[str]], how: Any, code: int) -> None:
    screen = Screen(run[0], 80)
    screen.read_until("digits-")
    if how == "q":
        os.write(screen.fd, b"q")
    else:
        screen.process.send_signal(how)
    assert screen.end() == code


def test_a_terminal_that_becomes_narrow_is_drawn_again_at_once(run: tuple[Cli, subprocess.Popen[str]]) -> None:
    screen = Screen(run[0], 120)
    screen.read_until("RESTARTS")
    screen.resize(60)
    screen.process.send_signal(signal.SIGWINCH)
    screen.read_until(r"NAME(?![^\r\n]*RESTARTS)[^\r\n]*LOSS[^\r\n]*[\r\n]+[^\r\n]*digits-")
    os.write(screen.fd, b"q")
    assert screen.end() == 0


def test_watching_costs_little(run: tuple[Cli, subprocess.Popen[str]]) -> None:
    screen = Screen(run[0], 80, "digits")
    screen.read_until("worker 0")
    stat = Path(f"/proc/{screen.process.pid}/stat")

    def cpu() -> float:
        fields = stat.read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    began, used = time.monotonic(), cpu()
    while time.monotonic() < began + 3:
        screen.read_until(r"worker 0")
    share = (cpu() - used) / (time.monotonic() - began)
    os.write(screen.fd, b"q")
    assert screen.end() == 0
    assert share < 0.1, f"{share:.0%} of a core"


def test_a_running_job_is_plotted_with_its_restart_and_checkpoints(run: tuple[Cli, subprocess.Popen[str]]) -> None:
    cli = run[0]
    code, said = cli("plot", "digits")
    assert code == 0, said
    assert "train loss: " in said
    assert any(0x2800 < ord(c) < 0x2900 for c in said)
    assert said.splitlines()[-1].strip() == "x restart, c checkpoint kept"


def test_pictures_and_tables_are_written_beside_a_run_that_has_nothing(run: tuple[Cli, subprocess.Popen[str]]) -> None:
    cli = run[0]
    assert cli("plot", "digits", "--out", "a.png", "--width", "800", "--height", "600") == (0, f"{cli.folder}/a.png\n")
    assert (cli.folder / "a.png").read_bytes()[:4] == b"\x89PNG"
    code, said = cli("plot", "digits", f"file://{cli.folder}/none", "--metric", "learningRate", "--out", "a.csv")
    assert (code, said.splitlines()[0]) == (0, "none: has no metrics")
    assert (cli.folder / "a.csv").read_text().splitlines()[1].split(",")[1] == "train.learningRate"


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["digits", "--metric", "perplexity"], 2, "there is train.learningRate, train.loss"),
        (["digits", "--out", "a.jpg"], 2, "give a name that ends in .png, .svg, .csv"),
        (["digits", "--out", "/dev/null/a.png"], 1, "give another --out"),
        (["dgits"], 2, "did you mean digits"),
    ],
)
def test_a_wrong_request_gets_a_sentence(
    run: tuple[Cli, subprocess.Popen[str]], words: list[str], code: int, expected: str
) -> None:
    found, said = run[0]("plot", *words)
    assert (found, expected in said) == (code, True), said


def test_of_a_running_job_a_checkpoint_is_removed_and_the_job_frees_it(run: tuple[Cli, subprocess.Popen[str]]) -> None:
    cli = run[0]
    steps = [row["step"] for row in json.loads(cli("checkpoints", "ls", "digits", "-o", "json")[1])]
    code, said = cli("checkpoints", "rm", "digits", str(steps[1]))
    assert code in (0, 2), said
    if code == 0:  # else its own retention was faster
        assert "is freed after its next commit, by the job itself" in said
    wait_for(lambda: not list(cli.folder.glob(f"saved/**/manifests/{steps[1]:012d}-*.json")))
    assert cli("checkpoints", "verify", "digits")[0] == 0
