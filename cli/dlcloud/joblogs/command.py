"""`dlcloud logs`: show what there is, and with -f what comes, until the job has ended.

May import this package, the jobs' protocol and the output. The store is asked only for pods whose output is nowhere
else: for a local run that would mean to start its server.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..exits import EXIT_BROKEN_PIPE, EXIT_OK
from ..formats import Format
from ..jobs.errors import JobNotFound, JobsError, Unreachable
from ..jobs.source import JobRecord, JobSource, LogLine, LogReader
from ..objects import StoreError, open_reader
from ..output import Output
from .lines import Line, Selection, as_json, split_line
from .stored import StoredLogs, pod_order

POLL_S = 0.3
RECORD_S = 2.0  # so often is the job looked at
STORE_S = 3.0  # and the store, for pods that are gone
_BATCH = 1000
_LARGE = 512 * 1024  # a reader that hands out so much at once has more
_STAMP = 32  # what the kubelet puts before a line, which counts for its limits


@dataclass(frozen=True)
class LogOptions:
    """What the user asked for."""

    selection: Selection
    follow: bool = False
    tail: int | None = None
    form: Format = Format.TEXT


def logs_command(source: JobSource, name: str, options: LogOptions, out: Output, err: Output) -> int:
    """Show the output of a job; 0, or 141 when nobody reads it any more. Raises JobsError."""
    record = source.find(name)
    with contextlib.ExitStack() as stack:
        follower = _Follower(source, record, options, err, stack)
        for lines in follower.batches():
            if lines:
                out.line("\n".join(lines))
            if out.gone:
                return EXIT_BROKEN_PIPE
    return EXIT_OK


class _Follower:
    """Where the lines come from, and which of them were shown."""

    def __init__(
        self, source: JobSource, record: JobRecord, options: LogOptions, err: Output, stack: contextlib.ExitStack
    ) -> None:
        self._source, self._record, self._options, self._err, self._stack = source, record, options, err, stack
        self._live: LogReader | None = None
        self._live_pods: set[str] = set()
        self._stored: StoredLogs | None = None
        self._store_fails = False
        self._seen = False

    def batches(self) -> Iterator[list[str]]:
        """Texts to write, and now and then nothing: then is the time to look whether anybody reads."""
        self._open_live()
        live = list(self._read_live(until_quiet=True))
        yield from self._texts(self._first([*self._read_stored(last=not self._record.running), *live]))
        if self._options.follow:
            yield from self._follow()
        if not self._seen:
            self._say_nothing_there()

    def _follow(self) -> Iterator[list[str]]:
        looked_at = stored_at = time.monotonic()
        while True:
            running = self._record.running
            lines = list(self._read_live(until_quiet=not running, rest=not running))
            now = time.monotonic()
            if not running or now - stored_at >= STORE_S:
                lines += self._read_stored(last=not running)
                stored_at = time.monotonic()
            yield from self._texts(lines)
            if not running:
                return
            if now - looked_at >= RECORD_S:
                looked_at = now
                self._look_again()
                if self._live is None:
                    self._open_live()
            yield []
            time.sleep(POLL_S)

    def _look_again(self) -> None:
        try:
            self._record = self._source.find(self._record.id)
        except JobNotFound as error:
            raise JobsError(f"{self._record.id}: was deleted meanwhile") from error
        except Unreachable:
            return  # the output may come all the same; and if not, the next look may work

    def _open_live(self) -> None:
        self._live = self._source.logs(self._record)
        if self._live is not None:
            self._stack.callback(self._live.close)

    def _read_live(self, *, until_quiet: bool, rest: bool = False) -> Iterator[LogLine]:
        while self._live is not None:
            lines = self._live.poll(rest=True) if rest else self._live.poll()
            self._live_pods.update(line.pod for line in lines)
            yield from lines
            if not until_quiet or sum(len(line.text) + _STAMP for line in lines) < _LARGE:
                return

    def _read_stored(self, *, last: bool) -> Iterator[LogLine]:
        """What only the store has. A store that fails is said once; it is an error when there is nothing else."""
        if not self._record.checkpoint_prefix or self._store_fails or not self._misses_pods():
            return
        options = self._options

        def wants_pod(pod: str) -> bool:
            return pod not in self._live_pods and options.selection.wants_pod(pod)

        def wanted(line: LogLine) -> int:
            return sum(map(options.selection.wants, split_line(line)))

        try:
            if self._stored is None:
                access = self._stack.enter_context(self._source.access(self._record))
                self._stored = StoredLogs(open_reader(self._record.checkpoint_prefix, access))
            yield from self._stored.poll(wants_pod, tail=options.tail, wanted=wanted, last=last)
        except (StoreError, JobsError) as error:
            if not self._live_pods and not options.follow:
                raise error if isinstance(error, JobsError) else Unreachable(str(error)) from None
            self._store_fails = True
            self._err.line(f"the output of pods that are gone cannot be read: {error}")

    def _misses_pods(self) -> bool:
        """Whether pods there were have no output in the live source."""
        if self._stored is not None or not self._live_pods:
            return True
        folder = self._record.run_dir
        newest = self._record.job.status.recovery.incarnations
        for index, incarnation in newest.items():
            for number in range(1, incarnation + 1):
                pod = f"{self._record.job.key.name}-{index}-{number}"
                silent = folder is not None and (folder / "pods" / pod).exists()
                if pod not in self._live_pods and not silent and self._options.selection.wants_pod(pod):
                    return True
        return False

    def _first(self, lines: Iterable[LogLine]) -> Iterable[LogLine]:
        """All of them, or of every pod the last ones."""
        tail, selection = self._options.tail, self._options.selection
        if tail is None:
            yield from lines
            return
        newest: dict[str, deque[LogLine]] = {}
        for line in lines:
            if any(map(selection.wants, split_line(line))):
                newest.setdefault(line.pod, deque(maxlen=tail)).append(line)
        for pod in sorted(newest, key=pod_order):
            yield from newest[pod]

    def _texts(self, lines: Iterable[LogLine]) -> Iterator[list[str]]:
        batch: list[str] = []
        for line in lines:
            self._seen = True
            batch += [self._text(part) for part in split_line(line) if self._options.selection.wants(part)]
            if len(batch) >= _BATCH:
                yield batch
                batch = []
        yield batch

    def _text(self, line: Line) -> str:
        return as_json(line) if self._options.form is Format.JSON else self._options.selection.show(line)

    def _say_nothing_there(self) -> None:
        record = self._record
        if record.running:
            self._err.line(f"{record.id}: no output yet ({record.phase})")
        else:
            where = "none is on the store" if record.checkpoint_prefix else "it goes with them without spec.checkpoint"
            self._err.line(f"{record.id}: there is no output: the workers wrote none, or their pods are gone ({where})")
