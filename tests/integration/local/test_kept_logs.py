"""What a job's pods said lies below its prefix on the store when the job is over: their own logs, byte for byte."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from dlcloud.objects import Access
from dlcloud.session import LocalSession, StoreSettings
from dlcloud_operator.api import Phase
from dlcloud_operator.api.validation import parse_job
from dlcloud_trainer.objects import open_objects

LIMIT_S = 90.0
CHATTER = """
import os, sys
rank = os.environ["RANK"]
print("hello of rank", rank, flush=True)
for number in range(60_000):
    sys.stdout.write(f"{number:07d} what a talkative program of rank {rank} says\\r\\n")
sys.stdout.write("no end")
"""


async def run_to_the_end(session: LocalSession) -> None:
    give_up = time.monotonic() + LIMIT_S
    try:
        await session.start()
        while session.phase is None or not session.phase.finished:
            session.check()
            assert time.monotonic() < give_up
            await asyncio.sleep(0.02)
        await session.settle(20)
    finally:
        await session.close(0)
    said = "".join(path.read_text() for path in session.run_dir.glob("pods/*/log"))
    assert session.phase is Phase.SUCCEEDED, said


def run(tmp_path: Path, spec: dict[str, Any], access: Access | None) -> dict[str, tuple[bytes, bytes]]:
    """Run a job of two workers; by pod its log file and what is kept of it."""
    spec = {"workers": {"count": 2, "memory": "1Gi"}, "restart": {"maxFailures": 0}, **spec}
    manifest = {"apiVersion": "dlcloud.dev/v1", "kind": "TrainingJob", "metadata": {"name": "kept"}, "spec": spec}
    session = LocalSession(parse_job(manifest), tmp_path / "run", StoreSettings(access, tmp_path / "store"), tmp_path)
    asyncio.run(run_to_the_end(session))
    store = open_objects(session.checkpoint_prefix, endpoint=access.endpoint if access else "")
    logs = {path.parent.name: path.read_bytes() for path in session.run_dir.glob("pods/*/log")}
    return {pod: (log, b"".join(map(store.get, store.list(f"logs/{pod}")))) for pod, log in logs.items()}


def test_the_output_of_a_script_on_an_s3_server(
    tmp_path: Path, s3_server: Any, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "chatter.py").write_text(CHATTER)
    access = Access(s3_server.endpoint, s3_server.access_key, s3_server.secret_key)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", access.secret_key)
    spec = {
        "script": {"command": ["python", str(tmp_path / "chatter.py")]},
        "checkpoint": {"uri": f"s3://{s3_bucket}/{tmp_path.name}"},
    }
    pods = run(tmp_path, spec, access)
    assert len(pods) == 2
    for log, kept in pods.values():
        assert len(log) > 2 * 1024 * 1024
        assert kept == log


def test_the_output_of_a_built_in_workload_in_a_folder(tmp_path: Path) -> None:
    spec = {
        "workload": "cnn",
        "parameters": {"epochs": 1, "architecture": "conv8"},
        "data": {"uri": "builtin://digits"},
        "checkpoint": {"uri": f"file://{tmp_path}/saved", "everySeconds": 3600},
    }
    pods = run(tmp_path, spec, None)
    assert len(pods) == 2
    for log, kept in pods.values():
        assert b"[agent] round 1: " in kept
        assert kept == log
