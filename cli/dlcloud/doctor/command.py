"""`dlcloud doctor`: from options to an exit code.

May import this package, the manifest loader and the output.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from ..exits import EXIT_BROKEN_PIPE, EXIT_FAILED, EXIT_OK, EXIT_USAGE
from ..formats import Format, document_text
from ..jobs.cluster import ClusterJobs
from ..manifest import ManifestErrors, load_manifest
from ..output import Output
from ..place import Place
from .examination import Examination
from .findings import State
from .programs import Bench
from .runner import Result, run_checks
from .show import Lines, document


@dataclass(frozen=True)
class DoctorOptions:
    """What the user asked for."""

    place: Place
    manifest: Path | None
    endpoint: str
    form: Format
    limit_s: float


def doctor_command(options: DoctorOptions) -> int:
    """Make the checks and show them; 1 when one failed, 2 for a manifest that is wrong."""
    out, err = Output(sys.stdout), Output(sys.stderr)
    job = None
    if options.manifest is not None:
        try:
            job = load_manifest(options.manifest)
        except ManifestErrors as errors:
            err.line(str(errors))
            return EXIT_USAGE
    with Bench(options.limit_s) as bench:
        examination = Examination(bench, job, str(options.manifest or ""), options.endpoint, os.environ)
        place = options.place
        if place.in_cluster:
            source = ClusterJobs(
                kubeconfig=place.kubeconfig, context=place.context, namespace=place.namespace or _namespace(job)
            )
            checks = examination.cluster(source)
        else:
            checks = examination.local()
        lines = None if options.form.for_machines else Lines(out, sys.stdout, [check.name for check in checks])
        results: list[Result] = []
        if lines:
            lines.waiting(checks[0].name)
        for result in run_checks(checks, options.limit_s):
            results.append(result)
            if lines:
                lines.show(result)
                if len(results) < len(checks):
                    lines.waiting(checks[len(results)].name)
                if out.closed_pipe:
                    return EXIT_BROKEN_PIPE
    if lines:
        lines.close(results)
    else:
        out.line(document_text(document("cluster" if place.in_cluster else "local", results), options.form))
    return EXIT_FAILED if any(result.finding.state is State.FAIL for result in results) else EXIT_OK


def _namespace(job: object) -> str:
    """The manifest's, where it gives one."""
    metadata = getattr(job, "metadata", None)
    return metadata.namespace if metadata is not None and "namespace" in metadata.model_fields_set else ""
