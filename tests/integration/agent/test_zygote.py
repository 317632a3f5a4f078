"""The zygote alone: its imports leave it fit to fork, and a forked script cannot tell itself from one started cold."""

from __future__ import annotations

import importlib.util
import json
import os
import queue
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dlcloud_trainer.agent.processes import Zygote
from dlcloud_trainer.agent.values import RankId
from dlcloud_trainer.workloads import workload_names
from dlcloud_trainer.zygote.imports import module_name

LIMIT_S = 30.0
WORKLOADS = workload_names()


class Forker:
    """A zygote whose messages are collected, and ranks whose output is read to the end."""

    def __init__(self) -> None:
        self.messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.zygote = Zygote(lambda zygote, message: self.messages.put(message))
        self.number = 0

    def expect(self, kind: str) -> dict[str, Any]:
        message = self.messages.get(timeout=LIMIT_S)
        if message is None:
            output = os.read(self.zygote.output, 65536).decode()
            pytest.fail(f"the zygote ended instead of saying {kind}:\n{output}")
        assert message["is"] == kind
        return message

    def fork(self, command: list[str], env: dict[str, str] | None = None, threads: int = 1) -> tuple[int, str, str]:
        """Exit code, output and events of a rank."""
        self.number += 1
        output_r, output_w = os.pipe()
        events_r, events_w = os.pipe()
        self.zygote.fork(RankId(self.number, 0), command, threads, env or {}, [output_w, events_w])
        os.close(output_w)
        os.close(events_w)
        self.expect("forked")
        with os.fdopen(output_r, "rb") as output, os.fdopen(events_r, "rb") as events:
            texts = output.read().decode(), events.read().decode()
        return int(self.expect("exited")["code"]), *texts

    def close(self) -> None:
        self.zygote.kill()
        self.zygote.process.wait(LIMIT_S)
        os.close(self.zygote.output)
        self.zygote.close()


@pytest.fixture(scope="module")
def forker() -> Iterator[Forker]:
    forker = Forker()
    forker.expect("hello")
    forker.expect("ready")
    yield forker
    forker.close()


@pytest.fixture
def run_both(forker: Forker, tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Run a command forked and cold; both must agree on exit code and output."""

    def run(*args: str, files: dict[str, str] | None = None) -> tuple[int, str]:
        for name, text in (files or {}).items():
            (tmp_path / name).write_text(textwrap.dedent(text))
        command = [arg.replace("{tmp}", str(tmp_path)) for arg in args]
        code, output, _ = forker.fork([sys.executable, *command])
        cold = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        assert (code, sorted(output.splitlines())) == (cold.returncode, sorted(cold.stdout.decode().splitlines()))
        return code, output

    return run


def test_the_first_event_of_a_rank_is_forked(forker: Forker) -> None:
    _, _, events = forker.fork(["python", "-c", "pass"])
    assert json.loads(events.splitlines()[0]) == {"event": "forked"}


@pytest.mark.parametrize("end", ["0", "3", "256 + 7", "-1", "None", "'a reason'", "[1]"])
def test_an_exit_means_what_it_means_to_the_interpreter(run_both, end: str) -> None:
    run_both("-c", f"import sys; print('before'); sys.exit({end})")


def test_an_uncaught_exception_prints_the_same_traceback(run_both) -> None:
    text = """
        def inner():
            raise KeyError("x")
        try:
            inner()
        except KeyError as error:
            raise RuntimeError("outer") from error
    """
    code, output = run_both("{tmp}/train.py", files={"train.py": text})
    assert code == 1
    assert output.endswith("RuntimeError: outer\n")


def test_a_script_that_does_not_compile_or_exist_fails_as_usual(run_both) -> None:
    run_both("{tmp}/train.py", files={"train.py": "def (:\n"})
    assert run_both("{tmp}/nowhere.py")[0] == 2
    assert run_both("-m", "no_such_module")[0] == 1


def test_main_argv_and_path_are_those_of_the_interpreter(run_both) -> None:
    text = """
        import sys, __main__
        import helper
        names = ("__name__", "__file__", "__package__", "__spec__", "__cached__", "__doc__")
        print([getattr(__main__, name, "absent") for name in names], __name__, type(__loader__).__name__)
        print(sys.argv, sys.path[0], sys.orig_argv[-2:], sorted(vars(__main__)))
        def f(): pass
        print(f.__module__, sys.modules["__main__"].f is f)
    """
    run_both("{tmp}/train.py", "--lr", "0.1", files={"train.py": text, "helper.py": "print('helped')\n"})


def test_a_module_and_code_are_run_as_main(run_both) -> None:
    run_both("-m", "json.tool", "--help")
    run_both("-c", "import sys; print(sys.argv, sys.path[0], __name__, sorted(vars()))", "a", "b")
    run_both("-um", "platform")


def test_atexit_handlers_run_and_threads_are_joined(run_both) -> None:
    text = """
        import atexit, sys, threading, time
        atexit.register(print, "last")
        def work():
            time.sleep(0.2)
            print("thread")
        threading.Thread(target=work).start()
        sys.stdout.write("main without end")
    """
    assert run_both("{tmp}/train.py", files={"train.py": text})[1].endswith("last\n")


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_multiprocessing_works_in_a_forked_script(run_both, method: str) -> None:
    text = f"""
        import multiprocessing
        def square(x): return x * x
        if __name__ == "__main__":
            with multiprocessing.get_context("{method}").Pool(2) as pool:
                print(pool.map(square, range(4)))
    """
    assert run_both("{tmp}/train.py", files={"train.py": text})[1] == "[0, 1, 4, 9]\n"


def test_torch_loads_data_with_workers_in_a_forked_script(forker: Forker, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        "import torch\nfrom torch.utils.data import DataLoader\n"
        "print(sum(int(batch.sum()) for batch in DataLoader(torch.arange(100), batch_size=10, num_workers=2)))\n"
    )
    assert forker.fork(["python", str(tmp_path / "train.py")])[:2] == (0, "4950\n")


def test_a_process_group_of_a_script_is_never_destructed(forker: Forker, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(
        "import gc, tempfile, weakref\nimport torch\nimport torch.distributed as dist\n"
        "dist.init_process_group('gloo', init_method=f'file://{tempfile.mktemp()}', rank=0, world_size=1)\n"
        "groups = [weakref.ref(dist.group.WORLD), weakref.ref(dist.new_group([0]))]\n"
        "dist.all_reduce(torch.zeros(1))\n"
        "dist.destroy_process_group()\n"
        "gc.collect()\n"
        "print(dist.is_initialized(), [group() is not None for group in groups])\n"
    )
    command = ["python", str(tmp_path / "train.py")]
    assert forker.fork(command)[:2] == (0, "False [True, True]\n")


def test_ranks_do_not_share_random_numbers(forker: Forker) -> None:
    code = "import random, numpy; print(random.random(), numpy.random.rand())"
    first, second = (forker.fork(["python", "-c", code])[1].split() for _ in range(2))
    assert first[0] != second[0]
    assert first[1] != second[1]


def test_threads_are_those_of_the_assignment(forker: Forker) -> None:
    code = "import torch, os; print(torch.get_num_threads(), 'OPENBLAS_NUM_THREADS' in os.environ)"
    assert forker.fork(["python", "-c", code], threads=2)[1] == "2 False\n"


def test_a_rank_leads_its_own_session_and_keeps_no_descriptor_of_the_zygote(forker: Forker) -> None:
    code = (
        "import os; print(os.getsid(0) == os.getpid() == os.getpgid(0));"
        "print(sorted(int(fd) for fd in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{fd}')),"
        "os.environ['DLCLOUD_EVENTS_FD'])"
    )
    first, second = forker.fork(["python", "-c", code])[1].splitlines()
    assert first == "True"
    fds, events = second.rsplit(" ", 1)
    assert set(json.loads(fds)) == {0, 1, 2, int(events)}


def test_a_foreign_program_is_executed(forker: Forker) -> None:
    assert forker.fork(["sh", "-c", "echo $RANK; exit 5"], {"RANK": "4"})[:2] == (5, "4\n")
    code, output, _ = forker.fork(["/nowhere/train"])
    assert code == 127
    assert output == "script.command: cannot run '/nowhere/train': No such file or directory\n"


# Signals 32 and 33 belong to the C library: it lets no program change what it inherited for them.
STANDARD_SIGNALS = (1 << 31) - 1


def test_a_foreign_program_does_not_ignore_a_broken_pipe(forker: Forker) -> None:
    ignored = int(forker.fork(["grep", "SigIgn", "/proc/self/status"])[1].split()[-1], 16)
    assert ignored & STANDARD_SIGNALS == 0


def test_a_signal_ends_a_rank_as_it_would_any_program(forker: Forker) -> None:
    assert forker.fork(["python", "-c", "import os, signal; os.kill(os.getpid(), signal.SIGTERM)"])[0] == -15


AFTER_THE_IMPORTS = """
import os, sys, threading, time
from dlcloud_trainer.zygote.imports import load
from dlcloud_trainer.zygote.kernel import thread_count
load(sys.argv[1])
print(threading.active_count(), thread_count(), flush=True)
pid = os.fork()
if pid == 0:
    import obstore, torch
    from obstore.store import LocalStore
    weight = torch.randn(256, 256, requires_grad=True)
    (torch.randn(512, 256) @ weight).square().mean().backward()
    assert weight.grad is not None
    obstore.put(LocalStore(sys.argv[2]), "key", b"value")
    os._exit(0)
deadline = time.monotonic() + 10
while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
    time.sleep(0.01)
if ended[0] == 0:
    os.kill(pid, 9)
    sys.exit("the child hangs")
sys.exit(os.waitstatus_to_exitcode(ended[1]))
"""


@pytest.fixture(scope="module", params=["", *WORKLOADS], ids=["script", *WORKLOADS])
def forked(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[subprocess.CompletedProcess[str], Path]:
    """A process that imported what a zygote imports and then forked a child that works; and the child's folder."""
    folder = tmp_path_factory.mktemp("store")
    command = [sys.executable, "-c", AFTER_THE_IMPORTS, request.param, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False), folder


def test_the_imports_start_no_thread(forked) -> None:
    assert forked[0].stdout == "1 1\n", forked[0].stderr


def test_a_child_forked_after_the_imports_can_compute_and_store(forked) -> None:
    done, folder = forked
    assert done.returncode == 0, done.stderr
    assert (folder / "key").read_bytes() == b"value"


def test_the_modules_of_every_workload_are_found() -> None:
    assert WORKLOADS
    for name in WORKLOADS:
        assert importlib.util.find_spec(module_name(name)) is not None
