"""What a forked rank of a built-in workload runs: from its environment to its exit code.

May import the rest of the trainer, but agent and zygote. The zygote imports this module before it forks: importing must
start no thread and compute nothing. A rank ends by `os._exit`: no destructor of a process group or a thread pool may
hold up the next round.
"""

from __future__ import annotations

import ctypes
import os
import sys
import traceback
from typing import NoReturn

import torch
import torch._dynamo  # what torch would import at the first optimiser step, 1 s of every rank's start

from .assignment import Assignment, parse_assignment, parse_place
from .drain import Drain
from .events import Events
from .exits import DRAINED, SUCCEEDED, judge
from .loop import train
from .parameters import parse_parameters
from .saver import Saver
from .workloads import find_workload

LEAVE_S = 2.0
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
KEPT_BYTES = 2**31 - 1  # as much as mallopt can be told
LARGEST_BYTES = (2**30, 32 * 2**20)  # glibc before 2.35 takes no more than the second


def main() -> NoReturn:
    """Be the rank the environment names; ends the process."""
    descriptor = os.environ.get("DLCLOUD_EVENTS_FD", "")
    rank = Rank(Events(int(descriptor) if descriptor else None), Drain())
    try:
        code = rank.run()
    except BaseException as error:
        rank.fail(error)
    _exit(code)


class Rank:
    """One rank's life."""

    def __init__(self, events: Events, drain: Drain) -> None:
        self._events, self._drain = events, drain
        self._saver: Saver | None = None

    def run(self) -> int:
        """Read the assignment, prepare the process, train; the exit code of a good end. Raises what `judge` knows."""
        ca_file = os.environ.get("DLCLOUD_STORE_CA_FILE")
        assignment = parse_assignment(os.environ["DLCLOUD_ASSIGNMENT"], ca_file or None)
        place = parse_place(os.environ)
        _prepare_process(assignment)
        workload = find_workload(assignment.job.workload)
        parameters = parse_parameters(workload, assignment.job.parameters)
        saver = self._saver = Saver(assignment, parameters.seed, self._events, active=place.rank == 0)
        finished = train(assignment, place, workload, parameters, saver, self._events, self._drain, self.fail)
        return SUCCEEDED if finished else DRAINED

    def fail(self, error: BaseException) -> NoReturn:
        """Tell why, give an upload in flight a moment, end the process. Any thread may call it."""
        ending = judge(error, draining=self._drain.asked)
        if ending.code != DRAINED:
            self._events.failed(ending.outcome, ending.message)
            sys.stderr.write(f"{ending.outcome}: {ending.message}\n" if ending.expected else _traceback(error))
        if self._saver is not None:
            self._saver.leave(LEAVE_S)
        _exit(ending.code)


def _prepare_process(assignment: Assignment) -> None:
    torch.set_num_threads(assignment.threads)
    torch.set_flush_denormal(True)
    _keep_freed_memory()
    if torch.cuda.is_available():
        # A lost peer must end in an exception of ours, not in an abort by NCCL's watchdog.
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "2")
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def _keep_freed_memory() -> None:
    """Have glibc keep what a step frees for the next one. By default large tensors and the heap's end go back to the
    kernel, which clears every page of them that is asked for again: a tenth of a convolutional network's step."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        any(mallopt(M_MMAP_THRESHOLD, size) for size in LARGEST_BYTES)


def _traceback(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


def _exit(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or 1
    os._exit(code)
