"""`dlcloud validate`: say every mistake of every file. May import the API, the manifest loader and the output."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .exits import EXIT_OK, EXIT_USAGE
from .manifest import ManifestErrors, load_manifest
from .output import Output


def validate_command(manifests: Sequence[Path], out: Output, err: Output) -> int:
    """0 when all are right, 2 when any is not. Good files get one line on `out`, mistakes one line each on `err`."""
    code = EXIT_OK
    for path in manifests:
        try:
            job = load_manifest(path)
        except ManifestErrors as errors:
            err.line(str(errors))
            code = EXIT_USAGE
            continue
        what = job.spec.workload or "script"
        count = job.spec.workers.count
        out.line(f"{path}: OK: TrainingJob {job.metadata.name}, {what}, {count} worker{'s' * (count != 1)}")
    return code
