"""`dlcloud` as a process of a user with a folder of his own, and what the trainer leaves of a job on a store."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from dlcloud_trainer.checkpoint import Checkpointer, CheckpointSettings


@dataclass
class Cli:
    """Runs commands; `keys` are the user's AWS variables."""

    folder: Path
    keys: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(self, *arguments: object, env_term: str = "dumb", **options: Any) -> subprocess.Popen[str]:
        keep = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        env = keep | self.keys | {"DLCLOUD_HOME": str(self.folder / "home"), "OMP_NUM_THREADS": "1", "TERM": env_term}
        command = [sys.executable, "-m", "dlcloud", *map(str, arguments)]
        given = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **options}
        process = subprocess.Popen(command, env=env, cwd=self.folder, text=True, **given)
        self.started.append(process)
        return process

    def __call__(self, *arguments: object, limit_s: float = 60, **options: Any) -> tuple[int, str]:
        process = self.start(*arguments, **options)
        said, _ = process.communicate(timeout=limit_s)
        assert "Traceback" not in said
        assert not any(value in said for name, value in self.keys.items() if "SECRET" in name)
        return process.returncode, said


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    made = Cli(tmp_path)
    yield made
    for process in made.started:
        if process.poll() is None:
            process.kill()
        process.wait()


@dataclass
class Store:
    """A job's prefix, and a rank 0 that saves to it."""

    uri: str
    endpoint: str = ""
    folder: Path | None = None
    ranks: list[Checkpointer] = field(default_factory=list)

    def rank(self, round: int = 1, **settings: Any) -> Checkpointer:
        values: dict[str, Any] = {"nonce": f"nonce-{round}", "keep_last": 10, "keep_best": 0, **settings}
        made = Checkpointer(
            CheckpointSettings(uri=self.uri, endpoint=self.endpoint, round=round, **values),
            on_commit=lambda commit: None,
            on_warning=lambda reason, text: None,
        )
        made.take_over()
        self.ranks.append(made)
        return made


def save(rank: Checkpointer, step: int, *, metric: float | None = None, big: int = 0) -> None:
    """Save a small state that tells its step; `big` adds so many bytes."""
    tensors = {
        "model.weight": torch.full((4, 3), float(step)),
        "model.half": torch.full((5,), 2.0, dtype=torch.bfloat16),
        "model.flag": torch.tensor(True),
        "optimizer.state.0.exp_avg": torch.arange(7, dtype=torch.float64),
        "optimizer.state.0.step": torch.tensor(step),
        **({"optimizer.big": torch.arange(big, dtype=torch.int64).to(torch.uint8)} if big else {}),
    }
    state = {"model": {name.removeprefix("model."): {"$tensor": name} for name in tensors if name[0] == "m"}}
    assert rank.save(tensors, state, step=step, samples=step * 32, metric=metric, wait=True)
    rank.flush(30)


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, cli: Cli, tmp_path: Path) -> Iterator[Store]:
    make: Callable[[str], Store] = request.getfixturevalue("make_store")
    yield make(request.param)


@pytest.fixture
def make_store(request: pytest.FixtureRequest, cli: Cli, tmp_path: Path) -> Iterator[Callable[[str], Store]]:
    made: list[Store] = []
    monkeypatch = pytest.MonkeyPatch()

    def make(kind: str) -> Store:
        if kind == "file":
            made.append(Store(f"file://{tmp_path}/saved", folder=tmp_path / "saved"))
        else:
            server, bucket = request.getfixturevalue("s3_server"), request.getfixturevalue("s3_bucket")
            cli.keys = {
                "AWS_ACCESS_KEY_ID": server.access_key,
                "AWS_SECRET_ACCESS_KEY": server.secret_key,
                "AWS_ENDPOINT_URL": server.endpoint,
            }
            for name, value in cli.keys.items():
                monkeypatch.setenv(name, value)
            made.append(Store(f"s3://{bucket}/looks/{secrets.token_hex(6)}", server.endpoint))
        return made[-1]

    yield make
    for one in made:
        for rank in one.ranks:
            rank.close()
    monkeypatch.undo()
