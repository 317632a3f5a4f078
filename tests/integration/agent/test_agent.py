"""Real agents, zygotes and ranks against a small rendezvous server: the life of a pod."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from dlcloud_trainer.parameters import parse_parameters
from dlcloud_trainer.workloads import find_workload

SLEEP = "import os, time; print('pid', os.getpid(), flush=True); time.sleep(1000)"


def pid_of(agent: Any, position: int = 0) -> int:
    """The pid a SLEEP script printed."""
    agent.line("pid")
    return int(agent.lines()[position].split()[1])


def test_the_first_report_offers_an_address_and_a_port(rendezvous, start_agent) -> None:
    agent = start_agent()
    report = rendezvous.report(agent.name, lambda report: True)
    assert report["round"] == 0
    assert report["address"] == "127.0.0.1"
    assert 0 < report["port"] < 65536


def test_a_script_succeeds_and_the_agent_stays_until_the_job_is_finished(rendezvous, start_agent, round_script) -> None:
    agent = start_agent()
    rendezvous.tell(agent.name, round_script(1, "python", "-c", "print('hello'); print('world')"))
    assert rendezvous.result(agent.name, 1)["outcome"] == "Succeeded"
    assert agent.lines() == ["hello", "world"]
    assert agent.process.poll() is None
    rendezvous.tell(agent.name, {"kind": "finished", "phase": "Succeeded"})
    assert agent.wait() == 0
    assert agent.last_words()["outcome"] == "Succeeded"


def test_a_failed_script_is_reported_with_the_end_of_its_traceback(
    rendezvous, start_agent, round_script, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text("def f():\n    raise ValueError('no such thing')\nf()\n")
    agent = start_agent()
    rendezvous.tell(agent.name, round_script(1, "python", "train.py"))
    result = rendezvous.result(agent.name, 1)
    assert (result["outcome"], result["exitCode"]) == ("Error", 1)
    assert result["message"].startswith("Traceback (most recent call last):\n  File ")
    assert result["message"].endswith("ValueError: no such thing")
    assert "dlcloud" not in result["message"]


def test_a_finished_job_that_failed_ends_the_agent_with_1_and_its_last_words(
    rendezvous, start_agent, round_script
) -> None:
    agent = start_agent()
    rendezvous.tell(agent.name, round_script(1, "python", "-c", "raise SystemExit('wrong')"))
    rendezvous.result(agent.name, 1)
    rendezvous.tell(agent.name, {"kind": "finished", "phase": "Failed"})
    assert agent.wait() == 1
    words = agent.last_words()
    assert (words["outcome"], words["exitCode"], words["message"]) == ("Error", 1, "wrong")
    assert [result["round"] for result in words["results"]] == [1]


def test_a_newer_round_stops_the_old_ranks_and_forks_new_ones(rendezvous, start_agent, round_script, is_alive) -> None:
    agent = start_agent()
    rendezvous.tell(agent.name, round_script(1, "python", "-c", SLEEP))
    old = pid_of(agent)
    rendezvous.tell(agent.name, round_script(2, "python", "-c", "print('second')"))
    assert rendezvous.result(agent.name, 2)["outcome"] == "Succeeded"
    assert rendezvous.result(agent.name, 1)["outcome"] == "Stopped"
    assert not is_alive(old)
    assert agent.lines()[1:] == ["second"]


def test_each_round_offers_another_port(rendezvous, start_agent, round_script) -> None:
    agent = start_agent()
    first = rendezvous.report(agent.name, lambda report: True)["port"]
    rendezvous.tell(agent.name, round_script(1, "python", "-c", SLEEP, masterPort=first))
    report = rendezvous.report(agent.name, lambda report: report["ranks"] and report["ranks"][0]["state"] == "running")
    assert report["port"] != first


def test_a_killed_rank_is_reported_as_signal(rendezvous, start_agent, round_script) -> None:
    agent = start_agent()
    rendezvous.tell(agent.name, round_script(1, "python", "-c", SLEEP))
    os.kill(pid_of(agent), signal.SIGKILL)
    result = rendezvous.result(agent.name, 1)
    assert (result["outcome"], result["exitCode"]) == ("Signal", -9)
    assert "SIGKILL" in result["message"]


def test_a_rank_gets_the_environment_of_torchrun(rendezvous, start_agent, round_script) -> None:
    agent = start_agent(env={"DLCLOUD_PROCESSES": "2"})
    names = [
        *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK"),
        *("ROLE_WORLD_SIZE", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS"),
        *("TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_USE_AGENT_STORE"),
        *("DLCLOUD_ROUND", "DLCLOUD_NONCE", "OPENBLAS_NUM_THREADS"),
    ]
    code = f"import os, json; print(json.dumps([os.environ.get(name) for name in {names}]))"
    instruction = round_script(
        5, "python", "-c", code, ranks=[2, 3], worldSize=4, workers=2, index=1, masterPort=29511, threads=3, restarts=4
    )
    rendezvous.tell(agent.name, instruction)
    for local, rank in enumerate((2, 3)):
        assert rendezvous.result(agent.name, 5, rank)["outcome"] == "Succeeded"
        (line,) = agent.lines(f"[rank {rank}] ")
        assert json.loads(line) == [
            str(rank), "4", str(local), "2", "1", "2", str(rank), "4", "default", "127.0.0.1", "29511", "3", "4",
            "11111111-2222-3333-4444-555555555555", "False", "5", "nonce5", None,
        ]  # fmt: skip


def test_sigterm_lets_the_ranks_save_and_a_second_one_is_ignored(
    rendezvous, start_agent, round_script, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text(
        "import signal, sys, time\n"
        "def save(*_):\n"
        "    print('saving', flush=True)\n    time.sleep(0.5)\n    print('saved', flush=True)\n    sys.exit(3)\n"
        "signal.signal(signal.SIGTERM, save)\nprint('ready', flush=True)\ntime.sleep(1000)\n"
    )
    agent = start_agent()
    rendezvous.tell(agent.name, round_script(1, "python", "train.py"))
    agent.line("ready")
    agent.process.send_signal(signal.SIGTERM)
    agent.line("saving")
    agent.process.send_signal(signal.SIGTERM)
    agent.process.send_signal(signal.SIGINT)
    assert rendezvous.report(agent.name, lambda report: report["draining"])["ranks"][0]["state"] == "running"
    assert agent.wait() == 143
    assert agent.lines() == ["ready", "saving", "saved"]
    result = rendezvous.result(agent.name, 1)
    assert (result["outcome"], result["exitCode"]) == ("Stopped", 3)
    assert agent.last_words()["outcome"] == "Stopped"


def test_a_rank_that_ignores_sigterm_is_killed_after_the_drain_time(
    rendezvous, start_agent, round_script, is_alive
) -> None:
    agent = start_agent(env={"DLCLOUD_DRAIN_S": "0.5"})
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEP
    rendezvous.tell(agent.name, round_script(1, "python", "-c", code))
    pid = pid_of(agent)
    agent.process.send_signal(signal.SIGTERM)
    assert agent.wait() == 143
    assert not is_alive(pid)


def test_sigterm_after_all_ranks_succeeded_exits_0(rendezvous, start_agent, round_script) -> None:
    agent = start_agent()
    rendezvous.tell(agent.name, round_script(1, "python", "-c", "pass"))
    rendezvous.result(agent.name, 1)
    agent.process.send_signal(signal.SIGTERM)
    assert agent.wait() == 0


def test_sigterm_before_any_round_ends_the_agent_at_once(rendezvous, start_agent) -> None:
    agent = start_agent()
    rendezvous.report(agent.name, lambda report: True)
    agent.process.send_signal(signal.SIGTERM)
    assert agent.wait() == 143


def test_no_process_survives_a_killed_agent(
    rendezvous, start_agent, round_script, processes_below, is_alive, until
) -> None:
    agent = start_agent()
    rendezvous.tell(agent.name, round_script(1, "python", "-c", SLEEP))
    rank = pid_of(agent)
    (zygote,) = processes_below(agent.process.pid)
    assert processes_below(zygote) == [rank]
    agent.process.kill()
    until(lambda: not is_alive(zygote) and not is_alive(rank), "zygote and rank died", 10)


def test_a_killed_zygote_ends_the_round_and_the_next_round_runs(
    rendezvous, start_agent, round_script, processes_below, is_alive, until
) -> None:
    agent = start_agent()
    rendezvous.tell(agent.name, round_script(1, "python", "-c", SLEEP))
    rank = pid_of(agent)
    (zygote,) = processes_below(agent.process.pid)
    os.kill(zygote, signal.SIGKILL)
    result = rendezvous.result(agent.name, 1)
    assert (result["outcome"], result["exitCode"]) == ("Error", -9)
    assert "zygote" in result["message"]
    until(lambda: not is_alive(rank), "the rank died with its zygote", 10)
    rendezvous.tell(agent.name, round_script(2, "python", "-c", "pass"))
    assert rendezvous.result(agent.name, 2)["outcome"] == "Succeeded"


def test_a_rank_that_died_before_the_next_round_was_heard_of_keeps_its_own_end(
    rendezvous, start_agent, round_script, processes_below
) -> None:
    agent = start_agent()
    rendezvous.tell(
        agent.name, round_script(1, "python", "-c", "import time; print('there', flush=True); time.sleep(99)")
    )
    agent.line("there")
    (zygote,) = processes_below(agent.process.pid)
    (rank,) = processes_below(zygote)
    os.kill(zygote, signal.SIGSTOP)  # a busy machine: it is told of the death late
    os.kill(rank, signal.SIGKILL)
    rendezvous.tell(agent.name, round_script(2, "python", "-c", "print('again', flush=True)"))
    rendezvous.report(agent.name, lambda report: report["round"] == 2)  # it is heard of
    os.kill(zygote, signal.SIGCONT)
    assert rendezvous.result(agent.name, 1)["outcome"] == "Signal"
    assert rendezvous.result(agent.name, 2)["outcome"] == "Succeeded"


def test_a_fork_that_never_speaks_is_a_fork_hang_and_gets_a_new_zygote(
    rendezvous, start_agent, round_script, processes_below, until
) -> None:
    agent = start_agent(env={"DLCLOUD_FORK_LIMIT_S": "1"})
    rendezvous.tell(agent.name, round_script(1, "python", "-c", "print('warm')"))
    rendezvous.result(agent.name, 1)
    (zygote,) = processes_below(agent.process.pid)
    os.kill(zygote, signal.SIGSTOP)
    rendezvous.tell(agent.name, round_script(2, "python", "-c", "print('never')"))
    assert rendezvous.result(agent.name, 2)["outcome"] == "ForkHang"
    until(lambda: zygote not in processes_below(agent.process.pid), "the silent zygote is gone", 10)
    rendezvous.tell(agent.name, round_script(3, "python", "-c", "print('again')"))
    assert rendezvous.result(agent.name, 3)["outcome"] == "Succeeded"
    assert agent.lines() == ["warm", "again"]


def test_a_workload_that_cannot_be_imported_fails_the_round_with_the_reason(
    rendezvous, start_agent, round_workload
) -> None:
    agent = start_agent(python=sys.executable, env={"DLCLOUD_WORKLOAD": "nowhere"})
    for number in (1, 2):
        rendezvous.tell(agent.name, round_workload(number, "nowhere"))
        result = rendezvous.result(agent.name, number)
        assert result["outcome"] == "Error"
        assert "No module named" in result["message"]


def test_an_image_without_our_package_runs_scripts_cold(rendezvous, start_agent, round_script, bare_python) -> None:
    agent = start_agent(python=bare_python)
    rendezvous.tell(agent.name, round_script(1, bare_python, "-c", "import os; print('cold', os.environ['RANK'])"))
    assert rendezvous.result(agent.name, 1)["outcome"] == "Succeeded"
    assert agent.lines() == ["cold 0"]
    assert "No module named" not in agent.text()
    rendezvous.tell(agent.name, round_script(2, bare_python, "-c", SLEEP))
    rendezvous.report(agent.name, lambda r: r["round"] == 2 and r["ranks"][0]["state"] == "running")
    rendezvous.tell(agent.name, round_script(3, bare_python, "-c", "import sys; sys.exit('bad')"))
    assert rendezvous.result(agent.name, 2)["outcome"] == "Stopped"
    assert rendezvous.result(agent.name, 3)["message"] == "bad"


def test_a_workload_in_an_image_without_our_package_fails_with_a_remedy(
    rendezvous, start_agent, round_workload, bare_python
) -> None:
    agent = start_agent(python=bare_python, env={"DLCLOUD_WORKLOAD": "cnn"})
    rendezvous.tell(agent.name, round_workload(1, "cnn"))
    assert "use an image that has it" in rendezvous.result(agent.name, 1)["message"]


def test_a_cold_rank_dies_with_the_agent(rendezvous, start_agent, round_script, is_alive, until, bare_python) -> None:
    agent = start_agent(python=bare_python)
    rendezvous.tell(agent.name, round_script(1, bare_python, "-c", SLEEP))
    rank = pid_of(agent)
    agent.process.kill()
    until(lambda: not is_alive(rank), "the rank died", 10)


def test_two_agents_run_an_unchanged_torch_script_together(
    rendezvous, start_agent, round_script, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text(
        "import torch, torch.distributed as dist\n"
        "dist.init_process_group('gloo')\n"
        "value = torch.tensor([float(dist.get_rank() + 1)])\n"
        "dist.all_reduce(value)\n"
        "print('sum', value.item(), 'of', dist.get_world_size())\n"
        "dist.destroy_process_group()\n"
    )
    agents = [
        start_agent(f"job-{index}-1", python=sys.executable, env={"DLCLOUD_INDEX": str(index)}) for index in range(2)
    ]
    port = rendezvous.report(agents[0].name, lambda report: True)["port"]
    for number in (1, 2):
        for rank, agent in enumerate(agents):
            common = {"worldSize": 2, "workers": 2, "masterPort": port}
            instruction = round_script(number, "python", "train.py", ranks=[rank], index=rank, **common)
            rendezvous.tell(agent.name, instruction)
        for rank, agent in enumerate(agents):
            result = rendezvous.result(agent.name, number, rank)
            assert result["outcome"] == "Succeeded", result["message"]
        port = rendezvous.report(
            agents[0].name, lambda r, n=number: r["round"] == n and r["ranks"][0]["state"] == "ended"
        )["port"]
    for rank, agent in enumerate(agents):
        assert agent.lines(f"[rank {rank}] ") == ["sum 3.0 of 2"] * 2


def test_a_built_in_workload_runs_and_its_steps_and_progress_are_reported(
    rendezvous, start_agent, round_workload
) -> None:
    parameters = parse_parameters(find_workload("cnn"), {"epochs": 1, "architecture": "conv8"}).model_dump(
        by_alias=True
    )
    agent = start_agent(python=sys.executable, env={"DLCLOUD_WORKLOAD": "cnn"})
    job = {"parameters": parameters, "data": {"uri": "builtin://digits"}, "objectStore": None}
    rendezvous.tell(agent.name, round_workload(1, "cnn", **job))
    starting = rendezvous.report(agent.name, lambda r: r["round"] == 1 and r["ranks"][0]["state"] == "starting")
    running = rendezvous.report(agent.name, lambda r: r["round"] == 1 and r["ranks"][0]["state"] == "running")
    assert starting["ranks"][0]["step"] is None
    assert running["ranks"][0]["step"] >= 0
    result = rendezvous.result(agent.name, 1)
    assert result["outcome"] == "Succeeded", result["message"]
    last = rendezvous.report(agent.name, lambda r: r["ranks"] and r["ranks"][0]["state"] == "ended")
    assert last["progress"]["epoch"] == 1
    assert last["progress"]["step"] == last["progress"]["totalSteps"]


def test_a_rank_killed_by_the_kernel_for_memory_is_out_of_memory(rendezvous, start_agent, round_script) -> None:
    own = next((line for line in Path("/proc/self/cgroup").read_text().splitlines() if ":memory:" in line), None)
    group = Path(f"/sys/fs/cgroup/memory{own.split(':')[2]}/dlcloud-test-{os.getpid()}") if own else None
    try:
        assert group is not None
        group.mkdir()
    except (OSError, AssertionError):
        pytest.skip("needs a writable memory cgroup (v1)")
    try:
        (group / "memory.limit_in_bytes").write_text(str(400 * 2**20))
        agent = start_agent(prefix=["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"])
        rendezvous.tell(agent.name, round_script(1, "python", "-c", "x = bytearray(600 * 2**20)"))
        result = rendezvous.result(agent.name, 1)
        assert (result["outcome"], result["exitCode"]) == ("OutOfMemory", -9)
        rendezvous.tell(agent.name, round_script(2, "python", "-c", SLEEP))
        os.kill(pid_of(agent), signal.SIGKILL)
        assert rendezvous.result(agent.name, 2)["outcome"] == "Signal"
        agent.process.kill()
        agent.wait()
    finally:
        for _ in range(200):
            try:
                group.rmdir()
                break
            except OSError:
                signal.sigtimedwait([], 0.05)


def test_as_pid_1_the_agent_reaps_orphans(rendezvous, start_agent, round_script) -> None:
    if os.system("unshare --pid --fork --kill-child true 2>/dev/null") != 0:
        pytest.skip("needs the right to make a PID namespace")
    agent = start_agent(prefix=["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"])
    code = (
        "import os, time\n"
        "read, write = os.pipe()\n"
        "if os.fork() == 0:\n"  # a child that leaves a grandchild behind, in a session of its own
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        while os.getppid() != 1: time.sleep(0.001)\n"
        "        os.write(write, str(os.getpid()).encode())\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "orphan = int(os.read(read, 10))\n"
        "while os.path.exists(f'/proc/{orphan}'): time.sleep(0.001)\n"
        "print('reaped')\n"
    )
    rendezvous.tell(agent.name, round_script(1, sys.executable, "-c", code))
    assert rendezvous.result(agent.name, 1)["outcome"] == "Succeeded"
    assert agent.lines()[-1] == "reaped"
