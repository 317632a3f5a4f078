"""`dlcloud logs` on a job whose rank dies once: followed while it runs, read from S3 when its pods' files are gone."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import Cli

SCRIPT = """
import os, time
import torch.distributed as dist
dist.init_process_group("gloo")
rank, attempt = dist.get_rank(), os.environ["TORCHELASTIC_RESTART_COUNT"]
for i in range(3):
    print("line", i, "of", rank, "attempt", attempt, flush=True)
dist.barrier()
if attempt == "0" and rank == 1:
    os._exit(3)
time.sleep(1)
"""
MANIFEST = """
apiVersion: dlcloud.dev/v1
kind: TrainingJob
metadata: {{name: try}}
spec:
  script: {{command: [python, {script}]}}
  workers: {{count: 2, memory: 1Gi}}
  checkpoint: {{uri: "s3://{bucket}/"}}
"""
EXPECTED = {f"[rank {r}] line {i} of {r} attempt {a}" for r in (0, 1) for i in range(3) for a in (0, 1)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, s3_server: Any, s3_bucket: str) -> Iterator[tuple[Cli, str]]:
    """A run that is over, and what was followed of it."""
    folder = tmp_path_factory.mktemp("logs")
    keys = {"AWS_ACCESS_KEY_ID": s3_server.access_key, "AWS_SECRET_ACCESS_KEY": s3_server.secret_key}
    cli = Cli(folder, {**keys, "AWS_ENDPOINT_URL": s3_server.endpoint})
    (folder / "try.py").write_text(SCRIPT)
    (folder / "try.yaml").write_text(MANIFEST.format(script=folder / "try.py", bucket=s3_bucket))
    running = cli.start("run", "try.yaml", "--local", "--plain")
    give_up = time.monotonic() + 30
    while not list(folder.glob("home/runs/*/job.json")):
        assert time.monotonic() < give_up
        time.sleep(0.05)
    code, followed = cli("logs", "-f", "try", limit_s=90)
    said, _ = running.communicate(timeout=30)
    assert (code, running.returncode) == (0, 0), followed + said
    yield cli, followed


@pytest.mark.timeout(150)
def test_a_job_is_followed_across_its_restart_to_its_end(run: tuple[Cli, str]) -> None:
    lines = run[1].splitlines()
    assert set(lines) >= EXPECTED
    assert len([line for line in lines if line in EXPECTED]) == len(EXPECTED), "each line once"


def test_one_ranks_lines_come_without_the_rank(run: tuple[Cli, str]) -> None:
    code, said = run[0]("logs", "try", "--rank", "1")
    assert (code, said.splitlines()) == (0, [f"line {i} of 1 attempt {a}" for a in (0, 1) for i in range(3)])


def test_a_tail_is_of_every_pod(run: tuple[Cli, str]) -> None:
    code, said = run[0]("logs", "try", "--rank", "0", "--rank", "1", "--tail", "1")
    assert (code, said.splitlines()) == (0, [f"[rank {r}] line 2 of {r} attempt 1" for r in (0, 1)])


def test_machines_get_an_object_a_line(run: tuple[Cli, str]) -> None:
    code, said = run[0]("logs", "try", "--worker", "1", "-o", "json")
    found = [json.loads(line) for line in said.splitlines()]
    assert code == 0
    assert {(row["pod"], row["worker"], row["incarnation"]) for row in found} == {("try-1-1", 1, 1)}
    assert {row["rank"] for row in found} == {1, None}


@pytest.fixture
def without_files(run: tuple[Cli, str], tmp_path: Path) -> Iterator[Cli]:
    (pods,) = run[0].folder.glob("home/runs/*/pods")
    shutil.move(pods, tmp_path / "away")
    yield run[0]
    shutil.move(tmp_path / "away", pods)


@pytest.mark.parametrize("follow", [[], ["-f"]])
def test_without_the_pods_files_the_output_comes_from_s3(without_files: Cli, follow: list[str]) -> None:
    code, said = without_files("logs", "try", *follow)
    assert code == 0
    assert set(said.splitlines()) >= EXPECTED


def test_one_lost_pod_is_merged_in_from_s3(run: tuple[Cli, str], tmp_path: Path) -> None:
    (pod,) = run[0].folder.glob("home/runs/*/pods/try-1-1")
    shutil.move(pod, tmp_path / "away")
    code, said = run[0]("logs", "try")
    shutil.move(tmp_path / "away", pod)
    lines = [line for line in said.splitlines() if line in EXPECTED]
    assert (code, set(lines), len(lines)) == (0, EXPECTED, len(EXPECTED))


def test_an_unreachable_store_is_an_error_when_there_is_nothing_else(without_files: Cli) -> None:
    keys = dict(without_files.keys)
    try:
        without_files.keys["AWS_SECRET_ACCESS_KEY"] = "wrong" * 8
        code, said = without_files("logs", "try")
    finally:
        without_files.keys.update(keys)
    assert code == 3, said
    assert "wrongwrong" not in said


def test_an_unknown_job_is_told_with_what_there_is(run: tuple[Cli, str]) -> None:
    code, said = run[0]("logs", "tri")
    assert (code, "try" in said) == (2, True)


def test_ctrl_c_ends_the_following_with_130(run: tuple[Cli, str]) -> None:
    cli = run[0]
    (cli.folder / "wait.py").write_text("import time\nprint('here', flush=True)\ntime.sleep(600)\n")
    manifest = (cli.folder / "try.yaml").read_text().replace("try.py", "wait.py").replace("name: try", "name: wait")
    (cli.folder / "wait.yaml").write_text(manifest)
    running = cli.start("run", "wait.yaml", "--local", "--plain")
    try:
        give_up = time.monotonic() + 30
        while not list(cli.folder.glob("home/runs/wait-*/job.json")):
            assert time.monotonic() < give_up
            time.sleep(0.05)
        following = cli.start("logs", "-f", "wait")
        assert following.stdout is not None
        while "[rank 0] here" not in (line := following.stdout.readline()):
            assert line, "ended too early"
        following.send_signal(signal.SIGINT)
        said, _ = following.communicate(timeout=10)
        assert (following.returncode, "Traceback" in said) == (130, False)
    finally:
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=30)
