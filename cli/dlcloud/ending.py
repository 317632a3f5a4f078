"""The last words of a run: how it ended, where its work is, how to go on.

May import the API and the views' words. Pure: values in, lines out.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dlcloud_operator.api import Failure, Phase

from .exits import EXIT_BROKEN_PIPE, EXIT_HUNG_UP, EXIT_INTERRUPTED, EXIT_SUSPENDED, EXIT_TERMINATED
from .home import short
from .view.snapshot import Snapshot
from .view.words import duration, metric_texts, number, printable

_LOG_LINES, _LINE = 12, 300
_STOPS = {
    EXIT_INTERRUPTED: "by Ctrl-C",
    EXIT_TERMINATED: "by SIGTERM",
    EXIT_HUNG_UP: "because its terminal is gone",
    EXIT_BROKEN_PIPE: "because nobody read its output",
    EXIT_SUSPENDED: "by dlcloud suspend",
}


@dataclass(frozen=True)
class RunFacts:
    """What the last words need beside the snapshot. `resume` is the command that goes on; empty: none does."""

    run_dir: Path | None
    resume: Sequence[str]
    checkpoints: bool
    killed: bool = False
    show_log: bool = True  # False: the user has seen the output already
    script: bool = False
    output: str = ""  # the command that shows the workers' output, where it is in no folder


def ending_lines(last: Snapshot, exit_code: int, facts: RunFacts) -> list[str]:
    """How the run ended, what is kept and what to do next."""
    if last.phase is Phase.SUCCEEDED:
        lines = [f"Succeeded after {duration(last.elapsed)}{_result(last)}"]
        lines += _output(last, facts) if facts.script else []
        if last.checkpoint:
            lines.append(f"checkpoint: step {last.checkpoint.step} at {last.checkpoint.uri}")
    elif last.phase is Phase.FAILED:
        lines = _failed(last, facts)
    else:
        lines = _stopped(last, exit_code, facts)
    return [*lines, f"output of the workers: {facts.output or f'{short(facts.run_dir or Path())}/pods/*/log'}"]


def _result(last: Snapshot) -> str:
    progress, parts = last.progress, []
    if progress is not None:
        if progress.step:
            parts.append(f"step {progress.step}")
        if progress.loss is not None:
            parts.append(f"loss {number(progress.loss)}")
        parts += metric_texts(progress.metrics)
    parts.append(f"{last.restarts} restart{'s' * (last.restarts != 1)}")
    return ": " + ", ".join(parts)


def _failed(last: Snapshot, facts: RunFacts) -> list[str]:
    lines = [f"Failed after {duration(last.elapsed)}: {last.message or 'no reason was given'}"]
    if last.failures:
        lines += _failure_lines(last.failures[-1], last.message)
    if not any("\n" in failure.message for failure in last.failures[-1:]):  # a traceback says more than the last lines
        lines += _output(last, facts)
    return lines + _go_on(last, facts, "after mending that, go on with", "after mending that, begin again with")


def _output(last: Snapshot, facts: RunFacts) -> list[str]:
    if not facts.show_log or not last.log:
        return []
    return ["last output:", *(f"  {printable(line)[:_LINE]}" for line in last.log[-_LOG_LINES:])]


def _failure_lines(failure: Failure, said: str) -> list[str]:
    where = [f"worker {failure.worker}"] * (failure.worker is not None) + [f"rank {failure.rank}"] * (
        failure.rank is not None
    )
    code = [f"exit code {failure.exit_code}"] * (failure.exit_code is not None)
    first, *rest = failure.message.strip().splitlines() or [""]
    seen = first in said and str(failure.reason) in said and not rest
    lines = [] if seen else [f"  {', '.join([*where, str(failure.reason), *code])}" + (f": {first}" if first else "")]
    return lines + [f"    {line}" for line in rest if line.strip()]


def _stopped(last: Snapshot, exit_code: int, facts: RunFacts) -> list[str]:
    told = (last.progress.step or 0) if last.progress else 0
    step = max(told, last.checkpoint.step if last.checkpoint else 0)
    lines = [
        f"Stopped {_STOPS.get(exit_code, '')} after {duration(last.elapsed)}" + (f" at step {step}" if step else "")
    ]
    if facts.killed:
        lines[0] += ", the workers were killed"
    if last.checkpoint is None:
        nothing = "no checkpoint was written" if facts.checkpoints else "the job has no spec.checkpoint"
        lines.append(f"{nothing}: nothing was saved")
    return lines + _go_on(last, facts, "go on with", "begin again with")


def _go_on(last: Snapshot, facts: RunFacts, words: str, without_checkpoint: str) -> list[str]:
    saved = [f"saved: step {last.checkpoint.step} at {last.checkpoint.uri}"] if last.checkpoint else []
    command = shlex.join(facts.resume)
    return saved + ([f"{words if saved else without_checkpoint}: {command}"] if command else [])
