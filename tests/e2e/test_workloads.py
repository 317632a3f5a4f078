"""The other workloads in the trainer image, on nodes: what they learn from, and what they leave on the store.

All of them train once, at the same time, for the whole file; the tests look at what they left.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from dlcloud_trainer.data.digits import load_digits

from ..rig.jobs import Object
from ..unit.trainer.data.made_texts import text_files, write_files
from .command import Dlcloud
from .jobs import Jobs
from .release import Release
from .store import BUCKET, Record, Store
from .turns import turn

pytestmark = [pytest.mark.full, pytest.mark.timeout(900)]
LIMIT_S = 600.0
REVIEWS = f"s3://{BUCKET}/made/reviews/"
SPECS: dict[str, Object] = {
    "mlp": {"parameters": {"epochs": 2}},
    "cnn": {"export": {"quantize": "static"}},
    "rnn": {
        "parameters": {"epochs": 15, "kind": "bigrams", "batchSize": 16, "learningRate": 0.2, "buckets": 16},
        "data": {"uri": REVIEWS},
        "export": {"quantize": "dynamic"},
    },
    "gan": {"parameters": {"epochs": 1, "width": 8}},
    "vae": {"parameters": {"epochs": 2}, "export": {}},
}
PICTURES = {
    "gan": {"samples-000001.png"},
    "vae": {f"{what}-00000{epoch}.png" for what in ("reconstructions", "walk") for epoch in (1, 2)},
}
FILES = {"cnn": {"model-int8.onnx"}, "rnn": {"model-int8.onnx"}, "vae": set[str]()}


@dataclass(frozen=True)
class Left:
    """What a job left; `prefix` is where its objects lie."""

    status: Object
    records: list[Record]
    prefix: str
    keys: set[str]


@pytest.fixture(scope="module")
def reviews(installed: Release, store: Store, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What `dlcloud data put` says of small reviews that it brings to the cluster's store."""
    folder = tmp_path_factory.mktemp("reviews")
    write_files(folder / "aclImdb", text_files(120, 25))
    access, secret = installed.store_keys()
    store.client()  # forwards anew where the connection broke
    return Dlcloud(folder).run(
        "data", "put", folder / "aclImdb", REVIEWS, "--endpoint", store.endpoint,
        AWS_ACCESS_KEY_ID=access, AWS_SECRET_ACCESS_KEY=secret,
    )  # fmt: skip


@pytest.fixture(scope="module")
def left(jobs_of_module: Jobs, store: Store, reviews: str, turns: Path) -> dict[str, Left]:
    """Every job on two workers, to its end."""
    with turn(turns, alone=False):
        for name, spec in SPECS.items():
            jobs_of_module.create(name, workload=name, **{**spec, "workers": {"memory": "1Gi"}})
        return {name: _ended(jobs_of_module, store, name) for name in SPECS}


def _ended(jobs: Jobs, store: Store, name: str) -> Left:
    status = jobs.until_phase(name, "Succeeded", "Failed", limit_s=LIMIT_S)
    assert status["phase"] == "Succeeded", jobs.told(name)
    prefix = store.prefix(name, jobs)
    keys = {key.removeprefix(prefix) for key in store.keys(prefix)}
    return Left(status, store.records(name, jobs), prefix, keys)


@pytest.mark.parametrize("name", SPECS)
def test_it_succeeds_at_the_first_try_and_is_measured_on_the_test_images(left: dict[str, Left], name: str) -> None:
    status = left[name].status
    assert status["restarts"] == 0 and not status.get("failures") and status["recovery"]["lastRound"] == 1
    assert [record["kind"] for record in left[name].records].count("test") == 1
    assert "testLoss" in status["progress"]["metrics"]


@pytest.mark.parametrize("name", ["mlp", "cnn", "rnn"])
def test_it_has_learned(left: dict[str, Left], name: str) -> None:
    assert left[name].status["progress"]["metrics"]["testAccuracy"] > (0.8 if name == "rnn" else 0.5)


@pytest.mark.parametrize("name", PICTURES)
def test_its_pictures_are_on_the_store(left: dict[str, Left], store: Store, name: str) -> None:
    found = {key.removeprefix("pictures/") for key in left[name].keys if key.startswith("pictures/")}
    assert PICTURES[name] <= found
    for picture in PICTURES[name]:
        assert store.read(f"{left[name].prefix}pictures/{picture}").startswith(b"\x89PNG")


@pytest.mark.parametrize("name", FILES)
def test_its_card_lists_the_files_it_hands_over(left: dict[str, Left], store: Store, name: str) -> None:
    card = json.loads(store.read(f"{left[name].prefix}export/model-card.json"))
    wanted = {"model.onnx", "model.safetensors", "model-card.md"} | FILES[name]
    assert {file["name"] for file in card["files"]} == wanted
    assert re.fullmatch("[0-9a-f]{40}|unknown", card["versions"]["commit"]), "the image says what it was built from"
    assert {f"export/{file}" for file in wanted} <= left[name].keys


def test_the_file_it_hands_over_answers_here(left: dict[str, Left], store: Store) -> None:
    digits = load_digits().test
    session = onnxruntime.InferenceSession(store.read(f"{left['cnn'].prefix}export/model.onnx"))
    (probabilities,) = session.run(None, {"images": digits.images.numpy()})
    right = float((np.asarray(probabilities).argmax(1) == digits.labels.numpy()).mean())
    assert right == pytest.approx(left["cnn"].status["progress"]["metrics"]["testAccuracy"], abs=1e-6)


def test_the_data_that_was_uploaded_is_what_was_learned_from(left: dict[str, Left], reviews: str, store: Store) -> None:
    assert f"use it: data: {{uri: {REVIEWS.rstrip('/')}" in reviews, reviews
    card = json.loads(store.read(f"{left['rnn'].prefix}export/model-card.json"))
    assert card["data"]["uri"].rstrip("/") == REVIEWS.rstrip("/")
