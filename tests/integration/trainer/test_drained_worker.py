"""A worker is asked to end while the object store is slow: rank 0, in another worker, saves for all of them."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from dlcloud.objects import Access
from dlcloud.sabotage import rank_pids
from dlcloud.session import LocalSession
from dlcloud_trainer.objects import open_objects

from ..checkpoint.proxy import Fault, Proxy
from .sessions import digits_job, run_job, succeeded, until

SLOW_S = 3.0  # for each of the three objects of a checkpoint: longer than a worker takes to be replaced


@pytest.mark.timeout(240)
def test_the_next_round_goes_on_from_the_last_step_however_long_its_checkpoint_takes(
    s3_server: Any, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Proxy(s3_server.endpoint).running() as proxy:

        async def act(session: LocalSession) -> None:
            await until(session, lambda: session.job is not None and session.job.status.checkpoint)
            assert session.job is not None and session.job.status.round is not None
            proxy.on("PUT", "", Fault(delay_s=SLOW_S))
            os.kill(agent_of(session.job.status.round.members[1].uid), signal.SIGTERM)
            await until(session, lambda: session.job and (now := session.job.status.round) and now.number > 1)
            proxy.clear()

        spec = digits_job(f"s3://{s3_bucket}/jobs", workers={"count": 2, "memory": "1Gi"}, parameters={"epochs": 60})
        access = Access(proxy.endpoint, s3_server.access_key, s3_server.secret_key)
        ended = succeeded(run_job(tmp_path, "digits", spec, act, access))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_server.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_server.secret_key)
    store = open_objects(ended.prefix, endpoint=s3_server.endpoint)
    steps: dict[int, list[int]] = {1: [], 2: []}
    for key in store.list("metrics"):
        told = map(json.loads, store.get(key).splitlines())
        steps[int(key.split("/")[1])] += [record["step"] for record in told if record["kind"] == "train"]
    assert min(steps[2]) == max(steps[1]) + 1


def agent_of(pod_uid: str) -> int:
    """The agent's process: the parent of the zygote, which is the parent of the rank."""
    (rank,) = rank_pids(pod_uid)
    return parent(parent(rank))


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
