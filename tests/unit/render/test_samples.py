"""The samples in manifests/ are jobs, and become pods a small node can hold."""

from __future__ import annotations

import ast
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from dlcloud.manifest import load_manifest
from dlcloud_operator.api import TrainingJobStatus, parse_quantity
from dlcloud_operator.core.model import JobKey, JobView
from dlcloud_operator.engine.render import PodRenderer, RenderSettings

ROOT = Path(__file__).parents[3]
SAMPLES = sorted((ROOT / "manifests").glob("*.yaml"))


def test_the_samples_are_there() -> None:
    assert {"cnn-digits.yaml", "script-ddp.yaml"} <= {path.name for path in SAMPLES}


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_a_sample_is_a_job_and_becomes_pods(path: Path) -> None:
    job = load_manifest(path)
    key = JobKey(job.metadata.namespace, job.metadata.name)
    view = JobView(key, "uid", "1", 1, datetime(2026, 1, 1, tzinfo=UTC), TrainingJobStatus(), job.spec)
    renderer = PodRenderer(RenderSettings("http://operator:8080"))
    pods = [renderer.render(view, index, 1) for index in range(job.spec.workers.count)]
    assert len({pod["metadata"]["name"] for pod in pods}) == job.spec.workers.count
    limits = pods[0]["spec"]["containers"][0]["resources"]["limits"]
    assert parse_quantity(limits["cpu"]) <= 1
    assert parse_quantity(limits["memory"]) <= 2 * 2**30


def test_the_script_of_the_sample_exists_and_knows_nothing_of_dlcloud() -> None:
    job = load_manifest(ROOT / "manifests" / "script-ddp.yaml")
    assert job.spec.script is not None
    source = (ROOT / job.spec.script.command[1]).read_text(encoding="utf-8")
    calls = {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
    assert "init_process_group" in calls
    assert "dlcloud" not in source.lower()


def test_the_program_that_the_sample_brings_to_a_cluster_is_the_one_of_this_machine() -> None:
    brought, job = yaml.safe_load_all((ROOT / "manifests" / "script-ddp.yaml").read_text(encoding="utf-8"))
    # In this order: the pods must not be there before the program, which is optional for the sake of this machine.
    path = Path(job["spec"]["script"]["command"][1])
    assert brought["data"] == {path.name: (ROOT / path).read_text(encoding="utf-8")}
    (mount,) = job["spec"]["podTemplate"]["spec"]["containers"][0]["volumeMounts"]
    assert Path(mount["mountPath"]) == Path("/dlcloud/scratch") / path.parent, "where the trainer image starts programs"
