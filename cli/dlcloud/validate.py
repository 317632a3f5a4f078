"""`dlcloud validate`: say every mistake of every file.

May import the API, the manifest loader, formats and the output.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from dlcloud_operator.api import Problem

from .exits import EXIT_OK, EXIT_USAGE
from .formats import Format, document_text
from .manifest import STDIN, ManifestError, ManifestErrors, ManifestFile, read_manifest_file
from .output import Output

_SUFFIXES = (".yaml", ".yml", ".json")  # what kubectl takes from a folder


def validate_command(manifests: Sequence[Path], out: Output, err: Output, form: Format = Format.TEXT) -> int:
    """0 when all are right, 2 when any is not. Good files get a line for each job on `out`, mistakes go to `err`; for
    machines `out` holds one list of all mistakes."""
    mistakes: list[ManifestError] = []
    width = shutil.get_terminal_size((100, 24)).columns

    def told(errors: ManifestErrors) -> None:
        mistakes.extend(errors.errors)
        if not form.for_machines:
            err.line(errors.explained(width))

    for path in manifests:
        try:
            files = _files(path)
        except ManifestErrors as errors:
            told(errors)
            continue
        for file in files:
            try:
                lines = _good_lines(file, read_manifest_file(file))
            except ManifestErrors as errors:
                if not errors.foreign or file == path:
                    told(errors)
                    continue
                lines = [f"{file}: no TrainingJob in it, not checked"]
            for line in lines if not form.for_machines else []:
                out.line(line)
    if form.for_machines:
        out.line(document_text([mistake.as_json() for mistake in mistakes], form))
    return EXIT_USAGE if mistakes else EXIT_OK


def _files(path: Path) -> list[Path]:
    """The file, or every manifest of the folder (those further down are left alone, as by kubectl). Raises
    ManifestErrors."""
    if str(path) == STDIN or not path.is_dir():
        return [path]
    try:
        found = sorted(entry for entry in path.iterdir() if entry.suffix in _SUFFIXES and not entry.is_dir())
    except OSError as error:
        raise _wrong(path, f"cannot be read: {error.strerror}") from None
    if not found:
        raise _wrong(path, f"holds no file that ends in {', '.join(_SUFFIXES)}; give a folder with manifests")
    return found


def _wrong(path: Path, message: str) -> ManifestErrors:
    return ManifestErrors([ManifestError(str(path), None, Problem("", message))])


def _good_lines(path: Path, content: ManifestFile) -> list[str]:
    file, lines = "<stdin>" if str(path) == STDIN else str(path), []
    for job in content.jobs:
        what, count = job.spec.workload or "script", job.spec.workers.count
        lines.append(f"{file}: OK: TrainingJob {job.metadata.name}, {what}, {count} worker{'s' * (count != 1)}")
    if content.num_others:
        several = content.num_others != 1
        lines.append(f"{file}: {content.num_others} object{'s' * several} of other kinds not checked")
    return lines
