"""200 manifests, each wrong in one or two ways: everywhere the answer is one clear sentence that names the field."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import yaml

from dlcloud.formats import Format
from dlcloud.output import Output
from dlcloud.validate import validate_command
from dlcloud_operator.api import InvalidManifest, Problem
from dlcloud_operator.api.validation import parse_job
from dlcloud_operator.engine.render import PodRenderer, RenderSettings
from dlcloud_operator.kube.jobs import JobReader

from ...manifests_bad import NUM_MANIFESTS, BadManifest, bad_manifests
from .objects import stamp

ALL = bad_manifests()
READER = JobReader("dlcloud-system", renderer=PodRenderer(RenderSettings("https://rendezvous:8443")))
each = pytest.mark.parametrize("bad", ALL, ids=str)


def check(problems: tuple[Problem, ...], bad: BadManifest) -> None:
    assert any(problem.path.startswith(field) for problem in problems for field in bad.fields), problems
    for problem in problems:
        sentence = str(problem)
        assert "\n" not in sentence and len(sentence) < 500
        for word in ("Traceback", "validation error", "pydantic", "type=", "Error(", "input_value", "NoneType"):
            assert word not in sentence
        assert problem.message


def test_there_are_200_always_the_same() -> None:
    assert len(ALL) == NUM_MANIFESTS == 200
    assert bad_manifests() == ALL
    assert sum(bad.by_operator for bad in ALL) >= 25


@each
def test_the_models_name_the_field(bad: BadManifest) -> None:
    with pytest.raises(InvalidManifest) as refused:
        parse_job(bad.manifest)
    check(refused.value.problems, bad)


@each
def test_the_operator_names_the_field(bad: BadManifest) -> None:
    about = {"namespace": "default", "uid": bad.name, "generation": 1, "creationTimestamp": stamp()}
    raw = {**bad.manifest, "metadata": {**about, **bad.manifest["metadata"]}}
    problems = READER.read(raw).problems
    if bad.by_operator:
        check(problems, bad)  # nobody else does
    elif not bad.unknown and not any(field.startswith("metadata") for field in bad.fields):
        check(problems, bad)  # should the CRD be an older one


def test_the_command_names_the_field_of_each_file(tmp_path: Path) -> None:
    for bad in ALL:
        (tmp_path / f"{bad.name}.yaml").write_text(yaml.safe_dump(bad.manifest))
    out, err = io.StringIO(), io.StringIO()
    assert validate_command([tmp_path], Output(out), Output(err), Format.JSON) == 2
    assert err.getvalue() == ""
    told: dict[str, set[str]] = {}
    for mistake in json.loads(out.getvalue()):
        told.setdefault(Path(mistake["file"]).stem, set()).add(mistake["path"])
    for bad in ALL:
        assert any(path.startswith(field) for path in told[bad.name] for field in bad.fields), (bad, told[bad.name])
