"""Whole jobs on this machine, with the engine and agents and zygotes, for tests about what a job leaves behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlcloud.objects import Access
from dlcloud.session import LocalSession, StoreSettings
from dlcloud_operator.api import Phase, TrainingJobStatus
from dlcloud_operator.api.validation import parse_job

LIMIT_S = 200.0
DIGITS = {"architecture": "conv8", "schedule": "constant", "logEverySteps": 1}
Act = Callable[[LocalSession], Awaitable[None]]


@dataclass(frozen=True)
class Ended:
    """A job that is over; `prefix` is the URI its objects lie below, `log` all that its pods said."""

    prefix: str
    status: TrainingJobStatus
    log: str


def digits_job(uri: str, **fields: Any) -> dict[str, Any]:
    """The spec of a small training on builtin://digits: 20 steps an epoch."""
    defaults = {
        "workload": "cnn",
        "data": {"uri": "builtin://digits"},
        "workers": {"count": 1, "memory": "1Gi"},
        "restart": {"maxFailures": 100},
    }
    nested = {
        "parameters": DIGITS | fields.pop("parameters", {}),
        "checkpoint": {"uri": uri, "everySeconds": 1} | fields.pop("checkpoint", {}),
    }
    return defaults | fields | nested


def run_job(
    folder: Path, name: str, spec: dict[str, Any], act: Act | None = None, access: Access | None = None
) -> Ended:
    """Run a job to its end; `act` works on it meanwhile."""
    manifest = {"apiVersion": "dlcloud.dev/v1", "kind": "TrainingJob", "metadata": {"name": name}, "spec": spec}
    session = LocalSession(parse_job(manifest), folder / name, StoreSettings(access, folder / "store"), folder)
    return asyncio.run(_run(session, act))


async def until(session: LocalSession, condition: Callable[[], Any]) -> None:
    """Wait until it is true."""
    give_up = time.monotonic() + LIMIT_S
    while not condition():
        session.check()
        assert time.monotonic() < give_up, _log(session)
        await asyncio.sleep(0.01)


async def _run(session: LocalSession, act: Act | None) -> Ended:
    try:
        await session.start()
        if act is not None:
            async with asyncio.timeout(LIMIT_S):
                await act(session)
        await until(session, lambda: session.phase is not None and session.phase.finished)
        await session.settle(20)
    finally:
        await session.close(0)
    assert session.job is not None
    return Ended(session.checkpoint_prefix, session.job.status, _log(session))


def _log(session: LocalSession) -> str:
    return "\n".join(path.read_text(errors="replace") for path in sorted(session.run_dir.glob("pods/*/log")))


def succeeded(ended: Ended) -> Ended:
    """The same; fails with the log when the job did not succeed."""
    assert ended.status.phase is Phase.SUCCEEDED, f"{ended.status.message}\n{ended.log}"
    return ended
