"""The runs of this machine as a source of jobs: folders below $DLCLOUD_HOME/runs, and links to those elsewhere.

May import this package; what is slow only where it is needed. Nothing is ever deleted here but by `remove`.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path

from dlcloud_operator.api import Phase, TrainingJob
from dlcloud_operator.core.model import JobView

from ..home import short
from ..local.state import JOB_FILE, LoggedEvent, read_job
from ..objects import Access
from ..view.snapshot import EventLine
from .errors import JobNotFound, JobsError
from .local_logs import FileLogs
from .run_folder import (
    SUSPEND,
    is_held,
    read_info,
    request_stop,
    requested_stop,
    run_ids,
    runs_folder,
)
from .source import INTERRUPTED, JobRecord, LogReader

STARTING = "Starting"
_POLL_S = 0.1


class LocalRuns:
    """A JobSource. `problems` holds a line for each folder that `records` could not read."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._environ = environ
        self._runs = runs_folder(environ)
        self.problems: list[str] = []

    @property
    def where(self) -> str:
        """The place in words."""
        return f"local runs in {short(self._runs)}"

    def records(self) -> list[JobRecord]:
        """All runs, newest first; what cannot be read is left out and told in `problems`."""
        self.problems = []
        try:
            os.scandir(self._runs).close()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise JobsError(f"{self._runs}: {error.strerror}; see to it, or set $DLCLOUD_HOME") from None
        found = []
        for name in run_ids(self._environ):
            try:
                found.append(self._record(name, self._runs / name))
            except JobsError as error:
                self.problems.append(str(error))
        return sorted(found, key=lambda record: record.job.created_at, reverse=True)

    def find(self, name: str) -> JobRecord:
        """The run of this id, the newest of this job's name, or the one in this folder. Raises JobNotFound."""
        if (os.sep in name or name in (".", "..")) and (Path(name) / JOB_FILE).exists():
            folder = Path(name).resolve()
            return self._record(self.id_of(folder), folder)
        ids = run_ids(self._environ)
        if name in ids:
            return self._record(name, self._runs / name)
        candidates = []
        for one in ids:
            if one.startswith(f"{name}-"):
                with contextlib.suppress(JobsError):
                    candidates.append(self._record(one, self._runs / one))
        named = [record for record in candidates if record.job.key.name == name]
        if named:
            return max(named, key=lambda record: record.job.created_at)
        raise JobNotFound(self._not_found(name, ids))

    def events(self, record: JobRecord) -> list[EventLine]:
        """What happened to the job, oldest first."""
        _, events = read_run(self._folder(record))
        return [EventLine(e.at, e.event.reason, e.event.message, e.event.warning) for e in events]

    def access(self, record: JobRecord) -> AbstractContextManager[Access | None]:
        """A way to the job's objects; an embedded server is started when none runs. Entering raises JobsError."""
        from .local_store import store_access

        uri = record.checkpoint_prefix
        if not uri.startswith("s3://"):
            return contextlib.nullcontext(None)
        return store_access(uri, record.job.spec, read_info(self._folder(record)))

    def logs(self, record: JobRecord) -> LogReader:
        """The pods' log files; they stay as long as the run's folder."""
        return FileLogs(self._folder(record))

    def suspend(self, record: JobRecord, *, wait_s: float, tell: Callable[[str], None]) -> JobRecord:
        """Ask the run's process to save and stop, and wait for its end. Raises JobsError when that takes too long."""
        folder = self._folder(record)
        asked, told, give_up = "", "", time.monotonic() + wait_s
        while is_held(folder):
            mark = _newest_mark(folder)
            if mark and mark != asked and not requested_stop(folder, mark):
                try:
                    request_stop(folder, mark, SUSPEND)
                except OSError as error:
                    raise JobsError(f"{folder}: {error.strerror}; the run cannot be asked to stop") from None
                asked = mark
            record = self._again(record)
            if record.message != told and record.phase != Phase.SUSPENDED:  # then it only has to leave
                told = record.message
                tell(told)
            if time.monotonic() > give_up:
                raise JobsError(
                    f"{record.id}: has not stopped within {wait_s:.0f} s; it was asked to and may still be saving. "
                    f"Look again with `dlcloud describe {record.id}`, or end it with `dlcloud rm --force {record.id}`"
                )
            time.sleep(_POLL_S)
        return self._again(record)

    def create(self, job: TrainingJob) -> JobRecord:
        """Run a job in the background, with its folder and store where they are by default."""
        from .background import start_new

        return self.find(start_new(job, self._environ))

    def resume(self, record: JobRecord) -> JobRecord:
        """Let a stopped run go on, in the background. Raises JobsError when it runs, is done, or cannot start."""
        from .background import start_again

        start_again(record)
        return self._again(record)

    def remove(self, record: JobRecord, *, objects: bool) -> list[str]:
        """Delete a run's folder, with `objects` what it stored, too; the answer says what was freed."""
        from .removal import remove_run

        return remove_run(self, record, self._runs, objects=objects)

    def id_of(self, folder: Path) -> str:
        """The name commands take for this folder's run."""
        for name in run_ids(self._environ):
            if (self._runs / name).resolve() == folder:
                return name
        return str(folder)

    # --- inside ---

    def _again(self, record: JobRecord) -> JobRecord:
        return self._record(record.id, self._folder(record))

    def _folder(self, record: JobRecord) -> Path:
        if record.run_dir is None:
            raise JobsError(f"{record.id}: is no local run")
        return record.run_dir

    def _record(self, name: str, path: Path) -> JobRecord:
        folder = path.resolve()
        if path.is_symlink() and not folder.exists():
            raise JobsError(f"{name}: its folder {folder} is gone; remove the entry with `dlcloud rm {name}`")
        running = is_held(folder)
        job, _ = read_run(folder)
        phase = job.status.phase
        ended = phase in (Phase.SUCCEEDED, Phase.FAILED, Phase.SUSPENDED)
        if not running and not ended:
            running = is_held(folder)  # it may have been taken up again since the first look
        if running or ended:
            message = job.status.message
            if phase is Phase.SUSPENDED and not running:
                message = f"suspended; go on with `dlcloud resume {name}`"
            return JobRecord(name, job, str(phase or STARTING), message, folder, running)
        return JobRecord(name, job, INTERRUPTED, _interrupted(name, job, folder), folder, False)

    def _not_found(self, name: str, ids: list[str]) -> str:
        if not ids:
            return f"{name}: there is no run yet in {short(self._runs)}; begin with: dlcloud run JOB.yaml --local"
        near = difflib.get_close_matches(name, [*ids, *{one.rsplit("-", 2)[0] for one in ids}], 3, 0.5)
        hint = f"did you mean {', '.join(near)}?" if near else "see `dlcloud ls --local`"
        return f"{name}: there is no such run in {short(self._runs)}; {hint}"


def read_run(folder: Path) -> tuple[JobView, tuple[LoggedEvent, ...]]:
    """The job of a run's folder, and its events. Raises JobsError when it is missing or damaged."""
    try:
        found = read_job(folder)
    except OSError as error:
        raise JobsError(f"{folder}: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError) as error:
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise JobsError(f"{folder / JOB_FILE}: is damaged ({what}); `dlcloud rm {folder.name}` removes it") from None
    if found is None:
        raise JobsError(f"{folder}: holds no {JOB_FILE}; `dlcloud rm {folder.name}` removes the rest of it")
    return found


def _newest_mark(folder: Path) -> str:
    try:
        stints = read_info(folder).stints
    except JobsError:
        return ""
    return stints[-1].mark if stints else ""


def _interrupted(name: str, job: JobView, folder: Path) -> str:
    go_on = f"go on with `dlcloud resume {name}`"
    if job.status.phase is None:
        return f"it never began; {go_on}"
    try:
        at = datetime.fromtimestamp((folder / JOB_FILE).stat().st_mtime)
    except OSError:
        return f"its process is gone; {go_on}"
    return f"its process is gone since {at:%Y-%m-%d %H:%M:%S}; {go_on}"
