"""Reads manifests: a TrainingJob, or everything that is wrong with it.

May import this package only. It gives the answers of the API server (schema, rules), and those that one cannot give
(parameters, podTemplate).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from .base import API_VERSION, ApiModel
from .crd import Schema, schema_of
from .parameters import check_data, check_parameters, nearest
from .pod_template import check_pod_template
from .problems import InvalidManifest, Problem, path_text
from .rules import SPEC_RULES
from .sentences import problem_of, shown
from .trainingjob import Metadata, TrainingJob, TrainingJobSpec

_MAX_DEPTH = 64
_KIND = "TrainingJob"
# What an object read back from a cluster carries besides: not the user's, so neither refused nor kept.
_SERVER_METADATA = frozenset(
    {"creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "finalizers", "generation"}
    | {"managedFields", "ownerReferences", "resourceVersion", "selfLink", "uid"}
)

Model = TypeVar("Model", bound=ApiModel)


def parse_job(manifest: object, *, allow_privileged: bool = False) -> TrainingJob:
    """The job a manifest describes. Raises InvalidManifest with all problems."""
    if not isinstance(manifest, Mapping):
        raise InvalidManifest((Problem("", "is no mapping; give apiVersion, kind, metadata and spec"),))
    if problems := _identity(manifest):
        raise InvalidManifest(problems)
    fields = ("apiVersion", "kind", "metadata", "spec", "status")
    problems = tuple(
        Problem(
            path_text((str(key),)),
            f"is not a field here{nearest(str(key), fields[:4])}; there are {', '.join(fields[:4])}",
        )
        for key in manifest
        if key not in fields
    )
    metadata, of_metadata = _parse_metadata(manifest.get("metadata"))
    spec, of_spec = parse_spec(manifest.get("spec"), allow_privileged=allow_privileged)
    problems += of_metadata + of_spec
    if problems or metadata is None or spec is None:
        raise InvalidManifest(problems)
    return TrainingJob(metadata=metadata, spec=spec)


def parse_spec(
    spec: object, *, allow_privileged: bool = False, ignore_unknown: bool = False
) -> tuple[TrainingJobSpec | None, tuple[Problem, ...]]:
    """The spec and no problem, or None and all problems.

    `ignore_unknown` drops fields of a CRD newer than this program instead of refusing them: an upgrade must not fail
    running jobs.
    """
    if not isinstance(spec, Mapping):
        text = "is missing" if spec is None else f"{shown(spec)} is no mapping"
        return None, (Problem("spec", f"{text}; give workload or script, workers, data, checkpoint"),)
    schema = schema_of(TrainingJobSpec)
    given, problems = _clean(spec, schema, ("spec",), ignore_unknown)
    model, found = _validate(TrainingJobSpec, given, schema, ("spec",))
    problems += found
    wrong = {problem.path.removeprefix("spec.").split(".")[0].split("[")[0] for problem in problems}
    if model is None:  # what is right may still break rules: show those as well
        right = {key: value for key, value in given.items() if key not in wrong}
        model, _ = _validate(TrainingJobSpec, right, schema, ("spec",))
    if model is not None:
        problems += _check(model, given, wrong, allow_privileged)
    unique = {problem.path: problem for problem in reversed(problems)}  # the first one about a field
    kept = tuple(problem for problem in problems if unique.get(problem.path) is problem)
    return (None if kept else model), kept


def _check(
    model: TrainingJobSpec, given: Mapping[str, Any], wrong: set[str], allow_privileged: bool
) -> tuple[Problem, ...]:
    """What no single field says. `wrong` are the fields (camelCase) `model` was read without."""
    names = {name: field.alias or name for name, field in TrainingJobSpec.model_fields.items()}
    problems = tuple(
        Problem(rule.path, rule.message)
        for rule in SPEC_RULES
        if not any(names[read] in wrong for read in rule.reads) and not rule.holds(model)
    )
    if model.workload and "workload" not in wrong:
        parameters = given.get("parameters", {})
        problems += check_parameters(model.workload, parameters if isinstance(parameters, Mapping) else {})
        if model.data is not None:
            problems += check_data(model.workload, model.data.uri)
    template = given.get("podTemplate")
    if isinstance(template, Mapping):
        problems += check_pod_template(template, allow_privileged)
    return problems


def _identity(manifest: Mapping[Any, Any]) -> tuple[Problem, ...]:
    """Whether this is a TrainingJob at all; if not, nothing else is worth saying."""
    problems = []
    for key, wanted in (("apiVersion", API_VERSION), ("kind", _KIND)):
        given = manifest.get(key)
        if given is None:
            problems.append(Problem(key, f"is missing; give {wanted}"))
        elif given != wanted:
            problems.append(Problem(key, f"{shown(given)} is not what this program reads; give {wanted}"))
    return tuple(problems)


def _parse_metadata(metadata: object) -> tuple[Metadata | None, tuple[Problem, ...]]:
    if not isinstance(metadata, Mapping):
        return None, (
            Problem("metadata", "is missing; give metadata.name" if metadata is None else "is no mapping; give name"),
        )
    own = {key: value for key, value in metadata.items() if key not in _SERVER_METADATA}
    schema = schema_of(Metadata)
    given, problems = _clean(own, schema, ("metadata",), False)
    model, found = _validate(Metadata, given, schema, ("metadata",))
    return model, problems + found


def _validate(
    model: type[Model], given: Mapping[str, Any], schema: Schema, prefix: tuple[str, ...]
) -> tuple[Model | None, tuple[Problem, ...]]:
    try:
        # JSON and strict, as the API server sees it: "4" is no number, and 4 no text.
        return model.model_validate_json(json.dumps(given), strict=True), ()
    except ValidationError as error:
        return None, tuple(problem_of(one, schema, prefix) for one in error.errors(include_url=False))


def _clean(
    value: Mapping[Any, Any], schema: Schema, path: tuple[str, ...], ignore_unknown: bool
) -> tuple[dict[str, Any], tuple[Problem, ...]]:
    """The value as JSON, without the empty fields the API server drops, and what JSON cannot hold."""
    problems: list[Problem] = []

    def clean(value: Any, node: Mapping[str, Any], path: tuple[str | int, ...]) -> Any:
        if len(path) > _MAX_DEPTH:
            problems.append(Problem(path_text(path), f"is nested more than {_MAX_DEPTH} levels deep"))
            return None
        if isinstance(value, Mapping):
            return cleaned_mapping(value, node, path)
        if isinstance(value, list | tuple):
            return [clean(item, node.get("items", {}), (*path, index)) for index, item in enumerate(value)]
        if fault := _not_json(value):
            problems.append(Problem(path_text(path), fault))
            return None
        return value

    def cleaned_mapping(
        value: Mapping[Any, Any], node: Mapping[str, Any], path: tuple[str | int, ...]
    ) -> dict[str, Any]:
        fields, result = node.get("properties"), {}
        for key, item in value.items():
            if not isinstance(key, str) or _not_json(key):
                problems.append(Problem(path_text(path), f"the key {key!r} is not text; write it in quotes"))
            elif fields is not None and (item is None or (ignore_unknown and key not in fields)):
                continue
            else:
                below = fields.get(key, {}) if fields is not None else node.get("additionalProperties", {})
                result[key] = clean(item, below, (*path, key))
        return result

    return cleaned_mapping(value, schema, path), tuple(problems)


def _not_json(value: Any) -> str:
    if isinstance(value, str):
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            return "holds a character that is no text (NUL or half a surrogate pair)"
        return ""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{value} is not a finite number"
    if value is None or isinstance(value, bool | float):
        return ""
    if isinstance(value, int):
        return "" if -(2**63) <= value < 2**63 else "is a number of more than 64 bits"
    return f"{shown(value)} is {type(value).__name__}, which JSON has not; write text in quotes"
