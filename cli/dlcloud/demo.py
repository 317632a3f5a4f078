"""`make demo`: a CNN learns handwritten digits with two workers, one of them is killed, and the job goes on.

May import this package. Everything lies below one folder (`.demo` in a checkout); nothing outlives the command.
"""

from __future__ import annotations

import argparse
import asyncio
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from dlcloud_operator.api import Phase, TrainingJob

from .curve_picture import PictureStyle, write_picture
from .curve_text import terminal_lines
from .ending import RunFacts, ending_lines
from .exits import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, EXIT_USAGE
from .follow import follow
from .history import SavedCheckpoint, curve_of, read_checkpoints
from .home import make_run_folder, program, short
from .jobs.owner import log_to
from .manifest import ManifestErrors, load_manifest
from .metrics import Record, merge, read_records
from .objects import ObjectInfo, StoreError, open_reader
from .output import Output
from .sabotage import Recovery, kill_rank
from .session import LocalSession, SessionError, StoreSettings
from .stopping import StopRequests
from .view.snapshot import EventLine, Snapshot
from .view.terminal import open_view
from .view.words import clock, duration, size

PROJECT = Path(__file__).resolve().parents[2]
MANIFEST = Path("manifests") / "cnn-digits.yaml"
VICTIM = 1


@dataclass
class Act:
    """What the demo learns while the job runs."""

    recovery: Recovery | None = None
    records: list[Record] = field(default_factory=list)
    checkpoints: list[SavedCheckpoint] = field(default_factory=list)
    stored: list[ObjectInfo] = field(default_factory=list)
    prefix: str = ""
    problem: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; 0 when the job succeeded."""
    parser = argparse.ArgumentParser(
        prog="python -m dlcloud.demo", description="Train, lose a worker's process, go on."
    )
    parser.add_argument("--out", type=Path, help="folder for what the demo writes [default: .demo in the project]")
    parser.add_argument("--keep", action="store_true", help="keep the data of the S3 server")
    parser.add_argument("--plain", action="store_true", help="plain lines, also on a terminal")
    options = parser.parse_args(arguments)
    out, err = Output(sys.stdout), Output(sys.stderr)
    folder = (options.out or PROJECT / ".demo").absolute()
    try:
        job = load_manifest(PROJECT / MANIFEST)
        run_dir = make_run_folder(folder, job.metadata.name, datetime.now(UTC))
    except ManifestErrors as errors:
        err.line(f"{errors}\nthe demo needs a checkout of the project, with {MANIFEST} in it")
        return EXIT_USAGE
    except OSError as error:
        err.line(f"{folder}: {error.strerror or error}; give a folder that can be written with --out DIR")
        return EXIT_USAGE
    try:
        return asyncio.run(_demo(job, run_dir, out, err, plain=options.plain, keep=options.keep))
    finally:
        if not options.keep:
            shutil.rmtree(run_dir / "store", ignore_errors=True)


async def _demo(job: TrainingJob, run_dir: Path, out: Output, err: Output, *, plain: bool, keep: bool) -> int:
    log_to(run_dir)
    out.line(f"A CNN learns 1,797 handwritten digits on {job.spec.workers.count} workers: processes of this")
    out.line("machine, with an S3 server of their own. After the first checkpoint one worker's")
    out.line("process is killed, and the job goes on.")
    session = LocalSession(job, run_dir, StoreSettings(None, run_dir / "store"), PROJECT)
    act = Act()
    view = open_view(out, sys.stdout, plain=plain, show_log=False)

    async def kill_one(session: LocalSession) -> None:
        act.recovery = await kill_rank(session, VICTIM, told)

    def told(text: str) -> None:
        session.tracker.events([EventLine(datetime.now(UTC), "Demo", text, warning=True)])

    async def read_store(session: LocalSession) -> None:
        if session.phase is Phase.SUCCEEDED:
            await asyncio.to_thread(_read_store, session, act)

    with StopRequests() as stop:
        try:
            code, last = await follow(session, view, out, stop, beside=kill_one, at_end=read_store)
        except SessionError as error:
            err.line(str(error))
            return stop.exit_code or EXIT_FAILED
        if code == EXIT_OK:
            lines = _report(job, last, act, run_dir, keep=keep)
        elif stop.exit_code:
            lines = [f"The demo was stopped after {duration(last.elapsed)}; nothing of it runs any more."]
        else:
            lines = ending_lines(last, code, RunFacts(run_dir, (), checkpoints=False))
        for line in lines:
            out.line(line)
    return code


def _read_store(session: LocalSession, act: Act) -> None:
    """What the job left on S3, while the server still answers."""
    prefix = act.prefix = session.checkpoint_prefix
    try:
        reader = open_reader(prefix, session.access)
        act.records, act.checkpoints = read_records(reader), read_checkpoints(reader)
        act.stored = reader.list()
    except StoreError as error:
        act.problem = str(error)


def _report(job: TrainingJob, last: Snapshot, act: Act, run_dir: Path, *, keep: bool) -> list[str]:
    """What the user came for: accuracy, curve, checkpoints, the price of the kill, and where to go from here."""
    curve = curve_of(act.records, act.checkpoints)
    if act.recovery is not None:  # a round that dies within its first seconds leaves no metrics to tell of it
        curve = replace(curve, restarts=[act.recovery.resumed_from_step])
    accuracy = _test_accuracy(act.records, last)
    restarted = f"{last.restarts} restart{'s' * (last.restarts != 1)}"
    title = f"{job.metadata.name}: {job.spec.workers.count} workers, {restarted}"
    png = run_dir.parent / "learning-curve.png"
    lines = ["", *terminal_lines(curve), ""]
    lines.append(f"test accuracy     {accuracy:.2%}" if accuracy is not None else "test accuracy     not measured")
    lines.append(f"time              {duration(last.elapsed)}, {restarted}")
    lines += _kill_lines(act.recovery)
    lines += _checkpoint_lines(act)
    try:
        title += f", test accuracy {accuracy:.1%}" if accuracy is not None else ""
        write_picture(curve, png, PictureStyle(title=title))
        lines.append(f"learning curve    {short(png)}")
    except OSError as error:
        lines.append(f"learning curve    not written: {png}: {error.strerror}")
    return lines + _next_lines(run_dir, keep=keep)


def _test_accuracy(records: Sequence[Record], last: Snapshot) -> float | None:
    measured = [r.values["accuracy"] for r in merge(records) if r.kind == "test" and "accuracy" in r.values]
    if measured:
        return measured[-1]
    return last.progress.metrics.get("testAccuracy") if last.progress else None


def _kill_lines(recovery: Recovery | None) -> list[str]:
    if recovery is None:
        return ["cost of the kill  not measured: the job ended first"]
    steps = recovery.repeated_steps
    again = f"{steps} step{'s' * (steps != 1)} done again, from {recovery.resumed_from_step} on"
    return [f"cost of the kill  {recovery.seconds:.2f} s until the next step, {again}"]


def _checkpoint_lines(act: Act) -> list[str]:
    if act.problem:
        return [f"checkpoints       {act.problem}"]
    lines = ["checkpoints", f"  {act.prefix}"]
    for saved in act.checkpoints:
        at = clock(saved.created_at) if saved.created_at else ""
        extra = ", kept as the best" if saved.pinned else ""
        lines.append(f"  step {saved.step:<6} {size(saved.size_bytes):>10}  {at}  round {saved.round}{extra}")
    total = sum(info.size_bytes for info in act.stored)
    return [*lines, f"  in all {len(act.stored)} objects, {size(total)}"]


def _next_lines(run_dir: Path, *, keep: bool) -> list[str]:
    word = shlex.join(program())
    return [
        f"S3 data           {short(run_dir / 'store') if keep else 'removed; --keep would keep it'}",
        f"workers' output   {short(run_dir / 'pods')}",
        "",
        "Next:",
        f"  {word} run {MANIFEST} --local --workers 4",
        f"  {word} run manifests/script-ddp.yaml --local    # a program of your own",
        f"  {word} validate my-job.yaml                     # every mistake, with its line",
    ]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
