"""`spec.export`: what may be asked for, and what goes together."""

from __future__ import annotations

from typing import Any

import pytest

from dlcloud_operator.api import InvalidManifest
from dlcloud_operator.api.validation import parse_job


def job(**spec: Any) -> dict[str, Any]:
    usual = {"workload": "cnn", "data": {"uri": "builtin://digits"}, "checkpoint": {"uri": "s3://checkpoints/"}}
    merged = {name: value for name, value in {**usual, **spec}.items() if value is not None}
    return {"apiVersion": "dlcloud.dev/v1", "kind": "TrainingJob", "metadata": {"name": "a"}, "spec": merged}


def test_all_of_it_can_be_asked_for_and_little_must() -> None:
    whole = {
        "onnx": True,
        "quantize": "static",
        "prune": {"fraction": 0.5, "structured": True, "epochs": 3},
        "distill": {"teacher": "s3://checkpoints/default/teacher/1/", "temperature": 2, "weight": 1},
    }
    parsed = parse_job(job(export=whole)).spec.export
    assert parsed is not None and parsed.prune is not None and parsed.distill is not None
    assert (parsed.prune.epochs, parsed.distill.temperature) == (3, 2)
    short = parse_job(job(export={"prune": {"fraction": 0.3}})).spec.export
    assert short is not None and short.prune is not None
    assert (short.onnx, short.quantize, short.prune.structured, short.distill) == (True, "none", False, None)


WRONG = [
    (job(export={}, checkpoint=None), "spec.export", "below the job's prefix"),
    (job(export={}, workload=None, data=None, script={"command": ["python"]}), "spec.export", "only a built-in"),
    (job(export={"onnx": False, "quantize": "static"}), "spec.export.quantize", "what is quantised is the ONNX file"),
    (job(export={"quantize": "int8"}), "spec.export.quantize", "static"),
    (job(export={"prune": {"fraction": 1}}), "spec.export.prune.fraction", "0.99"),
    (job(export={"prune": {}}), "spec.export.prune.fraction", ""),
    (job(export={"distill": {"teacher": "teacher"}}), "spec.export.distill.teacher", "s3://bucket/prefix"),
    (job(export={"distill": {"teacher": "s3://abc/t/", "weight": 2}}), "spec.export.distill.weight", "1"),
    (job(export={"onx": True}), "spec.export.onx", ""),
]


@pytest.mark.parametrize(("manifest", "path", "words"), WRONG, ids=map(str, range(len(WRONG))))
def test_what_cannot_be_asked_for_is_refused_by_its_path(manifest: dict[str, Any], path: str, words: str) -> None:
    with pytest.raises(InvalidManifest) as error:
        parse_job(manifest)
    problems = {problem.path: problem.message for problem in error.value.problems}
    assert path in problems
    assert words in problems[path]
