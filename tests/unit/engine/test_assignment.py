"""Instructions are what the status decided, in the words of the protocol."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dlcloud_operator.api import (
    Encryption,
    EncryptionType,
    Member,
    Phase,
    RoundStatus,
    TrainingJobSpec,
    TrainingJobStatus,
)
from dlcloud_operator.api.parameters import fill_defaults
from dlcloud_operator.engine.assignment import instruction_for, is_news

from .memory_cluster import T0, job_view


def decided(number: int = 3, **changes: Any) -> RoundStatus:
    members = [
        Member(index=0, pod="mnist-0-1", uid="u0", ranks=[0, 1]),
        Member(index=1, pod="mnist-1-4", uid="u1", ranks=[2, 3]),
    ]
    fields: dict[str, Any] = {
        "number": number, "nonce": "5f0c", "world_size": 4, "master": "10.0.0.7", "port": 29503, "threads": 1,
        "members": members, "started_at": T0,
    }  # fmt: skip
    return RoundStatus(**{**fields, **changes})


RUNNING = TrainingJobStatus(phase=Phase.RUNNING, restarts=2, round=decided())
CNN = TrainingJobSpec.model_validate(
    {
        "workload": "cnn",
        "parameters": {"epochs": 2},
        "data": {"uri": "builtin://digits"},
        "workers": {"count": 2},
        "checkpoint": {"uri": "s3://checkpoints/", "everySeconds": 7},
        "objectStore": {"endpoint": "http://127.0.0.1:8333", "credentialsSecret": "s3"},
        "limits": {"init": "90s", "checkpoint": "1m500ms"},
    }
)


def test_a_member_is_told_its_own_ranks_and_the_round_all_share() -> None:
    told = instruction_for(job_view(status=RUNNING), "u1")
    assert told is not None
    assert {name: value for name, value in told.items() if name != "job"} == {
        "kind": "round", "round": 3, "nonce": "5f0c", "ranks": [2, 3], "worldSize": 4, "workers": 2, "index": 1,
        "masterAddr": "10.0.0.7", "masterPort": 29503, "threads": 1, "restarts": 2, "initS": 120, "checkpointS": 300,
    }  # fmt: skip


def test_the_settings_carry_the_defaults_and_the_jobs_own_prefix() -> None:
    told = instruction_for(job_view(spec=CNN, status=RUNNING), "u0")
    assert told is not None
    assert told["job"] == {
        "namespace": "default", "name": "mnist", "uid": "job-uid", "workload": "cnn",
        "parameters": fill_defaults("cnn", {"epochs": 2}),
        "script": None,
        "data": {"uri": "builtin://digits"},
        "checkpoint": {
            "uri": "s3://checkpoints/default/mnist/job-uid/", "everySeconds": 7, "keepLast": 3, "keepBest": 1
        },
        "resumeFrom": "", "export": None,
        "objectStore": {"endpoint": "http://127.0.0.1:8333", "region": "us-east-1", "encryption": None},
    }  # fmt: skip
    assert told["job"]["parameters"]["epochs"] == 2
    assert len(told["job"]["parameters"]) > 1


def test_the_settings_carry_how_the_server_shall_encrypt() -> None:
    store = CNN.object_store.model_copy(update={"encryption": Encryption(type=EncryptionType.SSE_KMS, kms_key_id="k")})
    told = instruction_for(job_view(spec=CNN.model_copy(update={"object_store": store}), status=RUNNING), "u0")
    assert told is not None
    assert told["job"]["objectStore"]["encryption"] == {"type": "SSE-KMS", "kmsKeyId": "k"}


def test_a_script_job_is_told_its_command_and_no_checkpoint() -> None:
    told = instruction_for(job_view(status=RUNNING), "u0")
    assert told is not None
    assert told["job"]["script"] == {"command": ["python", "train.py"], "args": []}
    assert told["job"]["checkpoint"] is None


def test_no_name_of_a_secret_leaves_the_operator() -> None:
    told = instruction_for(job_view(spec=CNN, status=RUNNING), "u0")
    assert "credentials" not in json.dumps(told)


def test_limits_are_told_in_seconds() -> None:
    told = instruction_for(job_view(spec=CNN, status=RUNNING), "u0")
    assert told is not None
    assert (told["initS"], told["checkpointS"]) == (90, 60.5)


def test_a_pod_that_is_no_member_is_told_nothing() -> None:
    assert instruction_for(job_view(status=RUNNING), "u0-replacement") is None


def test_before_the_first_round_nobody_is_told_anything() -> None:
    assert instruction_for(job_view(status=TrainingJobStatus(phase=Phase.PENDING)), "u0") is None


@pytest.mark.parametrize("phase", [Phase.SUCCEEDED, Phase.FAILED])
def test_the_end_is_told_to_every_pod_of_the_job(phase: Phase) -> None:
    job = job_view(status=RUNNING.model_copy(update={"phase": phase}))
    for uid in ("u0", "a pod outside the round"):
        assert instruction_for(job, uid) == {"kind": "finished", "phase": phase.value}


@pytest.mark.parametrize(("after", "news"), [(0, True), (2, True), (3, False), (4, False)])
def test_a_round_is_news_to_who_has_only_seen_lower_ones(after: int, news: bool) -> None:
    assert is_news(instruction_for(job_view(status=RUNNING), "u0"), after) is news


def test_the_end_is_news_however_many_rounds_were_seen() -> None:
    assert is_news({"kind": "finished", "phase": "Failed"}, after=10**6)


def test_nothing_is_no_news() -> None:
    assert not is_news(None, after=0)
