"""The agent's main thread: one queue of happenings in, the state machine's effects out.

May import the standard library only. It decides nothing about ranks (see `state`), and never writes to the pod's log
itself: a slow reader of the log must not hold up a recovery.
"""

from __future__ import annotations

import contextlib
import signal
import time
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from .happenings import (
    ChildrenChanged,
    LaunchFailed,
    PipeDrained,
    RankEnded,
    RankSaid,
    Told,
    ZygoteAbsent,
    ZygoteEnded,
    ZygoteReady,
    ZygoteSaid,
)
from .keeper import LogKeeper
from .links import Poller
from .oom import find_counter, read_counter
from .output import LogFile
from .ports import free_port
from .pump import Pump
from .state import AgentState
from .supervisor import Supervisor
from .values import (
    Assignment,
    Exit,
    Finished,
    Launch,
    Moment,
    OfferPort,
    Report,
    RestartZygote,
    Say,
    Signal,
    StartZygote,
)
from .wire import termination_message

if TYPE_CHECKING:
    from .ledger import Ledger
    from .links import Link, Reporter
    from .settings import Settings
    from .values import Effect

URGENT_S = 0.05  # reports are at least this far apart
SOON_S = 1.0  # a step or progress alone is reported this often
REPORT_S = 5.0
FLUSH_S = 2.0
KEEP_S = 3.0  # the most the end waits for the last of the output to be kept on the store
BATCH = 256  # happenings taken in a row: a rank that floods its events must not silence the reports


class App:
    """The wiring of one agent."""

    def __init__(self, settings: Settings, ledger: Ledger, link: Link, reporter: Reporter) -> None:
        self.settings = settings
        self.inbox: SimpleQueue[Any] = SimpleQueue()
        self.state = AgentState(ledger, drain_s=settings.drain_s, fork_limit_s=settings.fork_limit_s)
        self.log = LogFile(1)
        self.output, self.events = Pump("output"), Pump("events")
        self.keeper = LogKeeper(settings.pod, self.say)
        self.supervisor = Supervisor(self.inbox.put, self.output, self.events, self.write)
        self.link, self.reporter = link, reporter
        self.poller = Poller(settings, link, self.inbox.put)
        self.reported_at = time.monotonic()
        self.report_due = self.reported_at + REPORT_S
        self.exit_code: int | None = None
        self.counter: Path | None = None

    def say(self, text: str) -> None:
        """A line of the agent's own in the pod's log; never blocks."""
        line = f"[agent] {text}\n".encode("utf-8", "replace")
        self.output.call(lambda: self.write(line))

    def write(self, data: bytes) -> None:
        """To the store first: it never waits for long, and a reader of the log who stopped reading holds up nothing."""
        self.keeper.write(data)
        self.log.write(data)

    def run(self) -> int:
        """Work until an `Exit`; returns the exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, frame: self.inbox.put(Told(number)))
        signal.signal(signal.SIGCHLD, lambda number, frame: self.inbox.put(ChildrenChanged()))
        self.poller.start()
        self.events.start()
        self.output.start()
        # Now that there are handlers, and before the zygote, which would inherit the block.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
        self.link.listen(self.say)
        self.supervisor.start_zygote()
        self.counter = find_counter()
        self.state.oom_baseline = read_counter(self.counter)
        while self.exit_code is None:
            self.turn()
        return self.exit_code

    def turn(self) -> None:
        """Wait for happenings or a deadline, decide, carry out, report when it is time."""
        with contextlib.suppress(Empty):
            happening = self.inbox.get(timeout=self.timeout())
            for _ in range(BATCH):
                self.perform(self.decide(happening))
                if self.exit_code is not None:
                    return
                happening = self.inbox.get_nowait()
            self.perform(self.decide(happening))
        now = time.monotonic()
        self.supervisor.tick(now)
        if self.exit_code is None:
            self.perform(self.state.tick(self.moment(), self.link.heard_at))
        if self.exit_code is None and time.monotonic() >= self.report_due:
            self.send_report()

    def timeout(self) -> float:
        """Seconds until something has to be done without being asked."""
        times = [self.report_due, self.supervisor.next_deadline(), self.state.next_deadline(self.link.heard_at)]
        return max(0.0, min(t for t in times if t is not None) - time.monotonic())

    def moment(self) -> Moment:
        """Now."""
        return Moment(time.monotonic(), time.time(), read_counter(self.counter))

    def decide(self, happening: Any) -> list[Effect]:
        """Hand a happening to whom it concerns."""
        state, supervisor = self.state, self.supervisor
        if isinstance(happening, ZygoteSaid):
            supervisor.on_zygote_said(happening)
        elif isinstance(happening, ChildrenChanged):
            supervisor.on_children_changed()
        elif isinstance(happening, PipeDrained):
            supervisor.on_pipe_drained(happening)
        elif isinstance(happening, RankSaid):
            return state.on_event(happening.id, happening.event, self.moment())
        elif isinstance(happening, RankEnded):
            return state.on_rank_exit(
                happening.id, happening.code, happening.tail, self.moment(), killed=happening.killed
            )
        elif isinstance(happening, LaunchFailed):
            return state.on_launch_failed(happening.id, happening.message, self.moment())
        elif isinstance(happening, Assignment):
            self.keeper.aim(happening.job)
            return state.on_assignment(happening, self.moment())
        elif isinstance(happening, Finished):
            self.keeper.hurry()
            return state.on_finished(happening, self.moment())
        elif isinstance(happening, ZygoteReady):
            return state.on_zygote_ready(self.moment())
        elif isinstance(happening, ZygoteAbsent):
            return [Say("no dlcloud_trainer in this image: ranks start cold"), *state.on_zygote_absent(self.moment())]
        elif isinstance(happening, ZygoteEnded):
            return state.on_zygote_ended(happening.code, happening.message, self.moment())
        elif isinstance(happening, Told):
            self.keeper.hurry()
            return state.on_sigterm(self.moment())
        return []

    def perform(self, effects: list[Effect]) -> None:
        """Carry out effects in their order."""
        for effect in effects:
            if isinstance(effect, Report):
                due = self.reported_at + (URGENT_S if effect.urgent else SOON_S)
                self.report_due = min(self.report_due, due)
            elif isinstance(effect, Say):
                self.say(effect.text)
            elif isinstance(effect, Signal):
                self.supervisor.send_signal(effect.id, effect.number)
            elif isinstance(effect, Launch):
                self.supervisor.launch(effect)
            elif isinstance(effect, OfferPort):
                self.state.ledger.port = free_port(effect.avoid)
            elif isinstance(effect, StartZygote):
                self.supervisor.start_zygote()
            elif isinstance(effect, RestartZygote):
                self.supervisor.restart_zygote()
            elif isinstance(effect, Exit):
                self.leave(effect.code)
                return

    def send_report(self) -> None:
        """Hand the newest report to the reporter."""
        self.reported_at = time.monotonic()
        self.report_due = self.reported_at + REPORT_S
        self.reporter.post(self.state.report(self.reported_at))

    def leave(self, code: int) -> None:
        """Write the last words, tell the operator, end what is left."""
        self.exit_code = code
        self.supervisor.kill_all(1.0)
        self.send_report()
        if self.settings.termination_log:
            message = termination_message(self.state.ledger.results, time.time())
            try:
                Path(self.settings.termination_log).write_bytes(message)  # in place: a cluster mounts this one file
            except OSError as error:
                self.say(f"cannot write {self.settings.termination_log}: {error.strerror}")
        self.reporter.flush(FLUSH_S)
        self.output.stop(FLUSH_S)
        self.keeper.close(KEEP_S)
