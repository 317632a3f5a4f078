"""A whole training on a real API server: scheduler, tokens, TLS, S3 and two workers are real; a rank is killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from minio import Minio

from ...rig.cluster import Cluster
from ...rig.jobs import Jobs
from ...rig.kubelet import Kubelet
from .installation import OperatorProcess

SAMPLE = Path(__file__).parents[3] / "manifests" / "cnn-digits.yaml"
NAME = "cnn-digits"
EPOCHS = 5
TRAINING_S = 150.0
Object = dict[str, Any]


@dataclass(frozen=True)
class Trained:
    """What was seen on the way of one job."""

    status: Object
    pods: list[Object]
    killed_in: int
    resumed_at: int
    columns: dict[str, str]


@pytest.fixture(scope="module")
def real(control_plane: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubelet]:
    """A node whose pods are processes of this machine."""
    with Kubelet(control_plane.kubeconfig, tmp_path_factory.mktemp("real"), name="real") as kubelet:
        yield kubelet


@pytest.fixture(scope="module")
def trained(operator: OperatorProcess, real: Kubelet, jobs: Jobs, s3_server: Any) -> Trained:
    """The sample's job, rank 1 killed with SIGKILL after the first checkpoint, at its end."""
    keys = {"AWS_ACCESS_KEY_ID": s3_server.access_key, "AWS_SECRET_ACCESS_KEY": s3_server.secret_key}
    secrets = f"/api/v1/namespaces/{jobs.namespace}/secrets"
    jobs.api.create(secrets, {"metadata": {"name": "dlcloud-s3"}, "stringData": keys})
    job = yaml.safe_load(SAMPLE.read_text(encoding="utf-8"))
    spec = job["spec"]
    bucket = s3_server.make_bucket()
    spec["checkpoint"] |= {"uri": f"s3://{bucket}/", "everySeconds": 1}
    spec["parameters"]["epochs"] = EPOCHS
    spec["objectStore"]["endpoint"] = s3_server.endpoint
    spec["scheduling"] = {"nodeSelector": {"kubernetes.io/hostname": "real"}}
    jobs.api.create(jobs.path, job)
    jobs.until(NAME, "a checkpoint is told", lambda status: status.get("checkpoint"), TRAINING_S)
    columns = jobs.cluster.kubectl("get", "tj", NAME, "-n", jobs.namespace).splitlines()
    killed_in = jobs.status(NAME)["round"]["number"]
    (rank,) = real.ranks(jobs.namespace, f"{NAME}-1-1")
    os.kill(rank, signal.SIGKILL)
    status = jobs.until_phase(NAME, "Succeeded", "Failed", limit_s=TRAINING_S)
    jobs.cluster.kubectl("wait", "--for=condition=Complete", f"tj/{NAME}", "-n", jobs.namespace, "--timeout=5s")
    jobs.until_pods_ended(NAME)
    return Trained(
        status,
        jobs.pods(NAME),
        killed_in,
        _first_step(s3_server, bucket, f"metrics/{killed_in + 1:06d}/"),
        dict(zip(columns[0].split(), columns[1].split(), strict=False)),
    )


@pytest.mark.timeout(400)
def test_it_succeeds_after_the_loss_of_a_rank(trained: Trained) -> None:
    assert trained.status["phase"] == "Succeeded" and trained.status["restarts"] == 1
    assert trained.status["recovery"]["lastRound"] == trained.killed_in + 1
    failure = trained.status["failures"][0]
    assert (failure["worker"], failure["rank"], failure["reason"]) == (1, 1, "Signal") and "SIGKILL" in failure[
        "message"
    ]


def test_no_pod_was_made_again_for_a_lost_rank(trained: Trained) -> None:
    assert [pod["metadata"]["name"] for pod in trained.pods] == [f"{NAME}-0-1", f"{NAME}-1-1"]
    for pod in trained.pods:
        ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]
        assert ended["exitCode"] == 0 and json.loads(ended["message"])["outcome"] == "Succeeded"


def test_it_trained_all_epochs_and_learned(trained: Trained) -> None:
    progress = trained.status["progress"]
    assert progress["epoch"] == progress["epochs"] == EPOCHS and progress["step"] == progress["totalSteps"]
    assert progress["metrics"]["validationAccuracy"] > 0.7


def test_it_went_on_from_a_checkpoint(trained: Trained) -> None:
    assert 1 < trained.resumed_at <= trained.status["progress"]["totalSteps"]
    assert trained.status["checkpoint"]["step"] == trained.status["progress"]["totalSteps"]


def test_kubectl_showed_it_at_work(trained: Trained) -> None:
    assert trained.columns["PHASE"] == "Running" and trained.columns["WORKERS"] == "2/2"
    assert int(trained.columns["EPOCH"]) >= 1 and float(trained.columns["LOSS"]) > 0


def test_its_events_tell_the_story(trained: Trained, jobs: Jobs) -> None:
    told = [event["reason"] for event in jobs.events(NAME)]
    assert told.count("RoundStarted") == 2 and "RankFailed" in told and "Succeeded" in told


def test_the_operator_logged_no_error(trained: Trained, operator: OperatorProcess) -> None:
    assert operator.troubles() == []


def _first_step(server: Any, bucket: str, part: str) -> int:
    """The first step whose record lies in this part of the job's prefix."""
    host = server.endpoint.removeprefix("http://")
    client = Minio(host, access_key=server.access_key, secret_key=server.secret_key, secure=False)
    names = sorted(str(one.object_name) for one in client.list_objects(bucket, recursive=True))
    name = next(name for name in names if part in name)
    with contextlib.closing(client.get_object(bucket, name)) as answer:
        records = [json.loads(line) for line in answer.read().splitlines()]
    return min(int(record["step"]) for record in records if record["kind"] == "train")
