"""What every command needs of a place where jobs are, as a protocol: local runs (`local_runs`), a cluster (`cluster`).

May import the API, the core's values and this package's objects and views. No implementation lives here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dlcloud_operator.api import API_VERSION, TrainingJob
from dlcloud_operator.core.model import JobView

from ..objects import Access
from ..view.snapshot import EventLine

INTERRUPTED = "Interrupted"  # a local run that did not end, and whose process is gone


@dataclass(frozen=True)
class JobRecord:
    """One job as it is now. `id` is what commands print and take: the run's folder name, or the name in a cluster."""

    id: str
    job: JobView
    phase: str  # what is true: the status' phase, or Interrupted
    message: str
    run_dir: Path | None = None  # local runs only
    running: bool = True  # local runs: whether its process is there; in a cluster: not finished

    @property
    def checkpoint_prefix(self) -> str:
        """Where the job's objects lie, with `/` at its end; empty without spec.checkpoint."""
        spec, key = self.job.spec, self.job.key
        if spec is None or spec.checkpoint is None:
            return ""
        return f"{spec.checkpoint.uri.rstrip('/')}/{key.namespace}/{key.name}/{self.job.uid}/"

    def document(self) -> dict[str, Any]:
        """The TrainingJob as `kubectl get -o json` gives it, for `-o json` and `-o yaml`."""
        job = self.job
        metadata: dict[str, Any] = {
            "name": job.key.name,
            "namespace": job.key.namespace,
            "uid": job.uid,
            "generation": job.generation,
            "creationTimestamp": job.created_at.isoformat(),
        }
        status = job.status.to_json()
        status |= {"phase": self.phase, "message": self.message}
        if self.run_dir is not None:
            metadata["annotations"] = {"dlcloud.dev/run": self.id, "dlcloud.dev/folder": str(self.run_dir)}
        return {
            "apiVersion": API_VERSION,
            "kind": "TrainingJob",
            "metadata": metadata,
            "spec": job.spec.to_json() if job.spec else {},
            "status": status,
        }


@dataclass(frozen=True)
class LogLine:
    """A line of a pod's output, without its line end; `text` still begins with its writer, as `[rank 0] `."""

    pod: str
    text: str


class LogReader(Protocol):
    """Hands out a job's output, oldest first within a pod."""

    def poll(self, *, rest: bool = False) -> list[LogLine]:
        """The complete lines that came since the last call, of every pod there is and was. Raises JobsError.

        `rest`: the job is over, and so no pod may be left for later.
        """
        ...

    def close(self) -> None:
        """Give back connections."""
        ...


class JobSource(Protocol):
    """The jobs of one place. Every method may raise JobsError."""

    @property
    def where(self) -> str:
        """The place in words, for messages: `local runs in ~/...`, `cluster kind-a, namespace default`."""
        ...

    @property
    def problems(self) -> Sequence[str]:
        """A line for each job that the last `records` had to leave out."""
        ...

    def records(self) -> list[JobRecord]:
        """All jobs, newest first."""
        ...

    def find(self, name: str) -> JobRecord:
        """The job of this id; locally also the newest run of a job of this name. Raises JobNotFound."""
        ...

    def events(self, record: JobRecord) -> list[EventLine]:
        """What happened to the job, oldest first."""
        ...

    def access(self, record: JobRecord) -> AbstractContextManager[Access | None]:
        """A way to the job's objects while the context lasts (a store of our own is started when it does not run); None
        for file://."""
        ...

    def logs(self, record: JobRecord) -> LogReader | None:
        """The output where the pods (or their files) still have it; None when only the store may."""
        ...

    def suspend(self, record: JobRecord, *, wait_s: float, tell: Callable[[str], None]) -> JobRecord:
        """Have the job save and stop, and wait for it; the answer is the job afterwards."""
        ...

    def create(self, job: TrainingJob) -> JobRecord:
        """Create a job as its manifest says, locally in the background; the answer is the job as it was accepted."""
        ...

    def resume(self, record: JobRecord) -> JobRecord:
        """Let a suspended or interrupted job go on, in the background locally."""
        ...

    def remove(self, record: JobRecord, *, objects: bool) -> list[str]:
        """Delete the job, with `objects` everything below its prefix on the store, too; what was freed, in lines."""
        ...
