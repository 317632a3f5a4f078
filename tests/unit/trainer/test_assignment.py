"""The assignment as a rank reads it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dlcloud_trainer.assignment import (
    CheckpointPlan,
    DistillPlan,
    ExportPlan,
    Place,
    PrunePlan,
    StoreAddress,
    parse_assignment,
    parse_place,
)


def example() -> dict[str, Any]:
    """The one of docs/protocol.md."""
    return {
        "kind": "round", "round": 3, "nonce": "5f0c", "ranks": [0], "worldSize": 2, "workers": 2, "index": 0,
        "masterAddr": "10.0.0.7", "masterPort": 29503, "threads": 1, "restarts": 2, "initS": 120, "checkpointS": 300,
        "job": {
            "namespace": "default", "name": "mnist-cnn", "uid": "u", "workload": "cnn", "parameters": {"epochs": 10},
            "script": None, "data": {"uri": "builtin://digits"},
            "checkpoint": {"uri": "s3://c/default/mnist-cnn/u/", "everySeconds": 60, "keepLast": 3, "keepBest": 1},
            "resumeFrom": "", "objectStore": {"endpoint": "http://s3:8333", "region": "eu-1"},
        },
    }  # fmt: skip


def parse(**changes: Any) -> Any:
    return parse_assignment(json.dumps(example() | changes))


def test_the_assignment_of_the_protocol_is_read() -> None:
    assignment = parse_assignment(json.dumps(example()), "/ca.crt")
    assert (assignment.round, assignment.world_size, assignment.master_port, assignment.init_s) == (3, 2, 29503, 120)
    assert assignment.job.checkpoint == CheckpointPlan("s3://c/default/mnist-cnn/u/", 60, 3, 1)
    assert assignment.job.store == StoreAddress("http://s3:8333", "eu-1", "/ca.crt")
    assert (assignment.job.data_uri, assignment.job.parameters) == ("builtin://digits", {"epochs": 10})


def test_how_the_server_shall_encrypt_is_read() -> None:
    store = {"endpoint": "", "region": "eu-1", "encryption": {"type": "SSE-KMS", "kmsKeyId": "k"}}
    found = parse(job=example()["job"] | {"objectStore": store}).job.store
    assert found == StoreAddress("", "eu-1", encryption="SSE-KMS", kms_key_id="k")


def test_what_is_to_be_handed_over_is_read() -> None:
    asked = {
        "onnx": True, "quantize": "static", "prune": {"fraction": 0.5, "structured": True, "epochs": 2},
        "distill": {"teacher": "s3://c/t/", "temperature": 4, "weight": 0.7},
    }  # fmt: skip
    found = parse(job=example()["job"] | {"export": asked}).job.export
    assert found == ExportPlan(True, "static", PrunePlan(0.5, True, 2), DistillPlan("s3://c/t/", 4.0, 0.7))
    assert parse().job.export is None
    assert parse(job=example()["job"] | {"export": asked | {"prune": None, "distill": None}}).job.export == ExportPlan(
        True, "static"
    )


def test_keys_of_a_newer_operator_are_ignored() -> None:
    assert parse(somethingNew=[1]).round == 3


def test_a_job_may_have_no_checkpoint_and_no_data() -> None:
    job = parse(job=example()["job"] | {"checkpoint": None, "data": None}).job
    assert (job.checkpoint, job.data_uri) == (None, "")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"round": 0}, "round"),
        ({"round": True}, "round"),
        ({"worldSize": "2"}, "worldSize"),
        ({"nonce": None}, "nonce"),
        ({"masterPort": 1.5}, "masterPort"),
        ({"initS": -1}, "initS"),
        ({"threads": 0}, "threads"),
        ({"job": []}, "job"),
        ({"job": {}}, "job.data|job.namespace"),
    ],
)
def test_a_wrong_field_is_named(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=rf"assignment\.({field})"):
        parse(**changes)


@pytest.mark.parametrize("text", ["", "[]", "null", "{"])
def test_what_is_no_assignment_at_all_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="assignment"):
        parse_assignment(text)


def test_a_place_comes_from_torchruns_variables() -> None:
    assert parse_place({"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4"}) == Place(3, 1, 4)


@pytest.mark.parametrize(
    "environ",
    [{}, {"RANK": "x", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}, {"RANK": "2", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}],
)
def test_a_place_that_cannot_be_is_refused(environ: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="RANK"):
        parse_place(environ)
