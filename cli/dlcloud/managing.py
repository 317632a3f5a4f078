"""`dlcloud ls|describe|suspend|resume`: the work behind the options, on whatever place the jobs are.

May import this package. Waiting can always be ended by Ctrl-C: what was asked of a job still happens.
"""

from __future__ import annotations

from datetime import UTC, datetime

from dlcloud_operator.api import Phase

from .exits import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK
from .formats import Format, document_text
from .jobs.errors import JobsError
from .jobs.source import INTERRUPTED, JobRecord
from .listing import describe_document, describe_lines, list_document, list_lines
from .output import Output
from .place import Place
from .watching import goes_on, watch

SHOWN = 20


def list_command(
    place: Place, out: Output, err: Output, form: Format, *, every: bool = False, all_namespaces: bool = False
) -> int:
    """Print the jobs; 0 also for none. What cannot be read is a line on `err`."""
    source = place.open(all_namespaces=all_namespaces)
    records = source.records()
    for problem in source.problems:
        err.line(problem)
    if form.for_machines:
        out.line(document_text(list_document(records), form))
        return EXIT_OK
    if not records:
        err.line(f"no jobs ({source.where}); begin with: {place.command('run', 'JOB.yaml')}")
        return EXIT_OK
    shown = records
    if not every and not place.in_cluster:
        shown = [record for n, record in enumerate(records) if n < SHOWN or record.running]
    for line in list_lines(shown, datetime.now(UTC), wide=form is Format.WIDE):
        out.line(line)
    if len(shown) < len(records):
        err.line(f"and {len(records) - len(shown)} older ones: dlcloud ls --all; `dlcloud rm --finished` clears up")
    return EXIT_OK


def describe_command(place: Place, name: str, out: Output, form: Format) -> int:
    """Print all that is known of one job. Raises JobsError."""
    source = place.open()
    record = source.find(name)
    events = source.events(record)
    if form.for_machines:
        out.line(document_text(describe_document(record, events), form))
        return EXIT_OK
    for line in describe_lines(record, events, datetime.now(UTC)):
        out.line(line)
    return EXIT_OK


def suspend_command(place: Place, name: str, out: Output, err: Output, *, wait_s: float) -> int:
    """Have a job save and stop. Raises JobsError when it has ended before, or does not stop in time."""
    source = place.open()
    record = source.find(name)
    if record.phase in (Phase.SUCCEEDED, Phase.FAILED):
        raise JobsError(f"{record.id}: has {record.phase.lower()}, there is nothing to suspend")
    if _stopped(record):
        out.line(f"{record.id} is {record.phase} already; go on with: {place.command('resume', record.id)}")
        return EXIT_OK
    try:
        after = source.suspend(record, wait_s=wait_s, tell=lambda text: out.line(f"{record.id}: {text}"))
    except KeyboardInterrupt:
        err.line(f"{record.id}: was asked to stop and still does; look with: {place.command('describe', record.id)}")
        return EXIT_INTERRUPTED
    saved = after.job.status.checkpoint
    out.line(f"{after.id} is {after.phase}" + (f", saved at step {saved.step}" if saved else ""))
    if after.phase in (Phase.SUCCEEDED, Phase.FAILED):
        return EXIT_OK if after.phase == Phase.SUCCEEDED else EXIT_FAILED
    out.line(f"go on with: {place.command('resume', after.id)}")
    return EXIT_OK


def resume_in_cluster(
    place: Place, name: str, out: Output, err: Output, *, plain: bool, logs: bool | None, detach: bool
) -> int:
    """Let a job of a cluster go on, and follow it. Raises JobsError."""
    source = place.open()
    record = source.resume(source.find(name))
    return follow_in_cluster(place, record, out, err, plain=plain, logs=logs, detach=detach)


def follow_in_cluster(
    place: Place, record: JobRecord, out: Output, err: Output, *, plain: bool, logs: bool | None, detach: bool
) -> int:
    """Follow a job of a cluster, or say how to."""
    if detach:
        out.line(goes_on(record.id, place.command))
        return EXIT_OK
    return watch(place.open(), record, out, err, plain=plain, logs=logs, command=place.command)


def _stopped(record: JobRecord) -> bool:
    if record.phase == INTERRUPTED:
        return True
    return record.phase == Phase.SUSPENDED and (not record.running or record.run_dir is None)
