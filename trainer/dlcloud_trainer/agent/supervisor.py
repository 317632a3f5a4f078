"""The ranks' processes as the agent's main thread sees them: started, signalled, reaped, their pipes read to the end.

May import the standard library only. It decides nothing: it carries out the state machine's effects and puts what
happens into the agent's queue. All its methods run in the main thread.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .environment import rank_environment
from .happenings import (
    LaunchFailed,
    PipeDrained,
    RankEnded,
    RankSaid,
    ZygoteAbsent,
    ZygoteEnded,
    ZygoteReady,
    ZygoteSaid,
)
from .outcome import last_words
from .output import EventSink, LineSink
from .processes import Zygote, start_cold, zygote_is_absent
from .values import RankId

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from .pump import Pump
    from .values import Launch

PF_EXITING = 0x4  # in proc(5)'s flags, from the kernel's sched.h
DRAIN_LIMIT_S = 1.0  # how long a rank's end waits for its last words when nobody reads the pod's log


class _Process:
    def __init__(self, id: RankId, sink: LineSink) -> None:
        self.id, self.sink = id, sink
        self.zygote: Zygote | None = None
        self.cold: subprocess.Popen[bytes] | None = None
        self.pid: int | None = None
        self.pending: list[int] = []  # signals that came before the pid was known
        self.killed = False  # by us: it lived until then
        self.code: int | None = None
        self.waiting: set[str] = set()
        self.deadline = 0.0


class Supervisor:
    """Carries out what concerns processes. What happens to them goes to `put`."""

    def __init__(self, put: Callable[[Any], None], output: Pump, events: Pump, write: Callable[[bytes], None]) -> None:
        self._put, self._output, self._events, self._write = put, output, events, write
        self._zygote: Zygote | None = None
        self._zygote_sink = LineSink(b"[zygote] ", write)
        self._retired: list[Zygote] = []
        self._processes: dict[RankId, _Process] = {}

    def start_zygote(self) -> None:
        """Start a zygote, which says when it is ready."""
        sink = LineSink(b"[zygote] ", self._write, held=True)
        try:
            zygote = Zygote(lambda zygote, message: self._put(ZygoteSaid(zygote, message)))
        except OSError as error:
            self._put(ZygoteEnded(1, f"the zygote cannot be started: {error}"))
            return
        self._zygote, self._zygote_sink = zygote, sink
        self._output.add(zygote, zygote.output, sink)

    def restart_zygote(self) -> None:
        """Kill the zygote and its ranks, and start another."""
        if self._zygote is not None:
            self._retire(self._zygote)
        self.start_zygote()

    def launch(self, order: Launch) -> None:
        """Start a rank, by the zygote or cold."""
        id, assignment = order.id, order.assignment
        env = rank_environment(assignment, id.rank, order.local_rank)
        process = _Process(id, LineSink(b"[rank %d] " % id.rank, self._write))
        output_r, output_w = os.pipe()
        events_r, events_w = os.pipe()
        self._output.add(id, output_r, process.sink)
        self._events.add(id, events_r, EventSink(lambda event: self._put(RankSaid(id, event))))
        self._processes[id] = process
        try:
            if order.cold:
                process.cold = start_cold(assignment.command, env, output_w, events_w)
                process.pid = process.cold.pid
            elif self._zygote is not None:
                process.zygote = self._zygote
                self._zygote.fork(id, assignment.command, assignment.threads, env, [output_w, events_w])
        except OSError as error:
            self._put(LaunchFailed(id, f"the rank cannot be started: {error}"))
            self._forget(process)
        finally:
            os.close(output_w)
            os.close(events_w)

    def send_signal(self, id: RankId, number: int) -> None:
        """SIGKILL goes to the rank's whole group; others to the rank alone, whose children it must end itself."""
        process = self._processes.get(id)
        if process is None or process.code is not None:
            return
        if number == signal.SIGKILL and (process.pid is None or not _is_over(process.pid)):
            process.killed = True
        if process.pid is None:
            process.pending.append(number)
        else:
            _signal(process.pid, number)

    def on_zygote_said(self, said: ZygoteSaid) -> None:
        """Take in a zygote's message."""
        zygote, message = said
        if message is None:
            zygote.drained = True
            self.on_children_changed()
            return
        if zygote is not self._zygote:
            return
        kind = message.get("is")
        if kind == "hello":
            zygote.greeted = True
            self._output.call(self._zygote_sink.release)
        elif kind == "ready":
            zygote.ready = True
            self._put(ZygoteReady())
        elif kind in ("forked", "exited", "refused"):
            number, rank = message["id"]
            process = self._processes.get(RankId(number, rank))
            if process is None or process.zygote is not zygote:
                return
            if kind == "forked":
                process.pid = int(message["pid"])
                for signal_number in process.pending:
                    _signal(process.pid, signal_number)
            elif kind == "exited":
                self._exited(process, int(message["code"]))
            else:
                self._put(LaunchFailed(process.id, str(message.get("message", ""))))
                self._forget(process)

    def on_children_changed(self) -> None:
        """Reap what ended: cold ranks, zygotes, and (as PID 1) what others left behind."""
        for process in list(self._processes.values()):
            if process.cold is not None and process.code is None and _is_zombie(process.cold.pid):
                _signal(process.cold.pid, signal.SIGKILL)  # its group, while the zombie still keeps the number
                self._exited(process, process.cold.wait())
        zygote = self._zygote
        if zygote is not None and zygote.drained and zygote.process.poll() is not None:
            self._zygote = None
            self._zygote_gone(zygote)
        for retired in list(self._retired):
            if retired.process.poll() is not None:
                self._retired.remove(retired)
        self._reap_orphans()

    def on_pipe_drained(self, drained: PipeDrained) -> None:
        """One of a dead rank's pipes has nothing more."""
        process = self._processes.get(drained.id)
        if process is not None and process.code is not None:
            process.waiting.discard(drained.pipe)
            if not process.waiting:
                self._deliver(process)

    def tick(self, now: float) -> None:
        """Deliver the ends whose last words did not come in time."""
        for process in list(self._processes.values()):
            if process.code is not None and now >= process.deadline:
                self._deliver(process)

    def next_deadline(self) -> float | None:
        """When `tick` has something to do (monotonic s)."""
        return min((p.deadline for p in self._processes.values() if p.code is not None), default=None)

    def kill_all(self, limit_s: float) -> None:
        """End every process at once and wait for those that are children."""
        for process in self._processes.values():
            if process.pid is not None and process.code is None:
                _signal(process.pid, signal.SIGKILL)
        for zygote in filter(None, [self._zygote, *self._retired]):
            zygote.kill()
            with contextlib.suppress(Exception):
                zygote.process.wait(limit_s)

    def _exited(self, process: _Process, code: int) -> None:
        process.code, process.deadline = code, time.monotonic() + DRAIN_LIMIT_S
        # The words of a rank that was killed on purpose matter to nobody: recovery does not wait for them.
        process.waiting = {"events"} if process.killed else {"events", "output"}
        id = process.id
        self._output.finish(id, lambda: self._put(PipeDrained(id, "output")))
        self._events.finish(id, lambda: self._put(PipeDrained(id, "events")))

    def _deliver(self, process: _Process) -> None:
        self._processes.pop(process.id, None)
        self._put(RankEnded(process.id, process.code or 0, last_words(process.sink.tail), process.killed))

    def _forget(self, process: _Process) -> None:
        self._processes.pop(process.id, None)
        self._output.finish(process.id, _nothing)
        self._events.finish(process.id, _nothing)

    def _retire(self, zygote: Zygote) -> None:
        """Kill it with its ranks; those already reaped keep the end they had."""
        for process in [p for p in self._processes.values() if p.zygote is zygote]:
            if process.code is not None:
                self._deliver(process)
                continue
            if process.pid is not None:
                _signal(process.pid, signal.SIGKILL)
            self._forget(process)
        zygote.kill()
        zygote.close()
        self._output.finish(zygote, _nothing)
        self._retired.append(zygote)

    def _zygote_gone(self, zygote: Zygote) -> None:
        code, sink = zygote.process.returncode, self._zygote_sink
        self._retire(zygote)

        def tell() -> None:  # in the pump's thread, after the last byte
            if not zygote.greeted and zygote_is_absent(code, sink.tail):
                self._put(ZygoteAbsent())
                return
            sink.release()
            self._put(ZygoteEnded(code, last_words(sink.tail)))

        self._output.call(tell)

    def _reap_orphans(self) -> None:
        known = {p.cold.pid for p in self._processes.values() if p.cold is not None}
        known |= {zygote.process.pid for zygote in filter(None, [self._zygote, *self._retired])}
        while True:
            try:
                child = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if child is None or child.si_pid in known:  # a known one is reaped by its owner, at its own signal
                return
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child.si_pid, os.WNOHANG)


def _signal(pid: int, number: int) -> None:
    if number == signal.SIGKILL:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, number)
    with contextlib.suppress(ProcessLookupError, PermissionError):  # also before it leads a group of its own
        os.kill(pid, number)


def _is_over(pid: int) -> bool:
    """Whether it has ended, or is about to: a large process takes a while to go."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return fields[0] in "ZX" or bool(int(fields[6]) & PF_EXITING)


def _is_zombie(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _nothing() -> None:
    pass
