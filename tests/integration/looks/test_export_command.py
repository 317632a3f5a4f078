"""`dlcloud export` and `dlcloud plot --confusion` on what a job left behind."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.ranks import RankServer
from dlcloud_trainer.assignment import StoreAddress
from dlcloud_trainer.data import load_grey_images
from dlcloud_trainer.export.onnx_file import Runner
from dlcloud_trainer.parameters import TrainingParameters

from ..trainer.conftest import write_mnist
from .conftest import Cli

LIMIT_S = 240

pytestmark = pytest.mark.timeout(600)  # an export imports and traces for seconds, on a busy machine for many


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The prefix of a job that is over, and the folder that its data was in."""
    folder = tmp_path_factory.mktemp("job")
    data = folder / "data"
    uri = write_mnist(data, 120, 20)
    parameters = {"architecture": "conv8", "epochs": 2, "batchSize": 16}
    saved = {"uri": f"file://{folder}/default/cnn/1/", "everySeconds": 600, "keepLast": 3, "keepBest": 1}
    with RankServer(folder) as server:
        [rank] = server.start_round({"parameters": parameters, "checkpoint": saved, "data": {"uri": uri}})
        assert rank.wait(LIMIT_S) == 0
    yield saved["uri"], data


def test_a_checkpoint_becomes_files_that_the_card_lists(cli: Cli, trained: tuple[str, Path]) -> None:
    uri, data = trained
    code, said = cli("export", uri, "--out", "model", "--quantize", "static", limit_s=LIMIT_S)
    assert code == 0, said
    folder = cli.folder / "model"
    card = json.loads((folder / "model-card.json").read_text())
    for entry in card["files"]:
        content = (folder / entry["name"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (entry["sizeBytes"], entry["sha256"])
    assert (card["namespace"], card["name"], card["uid"], card["step"]) == ("default", "cnn", "1", 14)
    assert card["data"]["uri"] == f"file://{data}"
    assert len(card["data"]["sha256"]) == 64
    assert {"validation", "test"} == set(card["metrics"])
    test = load_grey_images(f"file://{data}", StoreAddress(), TrainingParameters()).test
    answers = Runner(folder / "model.onnx")((test.images,)).argmax(1)
    assert float((answers == test.labels).double().mean()) == pytest.approx(card["metrics"]["test"]["accuracy"])
    assert f"test accuracy: {card['metrics']['test']['accuracy']:.4f}" in said
    assert load_file(folder / "model.safetensors")["dense.weight"].dtype == torch.float32

    code, said = cli("export", uri, "--out", "model", limit_s=LIMIT_S)
    assert code == 2
    assert "--force" in said


def test_without_its_data_a_checkpoint_is_exported_and_only_static_refused(
    cli: Cli, trained: tuple[str, Path], tmp_path: Path
) -> None:
    uri, data = trained
    away = tmp_path / "away"
    shutil.move(data, away)
    try:
        code, said = cli("export", uri, "--out", "model", limit_s=LIMIT_S)
        assert code == 0, said
        assert "the training data cannot be read" in said
        assert json.loads((cli.folder / "model" / "model-card.json").read_text())["data"]["sha256"] == ""
        code, said = cli("export", uri, "--out", "static", "--quantize", "static", limit_s=LIMIT_S)
        assert code == 2
        assert "quantize: static needs it; give --data URI" in said
        code, said = cli("export", uri, "--out", "other", "--data", f"file://{away}", limit_s=LIMIT_S)
        assert code == 0, said
    finally:
        shutil.move(away, data)


def test_what_is_not_there_is_said_in_a_sentence(cli: Cli, trained: tuple[str, Path]) -> None:
    code, said = cli("export", trained[0], "999")
    assert code == 2
    assert "there is no checkpoint of step 999" in said
    code, said = cli("export", f"file://{cli.folder}/nothing/")
    assert code == 1
    assert "there is no checkpoint" in said


def test_the_confusion_matrix_is_shown_and_drawn(cli: Cli, trained: tuple[str, Path]) -> None:
    code, said = cli("plot", trained[0], "--confusion")
    assert code == 0
    assert "of 20 right" in said
    assert len([line for line in said.splitlines() if line.endswith("%")]) == 10
    code, said = cli("plot", trained[0], "--confusion", "--out", "c.png")
    assert code == 0
    assert (cli.folder / "c.png").read_bytes().startswith(b"\x89PNG")
    code, said = cli("plot", trained[0])
    assert "--confusion" in said
