"""Follow a job that others run: `dlcloud run` and `resume` in a cluster. Looking on changes nothing: Ctrl-C ends it.

May import the jobs' protocol and the views. Every look at the job is a request with limits of its own.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from dlcloud_operator.api import Phase

from .ending import RunFacts, ending_lines
from .exits import EXIT_BROKEN_PIPE, EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_SUSPENDED, EXIT_UNREACHABLE
from .jobs.errors import JobNotFound, JobsError, Unreachable
from .jobs.source import JobRecord, JobSource, LogReader
from .output import Output
from .view.snapshot import Snapshot, Tracker
from .view.terminal import PlainView, View, open_view

_LOOK_S = 1.0
_FRAME_S = 0.2
_EVENTS_EVERY = 3  # looks
_GIVE_UP = timedelta(minutes=10)
Command = Callable[..., str]


def watch(
    source: JobSource, record: JobRecord, out: Output, err: Output, *, plain: bool, logs: bool | None, command: Command
) -> int:
    """Show a job until its end or suspension; the answer is the exit code. `command` gives the words of a command."""
    script = record.job.spec is not None and record.job.spec.script is not None
    show_log = logs if logs is not None else script
    view = open_view(out, sys.stdout, plain=plain, show_log=show_log)
    look = _Look(source, record, with_log=show_log or not isinstance(view, PlainView))
    code = EXIT_FAILED
    try:
        code = _follow(look, view, out)
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except JobNotFound:
        err.line(f"{record.id}: is gone, somebody deleted it")
        return EXIT_FAILED
    except JobsError as error:
        err.line(f"{error}\n{goes_on(record.id, command)}")
        return EXIT_UNREACHABLE if isinstance(error, Unreachable) else EXIT_FAILED
    finally:
        view.close(look.snapshot())
        look.close()
    for line in _last_lines(look, code, script=script, shown=show_log and isinstance(view, PlainView), command=command):
        out.line(line)
    return code


class _Look:
    """What is seen of the job so far."""

    def __init__(self, source: JobSource, record: JobRecord, *, with_log: bool) -> None:
        self.record = record
        self.trouble = ""
        self._source = source
        self._with_log = with_log
        self._tracker = Tracker(record.job.key.name, datetime.now(UTC))
        self._tracker.job(record.job)
        self._reader: LogReader | None = None
        self._num_looks = 0
        self._events = 0
        self._unreachable_since: datetime | None = None

    def again(self) -> None:
        """Look at the job. Raises JobsError when it is gone, or out of reach for too long."""
        try:
            self._look()
            self.trouble, self._unreachable_since = "", None
        except Unreachable as error:
            now = datetime.now(UTC)
            self._unreachable_since = self._unreachable_since or now
            if now - self._unreachable_since > _GIVE_UP:
                raise
            self.trouble = f"cannot look at the job: {str(error).splitlines()[0]}; it goes on meanwhile"

    def _look(self) -> None:
        found = self._source.find(self.record.id)
        if found.job.uid != self.record.job.uid:
            raise JobNotFound(f"{found.id}: was deleted, and one of the same name created")
        self.record = found
        self._tracker.job(found.job)
        self._tracker.progress = found.job.status.progress
        if self._num_looks % _EVENTS_EVERY == 0 or self.ended:
            events = self._source.events(found)
            self._tracker.events(events[self._events :])
            self._events = len(events)
        self._num_looks += 1
        if self._with_log and (found.job.status.round is not None or self.ended):
            self._reader = self._reader or self._source.logs(found)
            if self._reader is not None:
                self._tracker.log(line.text for line in self._reader.poll())

    @property
    def ended(self) -> bool:
        """Whether there is nothing more to wait for."""
        phase = self.record.job.status.phase
        asked = self.record.job.spec is not None and self.record.job.spec.suspend
        return phase is not None and (phase.finished or (phase is Phase.SUSPENDED and asked))

    def snapshot(self) -> Snapshot:
        """The job as last seen; what only its agents tell (each rank's step) is not known here."""
        seen = self._tracker.snapshot(datetime.now(UTC))
        return replace(seen, ranks=(), stopping=self.trouble)

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()


def _follow(look: _Look, view: View, out: Output) -> int:
    while True:
        look.again()
        view.show(look.snapshot())
        if look.ended:
            break
        if out.closed_pipe:
            return EXIT_BROKEN_PIPE
        next_look = time.monotonic() + _LOOK_S
        while time.monotonic() < next_look:
            view.show(look.snapshot())
            time.sleep(_FRAME_S)
    return {Phase.SUCCEEDED: EXIT_OK, Phase.FAILED: EXIT_FAILED}.get(
        look.record.job.status.phase or Phase.FAILED, EXIT_SUSPENDED
    )


def _last_lines(look: _Look, code: int, *, script: bool, shown: bool, command: Command) -> list[str]:
    record = look.record
    if not look.ended or code == EXIT_INTERRUPTED:
        return [goes_on(record.id, command)]
    facts = RunFacts(
        run_dir=None,
        resume=shlex.split(command("resume", record.id)) if code == EXIT_SUSPENDED else [],
        checkpoints=record.checkpoint_prefix != "",
        show_log=not shown,
        script=script,
        output=command("logs", record.id),
    )
    return ending_lines(look.snapshot(), code, facts)


def goes_on(name: str, command: Command) -> str:
    """What to say of a job that is left alone."""
    return (
        f"{name} goes on\nfollow it:  {command('logs', '-f', name)}\n            {command('top', name)}\n"
        f"stop it:    {command('suspend', name)}"
    )
