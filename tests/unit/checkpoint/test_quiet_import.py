"""The zygote imports the engine and forks: that must leave nothing behind that a child could hang on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import os, sys
import numpy, torch
tasks = lambda: len(os.listdir("/proc/self/task"))
before = tasks()
import dlcloud_trainer.checkpoint, dlcloud_trainer.objects
from dlcloud_trainer.checkpoint import Checkpointer, CheckpointSettings, collect
def make():
    return Checkpointer(CheckpointSettings(uri=sys.argv[1]), on_commit=print, on_warning=print)
prepared = make()
assert tasks() == before, (tasks(), before)
child = os.fork()
if child == 0:
    checkpointer = make()
    assert checkpointer.take_over() is None
    checkpointer.save(*collect({"m": torch.nn.Linear(4, 2)}), step=1, samples=1)
    checkpointer.flush(10)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


def test_a_forked_child_saves_after_the_parent_imported_the_engine(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, f"file://{tmp_path}"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "head.json").exists()
