"""Which commands a forked interpreter can run, and the environment a rank gets."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dlcloud_trainer.zygote.command import Kind, PythonRun, read_command

EXECUTABLE = sys.executable
FILE, MODULE, CODE = Kind.FILE, Kind.MODULE, Kind.CODE


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("python train.py --lr 1 -m", PythonRun(FILE, "train.py", ("--lr", "1", "-m"))),
        ("python3 -u train.py", PythonRun(FILE, "train.py", (), unbuffered=True)),
        ("python -m pkg.train -v", PythonRun(MODULE, "pkg.train", ("-v",))),
        ("python -mtrain a", PythonRun(MODULE, "train", ("a",))),
        ("python -uBm train", PythonRun(MODULE, "train", (), unbuffered=True, no_bytecode=True)),
        ("python -c pass x", PythonRun(CODE, "pass", ("x",))),
        (f"{EXECUTABLE} train.py", PythonRun(FILE, "train.py", ())),
    ],
)
def test_a_python_program_runs_in_the_fork(words: str, expected: PythonRun) -> None:
    assert read_command(words.split(), EXECUTABLE) == expected


@pytest.mark.parametrize(
    "words",
    ["", "bash -c x", "torchrun train.py", "python", "python -", "python -m", "python -c", "python -O train.py",
     "python -W error train.py", "python --version", "python -i train.py", "/other/python train.py",
     "python2 train.py", "./python train.py", "python -I train.py"],
)  # fmt: skip
def test_everything_else_starts_cold(words: str) -> None:
    assert read_command(words.split(), EXECUTABLE) is None


def test_a_folder_or_archive_starts_cold(tmp_path: Path) -> None:
    assert read_command(["python", str(tmp_path)], EXECUTABLE) is None


def test_a_link_to_the_interpreter_in_another_environment_starts_cold(tmp_path: Path) -> None:
    link = tmp_path / "python3"
    link.symlink_to(EXECUTABLE)
    assert read_command([str(link), "train.py"], EXECUTABLE) is None
