"""A program of one's own with dlcloud's three lines, as whole local jobs: it saves, goes on where it was, and tells."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.ranks import free_port
from dlcloud.sabotage import rank_pids
from dlcloud.session import LocalSession
from dlcloud_operator.api import Phase
from dlcloud_trainer.objects import open_objects

from .conftest import assert_same_state, newest
from .sessions import Ended, run_job, succeeded, until

pytestmark = pytest.mark.timeout(400)
SAMPLES = Path(__file__).resolve().parents[3] / "manifests" / "scripts"
STEPS = 120
PROGRAM = """
import os, time
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from dlcloud_trainer import Checkpointer, progress

dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
truth = torch.randn(16, 1)
model = torch.nn.Linear(16, 1)
optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
checkpointer = Checkpointer(model=model, optimizer=optimizer)
print(f"rank {rank} begins at step {checkpointer.step}", flush=True)
wrapped = DistributedDataParallel(model)
for step in checkpointer.steps(int(os.environ.get("STEPS", "120"))):
    torch.manual_seed(1000 * step + rank)
    x = torch.randn(32, 16)
    loss = torch.nn.functional.mse_loss(wrapped(x), x @ truth)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    progress(loss=loss.item(), epoch=step // 40 + 1, epochs=3, error=loss.item() ** 0.5)
    time.sleep(float(os.environ.get("PAUSE", "0")))
    if step + 1 == int(os.environ.get("ENOUGH", "0")):
        checkpointer.stop()
print(f"rank {rank} is done after step {checkpointer.step}", flush=True)
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    file = tmp_path / "train.py"
    file.write_text(PROGRAM)
    return file


def job(program: Path, folder: Path, workers: int = 2, **env: Any) -> dict[str, Any]:
    """The spec of a script job that saves often."""
    return {
        "script": {"command": ["python", str(program)]},
        "workers": {"count": workers, "memory": "1Gi"},
        "checkpoint": {"uri": f"file://{folder}/saved", "everySeconds": 1},
        "restart": {"maxFailures": 100},
        "podTemplate": {
            "spec": {
                "containers": [
                    {"name": "trainer", "env": [{"name": name, "value": str(value)} for name, value in env.items()]}
                ]
            }
        },
    }


def saved(ended: Ended) -> Any:
    return newest({"uri": ended.prefix})


def run(folder: Path, name: str, spec: dict[str, Any], act: Any = None) -> Ended:
    (folder / name).mkdir(exist_ok=True)
    return succeeded(run_job(folder / name, name, spec, act))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_program_is_trained_and_its_state_is_on_the_store(program: Path, tmp_path: Path, workers: int) -> None:
    ended = run(tmp_path, "plain", job(program, tmp_path, workers))
    state = saved(ended)
    assert state.step == STEPS
    assert set(state.tensors) >= {"model.weight", "model.bias"}
    progress = ended.status.progress
    assert progress is not None
    assert (progress.step, progress.total_steps, progress.epoch, progress.epochs) == (STEPS, STEPS, 3, 3)
    assert progress.metrics["error"] == pytest.approx(progress.loss**0.5, rel=1e-3)
    assert any(key.startswith("metrics/") for key in open_objects(ended.prefix).list("metrics"))


def test_killed_and_gone_on_it_has_the_same_weights_to_the_bit(program: Path, tmp_path: Path) -> None:
    whole = run(tmp_path, "whole", job(program, tmp_path / "a", STEPS=400, PAUSE=0.02))

    async def kill_when_saved(session: LocalSession) -> None:
        await until(session, lambda: session.job is not None and session.job.status.checkpoint is not None)
        assert session.job is not None
        assert session.job.status.round is not None
        (pid,) = rank_pids(session.job.status.round.members[1].uid)
        os.kill(pid, signal.SIGKILL)

    killed = run(tmp_path, "killed", job(program, tmp_path / "b", STEPS=400, PAUSE=0.02), kill_when_saved)
    assert killed.status.restarts >= 1
    begun = [int(line.rsplit(" ", 1)[1]) for line in killed.log.splitlines() if "begins at step" in line]
    assert max(begun) > 0
    assert_same_state(saved(whole), saved(killed))


def test_a_suspended_program_saves_first_and_goes_on_from_there(program: Path, tmp_path: Path) -> None:
    async def suspend_and_resume(session: LocalSession) -> None:
        await until(session, lambda: session.job is not None and session.job.status.progress is not None)
        await session.suspend()
        await until(session, lambda: session.phase is Phase.SUSPENDED)
        assert session._cluster is not None
        await session._cluster.update_spec(session.key, lambda spec: spec.model_copy(update={"suspend": False}))

    ended = run(tmp_path, "paused", job(program, tmp_path, STEPS=300, PAUSE=0.03), suspend_and_resume)
    begun = [int(line.rsplit(" ", 1)[1]) for line in ended.log.splitlines() if "begins at step" in line]
    assert begun.count(0) == 2
    assert max(begun) > 0
    assert saved(ended).step == 300
    assert ended.status.restarts == 0


def test_a_program_may_end_early_with_its_state_saved(program: Path, tmp_path: Path) -> None:
    ended = run(tmp_path, "enough", job(program, tmp_path, ENOUGH=50))
    assert saved(ended).step == 50


def test_state_of_another_program_is_refused_in_one_sentence(program: Path, tmp_path: Path) -> None:
    first = run(tmp_path, "first", job(program, tmp_path / "a"))
    other = tmp_path / "other.py"
    other.write_text(PROGRAM.replace("torch.nn.Linear(16, 1)", "torch.nn.Linear(16, 1, bias=False)"))
    spec = job(other, tmp_path / "b") | {"resumeFrom": first.prefix}
    (tmp_path / "second").mkdir()
    refused = run_job(tmp_path / "second", "second", spec)
    assert refused.status.phase is Phase.FAILED
    assert "model.bias" in (refused.status.message or "")
    assert "Traceback" not in refused.log


def start_plainly(program: Path, ranks: int, **env: str) -> list[subprocess.Popen[str]]:
    """As torchrun would."""
    places = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1"}
    port = str(free_port())
    return [
        subprocess.Popen(
            [sys.executable, str(program)],
            env={**os.environ, **places, "MASTER_PORT": port, "RANK": str(rank), "LOCAL_RANK": str(rank), **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]


def test_without_dlcloud_a_program_runs_as_it_is_and_says_that_nothing_is_saved(program: Path) -> None:
    ranks = start_plainly(program, 2)
    told = [rank.communicate(timeout=100) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], told
    assert all(f"is done after step {STEPS}" in out for out, _ in told)
    assert "nothing is saved" in told[0][1]
    assert "nothing is saved" not in told[1][1]


def test_what_is_no_part_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text("from dlcloud_trainer import Checkpointer\nCheckpointer(model=3)\n")
    (rank,) = start_plainly(file, 1)
    assert "model: int has no state_dict and load_state_dict" in rank.communicate(timeout=100)[1]


def check(name: str, least: float) -> Callable[[Ended], None]:
    def passed(ended: Ended) -> None:
        progress = ended.status.progress
        assert progress is not None
        assert progress.metrics[name] > least, progress.metrics

    return passed


@pytest.mark.parametrize(
    ("sample", "steps", "learned"),
    [
        ("detection", 100, check("iou", 0.3)),
        ("segmentation", 60, check("iou", 0.25)),
        ("policy_gradient", 30, check("length", 50)),
    ],
)
def test_the_samples_learn_on_two_workers(
    sample: str, steps: int, learned: Callable[[Ended], None], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    ended = run(tmp_path, sample.replace("_", "-"), job(SAMPLES / f"{sample}.py", tmp_path, STEPS=steps))
    assert saved(ended).step == steps
    learned(ended)
