"""A user's folder with jobs in it, and `dlcloud` as a real process on them."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from dlcloud.jobs.local_runs import LocalRuns
from dlcloud.jobs.source import JobRecord

TRAIN = """
import os, sys, time
import torch.distributed as dist
dist.init_process_group("gloo")
rank = dist.get_rank()
print("hello of", rank, "of", dist.get_world_size(), flush=True)
{body}
dist.destroy_process_group()
"""
MANIFEST = """
apiVersion: dlcloud.dev/v1
kind: TrainingJob
metadata: {{name: {name}}}
spec:
  script: {{command: [python, {script}]}}
  workers: {{count: {workers}, memory: 1Gi}}
  restart: {{maxFailures: 0}}
  limits: {{drain: 5s}}
"""
CNN = """
apiVersion: dlcloud.dev/v1
kind: TrainingJob
metadata: {{name: digits}}
spec:
  workload: cnn
  parameters: {{epochs: {epochs}, architecture: conv8}}
  data: {{uri: builtin://digits}}
  workers: {{count: 2, memory: 1Gi}}
  checkpoint: {{uri: "{uri}", everySeconds: 3600}}
"""
WAIT_FOREVER = "while True: time.sleep(0.05)"


@dataclass
class Place:
    """A user's folder; every process of its runs carries the folder's path in its environment or command."""

    folder: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def job(self, body: str, name: str = "try") -> Path:
        """A job of two workers with torch.distributed."""
        return self._write(name, TRAIN.format(body=body), 2)

    def light_job(self, body: str, name: str = "light") -> Path:
        """A job of one worker, a script that begins at once."""
        return self._write(name, f"import os, sys, time\nprint('up', flush=True)\n{body}\n", 1)

    def cnn(self, epochs: int, uri: str) -> Path:
        """A job with a built-in workload and checkpoints."""
        manifest = self.folder / "digits.yaml"
        manifest.write_text(CNN.format(epochs=epochs, uri=uri))
        return manifest

    def _write(self, name: str, text: str, workers: int) -> Path:
        script = self.folder / f"{name}.py"
        script.write_text(text)
        manifest = self.folder / f"{name}.yaml"
        manifest.write_text(MANIFEST.format(name=name, script=script, workers=workers))
        return manifest

    def start(self, *arguments: object, **options: object) -> subprocess.Popen[bytes]:
        keep = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        env = {**keep, "DLCLOUD_HOME": str(self.folder / "home"), "OMP_NUM_THREADS": "1", "TERM": "xterm-256color"}
        command = [sys.executable, "-m", "dlcloud", *map(str, arguments)]
        given: dict[str, object] = {
            "stdout": subprocess.PIPE,
            "stderr": subprocess.STDOUT,
            "stdin": subprocess.DEVNULL,
            **options,
        }
        process = subprocess.Popen(command, env=env, cwd=self.folder, **given)  # type: ignore[call-overload]
        self.started.append(process)
        return process

    def run(self, *arguments: object, limit_s: float = 90, **options: object) -> tuple[int, str]:
        process = self.start(*arguments, **options)
        said, _ = process.communicate(timeout=limit_s)
        return process.returncode, said.decode()

    def jobs(self) -> list[JobRecord]:
        """The runs of this place, newest first."""
        return LocalRuns({"DLCLOUD_HOME": str(self.folder / "home")}).records()

    def phase(self) -> str:
        """The phase of the newest run."""
        return self.jobs()[0].phase

    def run_dir(self) -> Path:
        """The one run's folder."""
        (found,) = self.folder.glob("home/runs/*")
        return found

    def processes(self) -> list[int]:
        """The processes of this place but ours and those that ended."""
        mark, found = str(self.folder).encode(), []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    if mark in (entry / "environ").read_bytes() or mark in (entry / "cmdline").read_bytes():
                        found.append(int(entry.name))
        return found

    def close(self) -> None:
        """End what was started, runs in the background too."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.wait()
        for info in self.folder.glob("home/runs/*/run.json"):
            for stint in json.loads(info.read_text())["stints"]:
                if stint["pid"] in self.processes():
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(stint["pid"], 9)


def wait_for(condition: Callable[[], object], limit_s: float = 30) -> None:
    give_up = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < give_up, f"not within {limit_s} s"
        time.sleep(0.02)


def read_until(process: subprocess.Popen[bytes], words: str) -> str:
    """The output up to the line with these words; fails when the process ends before."""
    assert process.stdout is not None
    said = ""
    for raw in iter(process.stdout.readline, b""):
        said += raw.decode()
        if words in said:
            return said
    raise AssertionError(f"{words!r} was never said:\n{said}")
