"""What a job leaves below export/: with ranks that are killed meanwhile, pruned, and taught by another job."""

from __future__ import annotations

import hashlib
import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.ranks import RankProcess, RankServer
from dlcloud_trainer.assignment import StoreAddress
from dlcloud_trainer.data import load_grey_images
from dlcloud_trainer.export.onnx_file import Runner
from dlcloud_trainer.objects import ObjectMissing, Objects, open_objects
from dlcloud_trainer.parameters import TrainingParameters
from tests.rig.processes import until

from .conftest import assert_same_state, folder_checkpoint, newest
from .sessions import digits_job, run_job, succeeded
from .test_loop import records

SMALL = {"architecture": "conv8", "epochs": 2, "batchSize": 16, "logEverySteps": 1}
CARD = "export/model-card.json"
LIMIT_S = 180

pytestmark = pytest.mark.timeout(600)  # an export imports and traces for seconds, on a busy machine for many


def asked(**fields: Any) -> dict[str, Any]:
    return {"onnx": True, "quantize": "none", "prune": None, "distill": None} | fields


def card_of(store: Objects) -> dict[str, Any]:
    """The card; every file that it lists is there, as it says."""
    card: dict[str, Any] = json.loads(store.get(CARD))
    for entry in card["files"]:
        data = store.get(f"export/{entry['name']}")
        assert (len(data), hashlib.sha256(data).hexdigest()) == (entry["sizeBytes"], entry["sha256"])
    return card


def wait(ranks: list[RankProcess]) -> list[int]:
    return [rank.wait(LIMIT_S) for rank in ranks]


def test_two_ranks_hand_over_a_model_that_answers_as_the_test_set_says(
    server: RankServer, small_data: dict[str, str], checkpoint: dict[str, Any], tmp_path: Path
) -> None:
    job = {"parameters": SMALL, "data": small_data, "checkpoint": checkpoint, "export": asked(quantize="static")}
    assert wait(server.start_round(job, world_size=2)) == [0, 0]
    store = open_objects(checkpoint["uri"])
    card = card_of(store)
    assert [one["name"] for one in card["files"]] == [
        "model.safetensors", "model.onnx", "model-int8.onnx", "model-card.md"
    ]  # fmt: skip
    assert (card["step"], card["samples"], card["workload"]) == (14, 220, "cnn")
    assert card["data"]["samples"] == {"train": 110, "validation": 10, "test": 20}
    assert card["metrics"]["test"]["accuracy"] == records(checkpoint["uri"], "test")[-1]["accuracy"]
    (tmp_path / "model.onnx").write_bytes(store.get("export/model.onnx"))
    test = load_grey_images(small_data["uri"], StoreAddress(), TrainingParameters()).test
    answers = Runner(tmp_path / "model.onnx")((test.images,)).argmax(1)
    assert float((answers == test.labels).double().mean()) == pytest.approx(card["metrics"]["test"]["accuracy"])
    confusion = json.loads(store.get("pictures/confusion.json"))
    counts = torch.tensor(confusion["counts"])
    assert counts.sum() == 20
    assert counts.diagonal().sum() == int((answers == test.labels).sum())


def test_killed_while_it_exports_the_next_round_exports_and_trains_nothing_again(
    small_data: dict[str, str], checkpoint: dict[str, Any], tmp_path: Path
) -> None:
    job = {"parameters": SMALL, "data": small_data, "checkpoint": checkpoint, "export": asked()}
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    store = open_objects(checkpoint["uri"])
    with RankServer(tmp_path, env={"TMPDIR": str(temporary)}) as server:
        ranks = server.start_round(job, world_size=2)
        until("the export's first file", lambda: any(temporary.glob("export-*/model.safetensors")), LIMIT_S)
        ranks[0].kill(signal.SIGKILL)
        assert wait(ranks)[0] == -signal.SIGKILL
        with pytest.raises(ObjectMissing):
            store.get(CARD)
        assert wait(server.start_round(job, world_size=2, round=2)) == [0, 0]
    assert card_of(store)["step"] == newest(checkpoint).step == 14
    second = [store.get(key).decode() for key in store.list("metrics/000002")]
    assert any('"kind": "test"' in part for part in second)
    assert not any('"kind": "train"' in part for part in second)


@pytest.mark.parametrize("structured", [False, True])
def test_a_pruned_training_that_was_killed_ends_as_one_that_was_not(
    server: RankServer, small_data: dict[str, str], tmp_path: Path, structured: bool
) -> None:
    parameters = SMALL | {"architecture": "small", "ema": 0.9}
    pruned = {"fraction": 0.5, "structured": structured, "epochs": 2}
    whole, broken = folder_checkpoint(tmp_path), folder_checkpoint(tmp_path)
    job = {"parameters": parameters, "data": small_data, "export": asked(onnx=False, prune=pruned)}
    assert wait(server.start_round(job | {"checkpoint": whole}, world_size=2)) == [0, 0]

    ranks = server.start_round(job | {"checkpoint": broken}, world_size=2)
    ranks[0].wait_for_event("checkpoint")  # before the pruning, or it counts among the later ones
    ranks[0].kill()
    wait(ranks)
    ranks = server.start_round(job | {"checkpoint": broken}, world_size=2, round=2)
    until(
        "a checkpoint of the fine-tuning",
        lambda: any(event["step"] > 14 for event in ranks[0].events("checkpoint")) or ranks[0].exit_code is not None,
        LIMIT_S,
    )
    ranks[1].kill()
    wait(ranks)
    assert wait(server.start_round(job | {"checkpoint": broken}, world_size=2, round=3)) == [0, 0]
    state = newest(whole)
    assert_same_state(state, newest(broken))

    card = card_of(open_objects(whole["uri"]))
    assert card["step"] == 4 * 7
    if structured:
        removed = state.tensors["model.conv2.weight"] == 0
        assert removed.flatten(1).all(1).sum() == 8
        assert card["weights"]["count"] < 0.4 * 16_000
    else:
        assert card["weights"]["nonzero"] < 0.6 * card["weights"]["count"]


def test_a_student_learns_from_another_jobs_checkpoint_and_keeps_no_copy_of_it(
    server: RankServer, tmp_path: Path
) -> None:
    teacher, student = folder_checkpoint(tmp_path, 1000), folder_checkpoint(tmp_path, 0.05)
    parameters = {"preset": "faithful", "epochs": 2}  # its pixels go from 0 to 1, the student's are normalised
    assert wait(server.start_round({"parameters": parameters, "checkpoint": teacher})) == [0]
    distill = {"teacher": teacher["uri"], "temperature": 4.0, "weight": 1.0}  # the labels have no part in the loss
    job = {
        "workload": "mlp", "parameters": {"epochs": 3, "learningRate": 0.003}, "checkpoint": student,
        "export": asked(onnx=False, distill=distill),
    }  # fmt: skip
    ranks = server.start_round(job, world_size=2)
    ranks[0].wait_for_event("checkpoint")
    ranks[1].kill()
    wait(ranks)
    assert wait(server.start_round(job, world_size=2, round=2)) == [0, 0]
    assert card_of(open_objects(student["uri"]))["metrics"]["test"]["accuracy"] > 0.8
    assert not any("teacher" in name for name in newest(student).tensors)


def test_a_whole_job_hands_over_through_operator_agent_and_zygote(tmp_path: Path) -> None:
    spec = digits_job(
        f"file://{tmp_path}/saved",
        parameters={"epochs": 2},
        workers={"count": 2, "memory": "1Gi"},
        export={"quantize": "static", "prune": {"fraction": 0.4, "structured": True, "epochs": 1}},
    )
    ended = succeeded(run_job(tmp_path, "exported", spec))
    card = card_of(open_objects(ended.prefix))
    assert card["export"]["prune"] == {"fraction": 0.4, "structured": True, "epochs": 1}
    assert (card["name"], card["step"]) == ("exported", 3 * 20)
    assert "model-int8.onnx" in [one["name"] for one in card["files"]]
    assert "torchvision" not in ended.log


REFUSED = [
    ({"workload": "gan"}, {"quantize": "static"}, "export.quantize: static: it does not go with gan"),
    ({"workload": "vae"}, {"prune": {"fraction": 0.5, "structured": True, "epochs": 1}}, "export.prune.structured: "),
    ({}, {"distill": {"teacher": "file:///nowhere/", "temperature": 4, "weight": 1}}, "export.distill.teacher: "),
]


@pytest.mark.parametrize(("job", "export", "words"), REFUSED, ids=["gan", "vae", "no teacher"])
def test_an_export_that_cannot_be_is_refused_before_the_first_step(
    server: RankServer,
    small_data: dict[str, str],
    checkpoint: dict[str, Any],
    job: dict[str, Any],
    export: dict[str, Any],
    words: str,
) -> None:
    [rank] = server.start_round({"data": small_data, "checkpoint": checkpoint, "export": asked(**export)} | job)
    assert rank.wait(LIMIT_S) in (64, 77)
    [failed] = rank.events("failed")
    assert words in failed["message"]
    assert not rank.events("step")
