"""`--set path=value`: change fields of a manifest from the command line.

May import the API and pyyaml. Pure: a job in, a new job out; the API's own models judge the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dlcloud_operator.api import InvalidManifest, Problem, TrainingJob
from dlcloud_operator.api.validation import parse_job


def apply_overrides(job: TrainingJob, settings: Sequence[str]) -> TrainingJob:
    """The job with each `a.b.c=value` set below `spec`; values are YAML. Raises InvalidManifest with all mistakes."""
    if not settings:
        return job
    document = job.model_dump(mode="json", by_alias=True, exclude_unset=True)
    document |= {"apiVersion": job.api_version, "kind": job.kind}
    problems = [problem for text in settings if (problem := _assign(document["spec"], text))]
    if problems:
        raise InvalidManifest(tuple(problems))
    return parse_job(document)


def _assign(spec: dict[str, Any], text: str) -> Problem | None:
    import yaml

    path, equals, raw = text.partition("=")
    keys = path.strip().removeprefix("spec.").split(".")
    if not equals or not all(keys):
        return Problem("--set", f"{text!r} is not a setting; give path=value, as in --set parameters.epochs=3")
    try:
        value = yaml.safe_load(raw) if raw.strip() else ""
    except yaml.YAMLError:
        value = raw
    node = spec
    for depth, key in enumerate(keys[:-1]):
        inner = node.setdefault(key, {})
        if inner is None:
            inner = node[key] = {}
        if not isinstance(inner, dict):
            return Problem("--set", f"{text!r}: {'.'.join(keys[: depth + 1])} is {inner!r}, which holds no fields")
        node = inner
    node[keys[-1]] = value
    return None
