"""A run as plain lines, one for each transition, epoch and checkpoint: for files, pipes and CI.

May import the API and this package. Pure: a snapshot in, new lines out. It must never repeat a line.
"""

from __future__ import annotations

from datetime import datetime

from dlcloud_operator.api import Phase, Progress
from dlcloud_operator.core.conditions import RECOVERED
from dlcloud_operator.core.time_left import seconds_left

from .snapshot import Snapshot
from .words import clock, duration, metric_texts, number, size

_QUIET_S = 30.0  # a long epoch still shows a line this often
_SETTLED_S = 1.0  # a message that changes sooner is not worth a line


class PlainLines:
    """Turns snapshots into lines; remembers what was said."""

    def __init__(self, *, show_log: bool) -> None:
        self._show_log = show_log
        self._stage: tuple[object, ...] = ()
        self._message = ""
        self._said = ""
        self._new_message: tuple[str, datetime] | None = None
        self._epoch: int | None = None
        self._said_progress: Progress | None = None
        self._said_at: datetime | None = None
        self._checkpoint_step: int | None = None
        self._events_from: datetime | None = None
        self._warning = ""
        self._log_total = 0
        self._stopping = ""

    def lines(self, now: Snapshot) -> list[str]:
        """What is new in this snapshot, oldest first."""
        result = self._log(now)
        result += self._progress(now)
        result += self._checkpoint(now)
        result += self._warnings(now)
        result += self._transition(now)
        if now.stopping != self._stopping:
            self._stopping = now.stopping
            if now.stopping:
                result.append(f"{clock(now.now)}  {now.stopping}")
        return result

    def _log(self, now: Snapshot) -> list[str]:
        new = now.log_total - self._log_total
        self._log_total = now.log_total
        if not self._show_log or new <= 0:
            return []
        lines = list(now.log[-new:])
        missed = new - len(lines)
        return [f"({missed} lines of output left out; the log file has them)"] * bool(missed) + lines

    def _transition(self, now: Snapshot) -> list[str]:
        stage = (now.phase, now.round_number if now.phase is Phase.RUNNING else 0)
        if now.phase is None or (stage == self._stage and not self._message_settled(now)):
            return []
        self._stage, self._message, self._new_message = stage, now.message, None
        if now.phase.finished or (now.phase is Phase.SUSPENDED and now.stopping):
            return []  # the last words say it
        text = str(now.phase)
        if now.phase is Phase.RUNNING and now.round_number:
            text += f", round {now.round_number} with {now.world_size} rank{'s' * (now.world_size != 1)}"
            text += f", {now.restarts} restart{'s' * (now.restarts != 1)}" if now.restarts else ""
        # While it runs, what follows the first clause is the story so far: the warnings have told it.
        message = now.message.partition("; ")[0] if now.phase is Phase.RUNNING else now.message
        if self._warning and self._warning in message:
            message = ""
        text += f": {message}" if message else ""
        if text == self._said:  # what changed is in a later clause
            return []
        self._said = text
        return [f"{clock(now.now)}  {text}"]

    def _message_settled(self, now: Snapshot) -> bool:
        """Whether there is a new message that has stayed for a while."""
        if now.message in (self._message, ""):
            self._new_message = None
            return False
        if self._new_message is None or self._new_message[0] != now.message:
            self._new_message = (now.message, now.now)
        return (now.now - self._new_message[1]).total_seconds() >= _SETTLED_S

    def _progress(self, now: Snapshot) -> list[str]:
        progress = now.progress
        if progress is None or progress == self._said_progress or not progress.step:
            return []
        ended = now.phase is not None and now.phase.finished
        new_epoch = progress.epoch != self._epoch
        long_ago = self._said_at is not None and (now.now - self._said_at).total_seconds() >= _QUIET_S
        if not (new_epoch or long_ago or ended):
            return []
        self._epoch, self._said_progress, self._said_at = progress.epoch, progress, now.now
        return [f"{clock(now.now)}  {progress_text(progress)}"]

    def _checkpoint(self, now: Snapshot) -> list[str]:
        saved = now.checkpoint
        if saved is None or saved.step == self._checkpoint_step:
            return []
        self._checkpoint_step = saved.step
        text = f"checkpoint at step {saved.step}" + (f" ({size(saved.size_bytes)})" if saved.size_bytes else "")
        return [f"{clock(saved.committed_at)}  {text}"]

    def _warnings(self, now: Snapshot) -> list[str]:
        new = [e for e in now.events if self._events_from is None or e.at > self._events_from]
        if new:
            self._events_from = max(e.at for e in new)
        told = [e for e in new if e.reason == RECOVERED or (e.warning and e.reason != Phase.FAILED)]
        self._warning = next((e.message for e in reversed(told) if e.warning), self._warning)
        return [f"{clock(e.at)}  {e.reason}: {e.message}" for e in told]


def progress_text(progress: Progress) -> str:
    """`epoch 3/10, step 420/1400, loss 0.31, validation accuracy 91.2%, 4,100 samples/s, 12s to go`."""
    parts = []
    if progress.epoch is not None:
        parts.append(f"epoch {progress.epoch}" + (f"/{progress.epochs}" if progress.epochs else ""))
    parts.append(f"step {progress.step}" + (f"/{progress.total_steps}" if progress.total_steps else ""))
    if progress.loss is not None:
        parts.append(f"loss {number(progress.loss)}")
    parts += metric_texts(progress.metrics)
    if progress.samples_per_second:
        parts.append(f"{progress.samples_per_second:,.0f} samples/s")
    left = seconds_left(progress)
    if left:
        parts.append(f"{duration(left)} to go")
    return ", ".join(parts)
