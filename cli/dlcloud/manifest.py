"""Reads TrainingJobs from YAML files, and says of every mistake in which line and column it is.

May import the operator's api package and the manifest modules beside it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from dlcloud_operator.api import API_VERSION, InvalidManifest, Problem, TrainingJob
from dlcloud_operator.api.validation import parse_job

from .manifest_errors import ManifestError, ManifestErrors, Place
from .manifest_yaml import NodeReader, documents

__all__ = [
    "STDIN",
    "ManifestError",
    "ManifestErrors",
    "ManifestFile",
    "Place",
    "load_manifest",
    "load_manifests",
    "read_manifest_file",
]

MAX_SIZE_BYTES = 1024 * 1024  # the API server takes 1.5 MiB in all
STDIN = "-"


@dataclass(frozen=True)
class ManifestFile:
    """What a file holds: its TrainingJobs, and how many objects of other kinds that were left out."""

    jobs: tuple[TrainingJob, ...]
    num_others: int = 0


def load_manifest(path: str | Path) -> TrainingJob:
    """The one TrainingJob of a file (`-`: of standard input). Raises ManifestErrors with all mistakes, also when the
    file holds several jobs."""
    jobs = load_manifests(path)
    if len(jobs) > 1:
        names = ", ".join(job.metadata.name for job in jobs)
        text = f"holds {len(jobs)} TrainingJobs ({names}); give a file with one"
        raise ManifestErrors([ManifestError(_name(path), None, Problem("", text))])
    return jobs[0]


def load_manifests(path: str | Path) -> tuple[TrainingJob, ...]:
    """All TrainingJobs of a file, at least one; objects of other kinds are left out. Raises ManifestErrors."""
    return read_manifest_file(path).jobs


def read_manifest_file(path: str | Path) -> ManifestFile:
    """What a file (`-`: standard input) holds, at least one TrainingJob. Raises ManifestErrors with all mistakes."""
    file, jobs = _name(path), []
    errors: list[ManifestError] = []
    others: list[ManifestError] = []  # about objects of other kinds
    num_others = 0
    text = _read(path, file)
    roots = list(documents(file, text))
    for root in roots:
        reader = NodeReader(file)
        value = reader.value(root, ())
        found = [*reader.errors]
        if not found:
            try:
                jobs.append(parse_job(value))
            except InvalidManifest as invalid:
                found = [ManifestError(file, reader.place_of(problem.path), problem) for problem in invalid.problems]
        kind = (value.get("kind"), value.get("apiVersion")) if isinstance(value, dict) else None
        foreign = kind is not None and kind != ("TrainingJob", API_VERSION) and not reader.errors
        num_others += foreign
        (others if foreign else errors).extend(found)
    if not roots:
        errors.append(ManifestError(file, None, Problem("", "is empty; write a TrainingJob into it")))
    if errors or not jobs:
        raise ManifestErrors(errors or others, text, foreign=not errors)
    return ManifestFile(tuple(jobs), num_others)


def _name(path: str | Path) -> str:
    return "<stdin>" if str(path) == STDIN else str(path)


def _read(path: str | Path, file: str) -> str:
    def fail(message: str) -> ManifestErrors:
        return ManifestErrors([ManifestError(file, None, Problem("", message))])

    try:
        if str(path) == STDIN:
            content = sys.stdin.buffer.read(MAX_SIZE_BYTES + 1)
        elif Path(path).is_dir():
            raise fail("is a directory; give a YAML file")
        else:
            with Path(path).open("rb") as stream:
                content = stream.read(MAX_SIZE_BYTES + 1)
    except FileNotFoundError:
        raise fail("there is no such file") from None
    except (OSError, ValueError) as error:
        raise fail(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(content) > MAX_SIZE_BYTES:
        raise fail(f"is larger than {MAX_SIZE_BYTES // 1024} KiB; a manifest is a few lines of YAML")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise fail(f"is no text in UTF-8 (byte {error.start}); give a YAML file") from None
