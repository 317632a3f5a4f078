"""Real agents, zygotes and ranks against a small rendezvous server."""

from __future__ import annotations

import sys
from pathlib import Path

PY = [sys.executable, "-c"]


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_a_script_runs_its_output_is_prefixed_and_the_agent_stays_until_it_is_told(
    rendezvous, start_agent, job, round_
):
    agent = start_agent()
    rendezvous.tell(agent.name, round_(1, job(["python", "-c", "print('hello'); print('world')"])))
    assert rendezvous.result(agent.name, 1)["outcome"] == "Succeeded"
    assert agent.lines() == ["hello", "world"]
    assert agent.process.poll() is None
    rendezvous.tell(agent.name, {"kind": "finished", "phase": "Succeeded"})
    assert agent.wait() == 0
