"""What of the ranks' output reaches the pod's log."""

from __future__ import annotations

import time
from pathlib import Path

import pytest


def test_the_last_line_without_an_end_is_written(rendezvous, start_agent, round_script) -> None:
    agent = start_agent()
    rendezvous.tell(agent.name, round_script(1, "python", "-c", "import sys; sys.stderr.write('no end')"))
    rendezvous.result(agent.name, 1)
    agent.line("[rank 0] no end")


def test_a_printed_line_is_seen_while_the_script_runs(rendezvous, start_agent, round_script) -> None:
    agent = start_agent()
    rendezvous.tell(agent.name, round_script(1, "python", "-c", "import time; print('now'); time.sleep(1000)"))
    agent.line("[rank 0] now")
    assert rendezvous.report(agent.name, lambda r: r["round"] == 1)["results"] == []


def test_a_grandchild_that_holds_the_pipe_does_not_hold_up_the_result(
    rendezvous, start_agent, round_script, until, is_alive
) -> None:
    agent = start_agent()
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen(['sleep', '30'], start_new_session=True)\n"
        "print('child', child.pid, flush=True)\n"
        "import os; os._exit(0)\n"
    )
    rendezvous.tell(agent.name, round_script(1, "python", "-c", code))
    agent.line("child")
    seen = time.monotonic()
    assert rendezvous.result(agent.name, 1)["arrivedAt"] - seen < 1.0
    child = int(agent.lines()[0].split()[1])
    assert is_alive(child)
    rendezvous.tell(agent.name, {"kind": "finished", "phase": "Succeeded"})
    assert agent.wait(10) == 0
    Path(f"/proc/{child}").exists() and __import__("os").kill(child, 9)


def test_a_child_in_the_ranks_group_ends_with_the_rank(rendezvous, start_agent, round_script, until, is_alive) -> None:
    agent = start_agent()
    rendezvous.tell(agent.name, round_script(1, "sh", "-c", "sleep 1000 & echo child $!; exit 3"))
    assert rendezvous.result(agent.name, 1)["exitCode"] == 3
    child = int(agent.lines()[0].split()[1])
    until(lambda: not is_alive(child), "the child is gone", 10)


@pytest.mark.alone
def test_a_hundred_thousand_lines_pass_within_seconds_and_none_is_lost(rendezvous, start_agent, round_script) -> None:
    agent = start_agent()
    code = (
        "import os, sys, time\n"
        "lines = [b'%07d and some more text of a line\\n' % n for n in range(200000)]\n"
        "start = time.monotonic()\n"
        "for n in range(0, 200000, 100):\n"
        "    data = b''.join(lines[n:n+100])\n"
        "    while data: data = data[os.write(1, data):]\n"
        "print('took', time.monotonic() - start)\n"
    )
    rendezvous.tell(agent.name, round_script(1, "python", "-c", code))
    assert rendezvous.result(agent.name, 1)["outcome"] == "Succeeded"
    *lines, took = agent.lines()
    assert [int(line[:7]) for line in lines] == list(range(200000))
    assert 200000 / float(took.split()[1]) >= 100000
