"""200 wrong manifests on a real API server: each is refused, or its job fails as InvalidSpec; the field is named."""

from __future__ import annotations

import pytest

from ...manifests_bad import BadManifest, bad_manifests
from ...rig.client import KubeError
from ...rig.jobs import Jobs, Object
from ...rig.processes import RigError, until
from .installation import OperatorProcess

ALL = bad_manifests()


@pytest.fixture(scope="module")
def answers(operator: OperatorProcess, jobs: Jobs) -> dict[str, str]:
    """Name -> what the API server said; empty when it took the manifest."""
    return {bad.name: _create(jobs, bad.manifest) for bad in ALL}


def test_the_api_server_refuses_what_a_schema_can_see_and_names_the_field(answers: dict[str, str]) -> None:
    silent = {
        bad.name: answers[bad.name] for bad in ALL if not bad.by_operator and not bad.names_a_field(answers[bad.name])
    }
    assert silent == {}


def test_the_operator_fails_the_others_and_names_the_field(answers: dict[str, str], jobs: Jobs) -> None:
    taken = {bad.name: bad for bad in ALL if not answers[bad.name]}
    assert taken.keys() == {bad.name for bad in ALL if bad.by_operator} and len(taken) >= 25

    def states() -> dict[str, Object]:
        return {job["metadata"]["name"]: job.get("status") or {} for job in jobs.api.items(jobs.path)}

    def unfinished() -> list[str]:
        return [name for name, status in states().items() if status.get("phase") != "Failed"]

    try:
        until("all have failed", lambda: not unfinished(), Jobs.LIMIT_S)
    except RigError:
        pytest.fail(f"not failed: {unfinished()}")
    for name, status in states().items():
        told = {one["type"]: one for one in status["conditions"]}
        assert told["Failed"]["reason"] == "InvalidSpec", name
        assert taken[name].names_a_field(status["message"]), (name, status["message"])
    assert jobs.api.items(jobs.pods_path) == [], "no pod of a wrong job"


def test_the_operator_logged_no_traceback(answers: dict[str, str], operator: OperatorProcess) -> None:
    assert operator.troubles() == []


def _create(jobs: Jobs, manifest: Object) -> str:
    try:
        jobs.api.create(jobs.path, manifest, fieldValidation="Strict")
    except KubeError as refused:
        return refused.message
    return ""


def test_all_of_them_were_tried(answers: dict[str, str]) -> None:
    assert len(answers) == len({bad.name for bad in ALL}) == 200 and all(isinstance(bad, BadManifest) for bad in ALL)
