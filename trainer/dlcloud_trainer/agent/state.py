"""What the agent decides: a state machine over instructions, rank events and time, answering with effects.

May import the standard library only. No I/O, no clock (`Moment` is passed in), no thread: a test feeds it values. The
edge (`app`) calls one method per happening, in order, and carries out the effects in order.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

from .ledger import Ledger, Rank
from .outcome import (
    ERROR,
    FORK_HANG,
    OUT_OF_MEMORY,
    STOPPED,
    SUCCEEDED,
    Ending,
    describe_code,
    judge,
    shorten,
    signal_name,
)
from .values import Exit, Launch, Moment, OfferPort, RankId, Report, RestartZygote, Say, Signal, StartZygote

if TYPE_CHECKING:
    from .values import Assignment, Effect, Finished

KILL_LIMIT_S = 5.0  # a rank not reaped this long after SIGKILL is given up, with the zygote that should have told
SILENCE_S = 600.0

# The zygote as the state knows it. FAILED: its imports failed and no round was charged for it yet. DOWN: not running.
STARTING, READY, FAILED, ABSENT, DOWN = "starting", "ready", "failed", "absent", "down"


class AgentState:
    """One agent's state. Every `on_` method and `tick` return the effects to carry out."""

    def __init__(self, ledger: Ledger, *, drain_s: float, fork_limit_s: float) -> None:
        self.ledger, self.workload = ledger, ledger.workload
        self.drain_s, self.fork_limit_s = drain_s, fork_limit_s
        self.begun = False  # the current round's ranks were asked for
        self.live: dict[RankId, Rank] = {}  # asked for and not reaped, of this round or the one before
        self.zygote = STARTING
        self.zygote_failure: tuple[str, int | None, str] = (ERROR, None, "")
        self.oom_baseline: int | None = None
        self.drain_deadline: float | None = None
        self.leave_deadline: float | None = None
        self.finished: Finished | None = None
        self.succeeded_at: float | None = None
        self.told_at = 0.0  # when the current round's instruction came

    @property
    def draining(self) -> bool:
        """The pod was told to end."""
        return self.drain_deadline is not None

    def on_assignment(self, assignment: Assignment, at: Moment) -> list[Effect]:
        """A round newer than all before ends the current one; any other is ignored."""
        if assignment.round <= self.ledger.round or self.draining or self.finished:
            return []
        effects = [*self._abandon(at), *self._kill(at)]
        self.ledger.open_round(assignment)
        self.begun, self.succeeded_at, self.told_at = False, None, at.mono
        return [*effects, Report(urgent=True), *self._go_on(at)]

    def on_finished(self, finished: Finished, at: Moment) -> list[Effect]:
        """The job is over: what still runs is killed."""
        if self.finished:
            return []
        self.finished, self.leave_deadline = finished, at.mono + KILL_LIMIT_S
        return [*self._abandon(at), *self._kill(at), *self._go_on(at)]

    def on_zygote_ready(self, at: Moment) -> list[Effect]:
        """The zygote has imported everything and can fork."""
        self.zygote = READY
        return self._go_on(at)

    def on_zygote_absent(self, at: Moment) -> list[Effect]:
        """The image has no dlcloud_trainer: ranks are started cold from now on."""
        self.zygote = ABSENT
        return self._go_on(at)

    def on_zygote_ended(self, code: int, message: str, at: Moment) -> list[Effect]:
        """The zygote died, and its ranks with it; `code` is negative for a signal."""
        outcome, text = ERROR, message or f"the zygote ended with exit code {code} without a word"
        if code == -signal.SIGKILL and self._claim_oom(at):
            outcome = OUT_OF_MEMORY
            text = "the zygote was killed by the kernel: the pod's memory limit was reached; raise workers.memory"
        elif code < 0:
            text = f"the zygote was ended by {signal_name(-code)}" + (f": {message}" if message else "")
        effects: list[Effect] = []
        for rank in list(self.live.values()):
            if rank.stop_at is not None or self.draining:
                effects += self._end(rank.id, STOPPED, None, "", at)
            else:
                effects += self._end(rank.id, outcome, code, text, at)
        if self.zygote != READY:
            self.zygote, self.zygote_failure = FAILED, (outcome, code, text)
        elif self.draining or self.finished:
            self.zygote = DOWN
        else:  # a crash: start the next one now, so that the next round finds it warm
            self.zygote = STARTING
            effects.append(StartZygote())
        return [*effects, *self._go_on(at)]

    def on_event(self, id: RankId, event: dict[str, Any], at: Moment) -> list[Effect]:
        """A line a rank wrote."""
        rank = self.live.get(id)
        return self.ledger.hear(rank, event, at) if rank else []

    def on_rank_exit(self, id: RankId, code: int, tail: str, at: Moment, *, killed: bool = True) -> list[Effect]:
        """A rank was reaped; `code` is negative for a signal, `tail` the last words of its output. Not `killed`: it was
        over before any SIGKILL of this agent, which may have heard of the next round earlier than of this end."""
        rank = self.live.get(id)
        if rank is None:
            return []
        ending = Ending(
            code=code,
            script=not self.workload,
            failed=rank.failed,
            sent=frozenset(rank.sent if killed else rank.sent - {signal.SIGKILL}),
            stopping=rank.stop_at is not None,
            draining=self.draining,
            oom_kills=self._unclaimed_ooms(at),
            tail=tail,
        )
        outcome, message = judge(ending)
        if outcome == OUT_OF_MEMORY:
            self._claim_oom(at)
        return [*self._end(id, outcome, code, message, at), *self._go_on(at)]

    def on_launch_failed(self, id: RankId, message: str, at: Moment) -> list[Effect]:
        """A rank's process could not be made."""
        if id not in self.live:
            return []
        return [*self._end(id, ERROR, None, shorten(message), at), *self._go_on(at)]

    def on_sigterm(self, at: Moment) -> list[Effect]:
        """The pod is to end: ranks get SIGTERM and `drain_s` seconds. A second time changes nothing."""
        if self.draining or self.finished:
            return []
        self.drain_deadline = at.mono + self.drain_s
        effects: list[Effect] = [Say(f"told to end: ranks have {self.drain_s:g} s to save"), Report(urgent=True)]
        effects += self._abandon(at)
        for rank in self.live.values():
            rank.sent.add(signal.SIGTERM)
            effects.append(Signal(rank.id, signal.SIGTERM))
        return [*effects, *self._go_on(at)]

    def tick(self, at: Moment, heard_at: float) -> list[Effect]:
        """Time passes. `heard_at`: when the operator last answered anything (monotonic s)."""
        now = at.mono
        effects: list[Effect] = []
        if self.leave_deadline is not None and now >= self.leave_deadline:
            for id in list(self.live):
                effects += self._end(id, STOPPED, None, "not reaped after SIGKILL", at)
        elif self.drain_deadline is not None and now >= self.drain_deadline and self.leave_deadline is None:
            self.leave_deadline = now + KILL_LIMIT_S
            effects += [Say("the ranks did not end in time and are killed"), *self._kill(at, stopping=False)]
        elif not self.draining and not self.finished:
            effects += self._check_waits(at)
        if self.succeeded_at is not None and now - max(heard_at, self.succeeded_at) >= SILENCE_S:
            return [*effects, Say("all ranks succeeded and the operator is silent for 10 minutes"), Exit(0)]
        return [*effects, *self._go_on(at)] if effects else []

    def next_deadline(self, heard_at: float) -> float | None:
        """When `tick` has something to do at the latest (monotonic s), or None."""
        times: list[float] = []
        if self.leave_deadline is not None:
            times.append(self.leave_deadline)
        elif self.drain_deadline is not None:
            times.append(self.drain_deadline)
        else:
            times += [r.asked_at + self.fork_limit_s for r in self.live.values() if not r.forked and r.stop_at is None]
            times += [r.stop_at + KILL_LIMIT_S for r in self.live.values() if r.stop_at is not None]
        if self.succeeded_at is not None:
            times.append(max(heard_at, self.succeeded_at) + SILENCE_S)
        return min(times, default=None)

    def report(self, now: float) -> dict[str, Any]:
        """The report's content, without `sentAt`."""
        return self.ledger.report(now, self.draining)

    def _go_on(self, at: Moment) -> list[Effect]:
        """Leave, or begin the round that waits, once nothing of the last one is left."""
        assignment = self.ledger.assignment
        if self.live:
            return []
        if self.finished:
            return [Exit(self.finished.exit_code)]
        if self.draining:
            return [Exit(0 if self.ledger.succeeded else 128 + signal.SIGTERM)]
        if assignment is None or self.begun or self.zygote == STARTING:
            return []
        if self.zygote == DOWN:
            self.zygote = STARTING
            return [StartZygote()]
        self.begun, self.oom_baseline = True, at.oom_kills
        self.ledger.ranks = {rank: Rank(RankId(assignment.round, rank), at.mono) for rank in assignment.ranks}
        self.live = {rank.id: rank for rank in self.ledger.ranks.values()}
        effects: list[Effect] = [OfferPort(avoid=assignment.master_port)]
        if self.zygote == FAILED:
            self.zygote = DOWN
            return effects + self._end_all(*self.zygote_failure, at)
        if self.zygote == ABSENT and self.workload:
            message = "this image's python3 has no dlcloud_trainer, which a workload needs: use an image that has it"
            return effects + self._end_all(ERROR, None, message, at)
        cold = self.zygote == ABSENT
        effects += [Launch(id, assignment, local, cold) for local, id in enumerate(self.live)]
        after_ms = round((at.mono - self.told_at) * 1000)
        return [*effects, Say(f"{describe_round(assignment)} (begun {after_ms} ms after the operator's word)")]

    def _check_waits(self, at: Moment) -> list[Effect]:
        forking = [r for r in self.live.values() if not r.forked and r.stop_at is None]
        silent = [r for r in forking if at.mono - r.asked_at >= self.fork_limit_s]
        stuck = [r for r in self.live.values() if r.stop_at is not None and at.mono - r.stop_at >= KILL_LIMIT_S]
        effects: list[Effect] = []
        if silent:
            message = f"no sign of life within {self.fork_limit_s:g} s after the fork"
            effects += self._kill(at)
            for rank in list(self.live.values()):
                hung = rank in silent
                effects += self._end(rank.id, FORK_HANG if hung else STOPPED, None, message if hung else "", at)
        elif stuck:
            for rank in stuck:
                effects += self._end(rank.id, STOPPED, None, "not reaped after SIGKILL", at)
        if effects and self.zygote != ABSENT:
            self.zygote = STARTING
            effects.append(RestartZygote())
        return effects

    def _abandon(self, at: Moment) -> list[Effect]:
        """A round that still waits for its start will never have one."""
        if self.ledger.assignment is None or self.begun:
            return []
        self.begun = True
        for number in self.ledger.assignment.ranks:
            self.ledger.add_result(RankId(self.ledger.round, number), STOPPED, None, "", at)
        return [Report(urgent=True)]

    def _kill(self, at: Moment, stopping: bool = True) -> list[Effect]:
        for rank in self.live.values():
            rank.sent.add(signal.SIGKILL)
            if stopping and rank.stop_at is None:
                rank.stop_at = at.mono
        return [Signal(id, signal.SIGKILL) for id in self.live]

    def _end(self, id: RankId, outcome: str, code: int | None, message: str, at: Moment) -> list[Effect]:
        self.live.pop(id, None)
        self.ledger.add_result(id, outcome, code, message, at)
        if outcome == SUCCEEDED and self.ledger.succeeded:
            self.succeeded_at = at.mono
        how = f"{outcome}" + ("" if code is None or outcome == SUCCEEDED else f" ({describe_code(code)})")
        return [Report(urgent=True), Say(f"round {id.round}: rank {id.rank} ended: {how}")]

    def _end_all(self, outcome: str, code: int | None, message: str, at: Moment) -> list[Effect]:
        return [effect for id in list(self.live) for effect in self._end(id, outcome, code, message, at)]

    def _claim_oom(self, at: Moment) -> bool:
        """Whether the kernel killed a process nobody has accounted for; each is accounted for once."""
        if self.oom_baseline is None or not self._unclaimed_ooms(at):
            return False
        self.oom_baseline += 1
        return True

    def _unclaimed_ooms(self, at: Moment) -> int:
        if at.oom_kills is None or self.oom_baseline is None:
            return 0
        return max(0, at.oom_kills - self.oom_baseline)


def describe_round(assignment: Assignment) -> str:
    """`round 3: ranks 0, 1 of 4, master 10.0.0.7:29503`."""
    ranks = ", ".join(map(str, assignment.ranks))
    plural = "s" if len(assignment.ranks) > 1 else ""
    master = f"{assignment.master_addr}:{assignment.master_port}"
    return f"round {assignment.round}: rank{plural} {ranks} of {assignment.world_size}, master {master}"
