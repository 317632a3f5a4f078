"""What stays on disk of a run, so that a later command can show it: the job with its status, and its events.

May import the API, the core's values and `home`. Every write is whole or absent: a reader never sees half a file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from dlcloud_operator.api import API_VERSION, TrainingJobSpec, TrainingJobStatus
from dlcloud_operator.core.model import Emit, JobKey, JobView

from ..home import write_private

JOB_FILE = "job.json"


@dataclass(frozen=True)
class LoggedEvent:
    """An event on the job, and when it was told."""

    at: datetime
    event: Emit


def write_job(run_dir: Path, job: JobView, events: Sequence[LoggedEvent]) -> None:
    """Replace `run_dir/job.json`: the TrainingJob as an API server would return it, and beside it its events.

    Raises OSError.
    """
    document = {
        "apiVersion": API_VERSION,
        "kind": "TrainingJob",
        "metadata": {
            "name": job.key.name,
            "namespace": job.key.namespace,
            "uid": job.uid,
            "resourceVersion": job.resource_version,
            "generation": job.generation,
            "creationTimestamp": job.created_at.isoformat(),
        },
        "spec": job.spec.to_json() if job.spec else {},
        "status": job.status.to_json(),
        "events": [
            {"at": e.at.isoformat(), "reason": e.event.reason, "message": e.event.message, "warning": e.event.warning}
            for e in events
        ],
    }
    write_private(run_dir / JOB_FILE, json.dumps(document, indent=1))


def read_job(run_dir: Path) -> tuple[JobView, tuple[LoggedEvent, ...]] | None:
    """The job of a run, as last written, with its events; None when the folder holds none.

    Raises ValueError, KeyError or TypeError for a damaged file, OSError for one that cannot be read.
    """
    try:
        document: dict[str, Any] = json.loads((run_dir / JOB_FILE).read_text())
    except FileNotFoundError:
        return None
    metadata = document["metadata"]
    job = JobView(
        key=JobKey(metadata["namespace"], metadata["name"]),
        uid=metadata["uid"],
        resource_version=metadata["resourceVersion"],
        generation=metadata["generation"],
        created_at=datetime.fromisoformat(metadata["creationTimestamp"]),
        status=TrainingJobStatus.model_validate(document["status"]),
        spec=TrainingJobSpec.model_validate(document["spec"]),
    )
    return job, tuple(
        LoggedEvent(datetime.fromisoformat(e["at"]), Emit(e["reason"], e["message"], e["warning"]))
        for e in document["events"]
    )
