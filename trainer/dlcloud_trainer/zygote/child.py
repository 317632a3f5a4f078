"""What a forked child does to become a rank, and how a rank's process ends.

May import the standard library, torch (already imported) and, for a workload, dlcloud_trainer.rank. Nothing here runs
in the zygote.
"""

from __future__ import annotations

import gc
import importlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from .command import read_command
from .kernel import be_killed_first, die_with_parent
from .script import finish, run_python

if TYPE_CHECKING:
    from .imports import Loaded
    from .server import Order

_OOM_EXTRA = 20  # thousandths of the memory limit: enough to prefer the rank over a zygote of the same size


def become_rank(order: Order) -> None:
    """Own session, own descriptors, own signals, own environment; then the `forked` event."""
    os.setsid()
    die_with_parent()
    if os.getppid() != order.zygote_pid:
        os._exit(1)
    os.dup2(order.output, 1)
    os.dup2(order.output, 2)
    os.close(order.output)
    os.write(order.events, b'{"event":"forked"}\n')
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
    be_killed_first(_OOM_EXTRA)
    os.environ.update(order.env)
    os.environ["DLCLOUD_EVENTS_FD"] = str(order.events)
    gc.enable()


def run_rank(order: Order, loaded: Loaded) -> NoReturn:
    """Run the workload, the Python script or the foreign program, and end the process with its code."""
    if loaded.workload:
        _prepare_libraries(order.threads)
        rank = importlib.import_module("dlcloud_trainer.rank")
        finish(lambda: sys.exit(rank.main()))
    run = read_command(order.command, sys.executable) if loaded.warm else None
    if run is None:
        _exec(order)
    _prepare_libraries(order.threads)
    _keep_process_groups()
    finish(lambda: run_python(run))


def _prepare_libraries(threads: int) -> None:
    """Per process what a fork would share: thread settings and the state of random generators."""
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(True)
    # Python's own generator is seeded anew by every fork; numpy's global one is not.
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    process = sys.modules.get("multiprocessing.process")
    if process is not None:
        process.current_process().authkey = os.urandom(32)


def _keep_process_groups() -> None:
    """Let no process group be destructed: gloo's joins its thread while it holds the interpreter's lock, and now and
    then that thread waits for this lock to drop its last reference. Seen at the end of a program whose model was
    wrapped: the rank had trained, and hung for ever. The process ends without destructors; see `finish`.
    """
    distributed = sys.modules.get("torch.distributed.distributed_c10d")
    if distributed is None:
        return
    destroy, kept = distributed.destroy_process_group, []

    def destroy_process_group(group: Any = None) -> None:
        kept.append(group if group is not None else distributed.GroupMember.WORLD)
        kept.extend(distributed._world.pg_map if group is None else ())
        destroy(group)

    for module in (distributed, sys.modules["torch.distributed"]):
        vars(module)["destroy_process_group"] = destroy_process_group


def _exec(order: Order) -> NoReturn:
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    os.set_inheritable(order.events, True)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Python ignores them, and exec would hand that on
    try:
        os.execvp(order.command[0], order.command)
    except OSError as error:
        sys.stderr.write(f"script.command: cannot run {order.command[0]!r}: {error.strerror}\n")
        sys.stderr.flush()
        os._exit(126 if isinstance(error, PermissionError) else 127)
