"""How a pod begins, ends and is deleted."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import pytest

from dlcloud_operator.core.model import DeletePod, PodPhase
from dlcloud_operator.engine.cluster import Conflict, Refused
from dlcloud_operator.engine.rendezvous.auth import Unauthorized

from .bench import alive, bench, on_a_loop, pod, processes_with, python, until

STUBBORN = python("import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up'); time.sleep(100)")
POLITE = python(
    "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(7))\nprint('up')\ntime.sleep(100)"
)


@on_a_loop
async def test_a_pod_that_ends_with_zero_has_succeeded(tmp_path: Path) -> None:
    async with bench(tmp_path) as local:
        view, log = await local.run(pod(["echo", "hello"]))
    assert view.phase is PodPhase.SUCCEEDED and view.exit is not None and view.exit.exit_code == 0
    assert log == "hello\n"


@on_a_loop
async def test_a_running_pod_shows_index_incarnation_and_address(tmp_path: Path) -> None:
    async with bench(tmp_path) as local:
        name = await local.create(pod(POLITE, index=2, incarnation=5))
        await local.said(name, "up")
        (view,) = await local.cluster.list_pods(local.job)
        assert (view.index, view.incarnation, view.ip, view.phase) == (2, 5, "127.0.0.1", PodPhase.RUNNING)


@on_a_loop
async def test_the_exit_code_is_the_programs_own(tmp_path: Path) -> None:
    async with bench(tmp_path) as local:
        view, _ = await local.run(pod(["sh", "-c", "exit 75"]))
    assert view.phase is PodPhase.FAILED and view.exit is not None
    assert (view.exit.exit_code, view.exit.reason) == (75, "Error")


@on_a_loop
async def test_a_program_killed_by_a_signal_ends_with_128_and_its_number(tmp_path: Path) -> None:
    async with bench(tmp_path) as local:
        view, _ = await local.run(pod(python("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")))
    assert view.exit is not None and view.exit.exit_code == 128 + signal.SIGSEGV


@on_a_loop
async def test_a_program_that_does_not_exist_fails_with_its_name(tmp_path: Path) -> None:
    async with bench(tmp_path) as local:
        view, _ = await local.run(pod(["no-such-program"]))
    assert view.exit is not None and view.exit.exit_code == 127
    assert "cannot start 'no-such-program'" in view.exit.message


@on_a_loop
async def test_an_init_container_that_fails_fails_the_pod_before_its_trainer_starts(tmp_path: Path) -> None:
    inits = [
        {"name": "one", "command": ["echo", "one"]},
        {"name": "two", "command": ["sh", "-c", "echo broken; exit 3"]},
    ]
    async with bench(tmp_path) as local:
        view, log = await local.run(pod(["echo", "trainer"], initContainers=inits))
    assert view.exit is not None and view.exit.exit_code == 3 and log == "one\nbroken\n"
    assert view.exit.message.startswith("init container 'two' ended with 3: ")


@on_a_loop
async def test_the_termination_message_gives_message_and_results(tmp_path: Path) -> None:
    at = "2026-01-02T03:04:05.000000Z"
    result = {"round": 2, "rank": 1, "outcome": "Error", "exitCode": 1, "endedAt": at, "message": "boom"}
    text = json.dumps(
        {"outcome": "Error", "exitCode": 1, "message": "ValueError: x", "results": [result], "sentAt": at}
    )
    env = [{"name": "DLCLOUD_TERMINATION_LOG", "value": "/dev/termination-log"}, {"name": "TEXT", "value": text}]
    async with bench(tmp_path) as local:
        view, _ = await local.run(
            pod(["sh", "-c", 'printf %s "$TEXT" > $DLCLOUD_TERMINATION_LOG; exit 1'], trainer={"env": env})
        )
    assert view.exit is not None and view.exit.message == "ValueError: x"
    (found,) = view.exit.results
    assert (found.round, found.rank, found.outcome, found.message) == (2, 1, "Error", "boom")


@on_a_loop
async def test_a_termination_message_in_a_scripts_own_words_is_shown_as_it_is(tmp_path: Path) -> None:
    trainer = {"terminationMessagePath": "/var/log/last-words"}
    async with bench(tmp_path) as local:
        view, _ = await local.run(pod(["sh", "-c", "echo out of luck > /var/log/last-words; exit 1"], trainer=trainer))
    assert view.exit is not None and view.exit.message == "out of luck\n" and view.exit.results == ()


@on_a_loop
async def test_without_a_termination_message_the_end_of_the_log_is_shown(tmp_path: Path) -> None:
    async with bench(tmp_path) as local:
        view, _ = await local.run(pod(python("for i in range(5000): print('line', i)\nraise SystemExit(1)")))
    assert view.exit is not None and view.exit.message.endswith("line 4998\nline 4999")
    assert len(view.exit.message) <= 2048


@pytest.mark.alone
@on_a_loop
async def test_a_death_is_noticed_within_a_moment(tmp_path: Path) -> None:
    changed = asyncio.Event()
    async with bench(tmp_path) as local:
        name = await local.create(pod(python("import os; print('pid', os.getpid())\nwhile True: pass")))
        pid = int((await local.said(name, "pid ")).split()[1])
        local.cluster.subscribe(lambda _: changed.set())
        killed_at = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        await asyncio.wait_for(changed.wait(), 5)
        delay_s = time.monotonic() - killed_at
        view = local.pod(name)
    assert view is not None and view.phase is PodPhase.FAILED
    assert delay_s < 0.1  # 4 ms on an idle machine


@on_a_loop
async def test_a_deleted_pod_may_end_in_its_own_time_and_is_listed_as_deleting_until_then(tmp_path: Path) -> None:
    code = f"""
import pathlib, signal, sys, time
asked = []
signal.signal(signal.SIGTERM, lambda *_: (print("asked"), asked.append(1)))
print("up")
while not (asked and pathlib.Path({str(tmp_path / "go")!r}).exists()):
    time.sleep(0.01)
"""
    async with bench(tmp_path) as local:
        name = await local.create(pod(python(code)))
        await local.said(name, "up")
        view = local.pod(name)
        assert view is not None
        await local.cluster.delete_pod(local.job, DeletePod(name, view.uid))
        await local.said(name, "asked")
        (listed,) = await local.cluster.list_pods(local.job)
        assert listed.deleting and listed.phase is PodPhase.RUNNING
        (tmp_path / "go").touch()
        await until(lambda: local.pod(name) is None, "the end of a deleted pod")


@on_a_loop
async def test_a_deleted_pod_that_ignores_sigterm_is_killed_after_the_grace_of_the_action(tmp_path: Path) -> None:
    async with bench(tmp_path) as local:
        name = await local.create(pod(STUBBORN, terminationGracePeriodSeconds=60))
        await local.said(name, "up")
        view = local.pod(name)
        assert view is not None
        began = time.monotonic()
        await local.cluster.delete_pod(local.job, DeletePod(name, view.uid, grace_s=1))
        await until(lambda: local.pod(name) is None, "the end of a stubborn pod")
        assert 0.9 < time.monotonic() - began < 5


@on_a_loop
async def test_a_second_deletion_without_grace_kills_at_once(tmp_path: Path) -> None:
    async with bench(tmp_path) as local:
        name = await local.create(pod(STUBBORN, terminationGracePeriodSeconds=60))
        await local.said(name, "up")
        view = local.pod(name)
        assert view is not None
        await local.cluster.delete_pod(local.job, DeletePod(name, view.uid))
        await local.cluster.delete_pod(local.job, DeletePod(name, view.uid, grace_s=0))
        await until(lambda: local.pod(name) is None, "the end of a stubborn pod", 5)


@on_a_loop
async def test_deleting_with_another_uid_changes_nothing(tmp_path: Path) -> None:
    async with bench(tmp_path) as local:
        name = await local.create(pod(POLITE))
        await local.said(name, "up")
        await local.cluster.delete_pod(local.job, DeletePod(name, "another", grace_s=0))
        view = local.pod(name)
        assert view is not None and not view.deleting


@on_a_loop
async def test_deleting_a_pod_that_ended_removes_it_and_its_token(tmp_path: Path) -> None:
    async with bench(tmp_path) as local:
        volume = {"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}
        trainer = {"volumeMounts": [{"name": "t", "mountPath": "/t"}]}
        view, token = await local.run(pod(["cat", "/t/t"], trainer=trainer, volumes=[volume]))
        await local.cluster.delete_pod(local.job, DeletePod(view.name, view.uid))
        assert await local.cluster.list_pods(local.job) == []
        with pytest.raises(Unauthorized):
            await local.cluster.tokens.identify(token)


@on_a_loop
async def test_a_pending_pod_can_be_deleted(tmp_path: Path) -> None:
    async with bench(tmp_path) as local:
        name = await local.create(pod(["true"], volumes=[{"name": "v", "secret": {"secretName": "gone"}}]))
        await until(lambda: (view := local.pod(name)) and "gone" in view.waiting, "a pending pod")
        view = local.pod(name)
        assert view is not None
        await local.cluster.delete_pod(local.job, DeletePod(name, view.uid))
        await until(lambda: local.pod(name) is None, "the end of a pending pod", 3)


@on_a_loop
async def test_creating_a_pod_twice_makes_one(tmp_path: Path) -> None:
    async with bench(tmp_path) as local:
        name = await local.create(pod(POLITE))
        first = local.pod(name)
        await local.create(pod(POLITE))
        (view,) = await local.cluster.list_pods(local.job)
        assert first is not None and view.uid == first.uid


@on_a_loop
async def test_a_name_that_is_being_deleted_cannot_be_taken(tmp_path: Path) -> None:
    async with bench(tmp_path) as local:
        name = await local.create(pod(STUBBORN))
        await local.said(name, "up")
        view = local.pod(name)
        assert view is not None
        await local.cluster.delete_pod(local.job, DeletePod(name, view.uid))
        with pytest.raises(Conflict, match="being deleted"):
            await local.create(pod(STUBBORN))


@on_a_loop
async def test_a_pod_with_a_sidecar_is_refused_with_a_remedy(tmp_path: Path) -> None:
    manifest = pod(["true"])
    manifest["spec"]["containers"].append({"name": "proxy", "command": ["true"]})
    async with bench(tmp_path) as local:
        with pytest.raises(Refused, match=r"proxy.*leave them out of podTemplate"):
            await local.create(manifest)


@on_a_loop
async def test_closing_leaves_no_process_and_no_way_to_start_one(tmp_path: Path) -> None:
    async with bench(tmp_path) as local:
        env = [{"name": "MARK_OF_TEST", "value": str(tmp_path)}]
        for index, command in enumerate((POLITE, STUBBORN)):
            await local.said(await local.create(pod(command, index=index, trainer={"env": env})), "up")
        running = processes_with(str(tmp_path))
        assert len(running) == 4  # two pods, each under its shim
        await local.cluster.close(0.3)
        assert not any(alive(pid) for pid in running)
        with pytest.raises(Refused):
            await local.create(pod(POLITE, index=3))
