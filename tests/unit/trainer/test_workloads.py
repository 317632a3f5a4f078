"""The workloads: parameters, the contract with the API, and cnn's model and arithmetic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlcloud_trainer.assignment import Place
from dlcloud_trainer.augmentation import distort
from dlcloud_trainer.contract import contract, contract_text, main
from dlcloud_trainer.data.digits import load_digits
from dlcloud_trainer.data.splits import GREY
from dlcloud_trainer.errors import InvalidInput
from dlcloud_trainer.feed import Feed
from dlcloud_trainer.parameters import parse_parameters
from dlcloud_trainer.schedules import learning_rate
from dlcloud_trainer.sharding import Schedule
from dlcloud_trainer.workload import Part
from dlcloud_trainer.workloads import cnn, find_workload, workload_names

CONTRACT_FILE = Path(__file__).parents[3] / "operator/dlcloud_operator/api/parameters.json"
CPU = torch.device("cpu")


def test_the_contract_in_the_api_package_is_up_to_date() -> None:
    assert CONTRACT_FILE.read_text() == contract_text(), "run make contract"


def test_the_contract_describes_every_parameter_of_every_workload() -> None:
    for name, workload in contract()["workloads"].items():
        for parameter, fields in workload["parameters"].items():
            assert fields["type"] in ("integer", "number", "string", "boolean"), (name, parameter)
            assert fields["description"], (name, parameter)
            assert "default" in fields, (name, parameter)


def test_the_defaults_of_the_contract_are_parameters_the_workload_takes() -> None:
    for name, workload in contract()["workloads"].items():
        defaults = {parameter: fields["default"] for parameter, fields in workload["parameters"].items()}
        assert parse_parameters(find_workload(name), defaults) == find_workload(name).Parameters()


def test_a_stale_contract_is_noticed_and_written_anew(tmp_path: Path) -> None:
    file = tmp_path / "parameters.json"
    assert main(["--check", str(file)]) == 1
    assert main(["--out", str(file)]) == 0
    assert main(["--check", str(file)]) == 0
    file.write_text(json.dumps(contract()))
    assert main(["--check", str(file)]) == 1


def test_a_workload_is_found_by_the_name_of_its_file() -> None:
    assert "cnn" in workload_names()
    assert find_workload("cnn") is cnn


def test_an_unknown_workload_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(InvalidInput, match=r"'cmn' is not built in; there is .*cnn"):
        find_workload("cmn")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"epoch": 3}, "parameters.epoch: there is no such parameter; allowed are accumulate, architecture, "),
        ({"epochs": 0}, "parameters.epochs: 0 is not allowed"),
        ({"epochs": "3"}, "parameters.epochs: '3' is not allowed"),
        ({"batchSize": 1.5}, "parameters.batchSize: 1.5 is not allowed"),
        ({"learningRate": float("nan")}, "parameters.learningRate: nan is not allowed"),
        ({"architecture": "conv9"}, "'conv32-64', 'conv8', 'small' or 'deep'"),
        ({"augment": 1}, "parameters.augment: 1 is not allowed"),
    ],
)
def test_a_wrong_parameter_is_named(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_parameters(find_workload("cnn"), given)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_cosine_rises_to_the_learning_rate_and_falls_to_nothing() -> None:
    parameters = cnn.Parameters(learning_rate=0.5)
    rates = [learning_rate(parameters, done / 1000) for done in range(1001)]
    top = rates.index(max(rates))
    assert 0 < rates[0] < 0.02
    assert 0.45 < rates[top] <= 0.5
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert rates[-1] == pytest.approx(0, abs=1e-9)


def test_a_constant_schedule_stays() -> None:
    parameters = cnn.Parameters(learning_rate=0.5, schedule="constant")
    assert {learning_rate(parameters, done / 10) for done in range(11)} == {0.5}


@pytest.mark.parametrize(
    ("architecture", "size"), [("conv32-64", 1_199_882), ("conv8", 13_610), ("small", 14_786), ("deep", 288_170)]
)
def test_the_architectures_have_the_parameters_they_are_known_for(architecture: Any, size: int) -> None:
    task = make(cnn.Parameters(architecture=architecture))
    assert sum(parameter.numel() for parameter in task.model.parameters()) == size
    assert task.model(task.prepare(part(samples(4))).batch[0]).shape == (4, 10)


def make(parameters: cnn.Parameters) -> cnn.Cnn:
    """The task for 28x28 digits."""
    return cnn.make_task(parameters, load_digits(), CPU)


def part(batch: tuple[torch.Tensor, torch.Tensor]) -> Part:
    """A batch of one rank alone."""
    size = len(batch[0])
    return Feed(batch, 0, Schedule(size, size, 1), Place(0, 0, 1)).part(0, 0)


def samples(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 1, 28, 28), dtype=torch.uint8, generator=generator)
    return images, torch.arange(count) % 10


def test_a_distorted_image_keeps_its_ink_and_its_place_more_or_less() -> None:
    image = torch.zeros(200, 1, 28, 28)
    image[:, :, 12:16, 12:16] = 255
    torch.manual_seed(0)
    distorted = distort(image)
    assert not torch.equal(distorted[0], distorted[1])
    ink = distorted.sum((1, 2, 3)) / image[0].sum()
    assert ink.min() > 0.6
    assert ink.max() < 1.5
    centre = (distorted.sum(2).squeeze(1) * torch.arange(28)).sum(1) / distorted.sum((1, 2, 3))
    assert (centre - 13.5).abs().max() < 3


def test_without_augmentation_a_batch_is_only_normalised() -> None:
    task = make(cnn.Parameters(augment=False))
    own = part(samples(3))
    images, labels = own.batch
    inputs, same = task.prepare(own).batch
    (mean,), (deviation,) = GREY
    assert torch.allclose(inputs * deviation + mean, images.float(), atol=1e-3)
    assert torch.equal(labels, same)


def test_measures_are_sums_that_add_up() -> None:
    task = make(cnn.Parameters(architecture="conv8"))
    images, labels = samples(30)
    task.model.eval()
    whole = task.measure((images, labels))
    halves = [task.measure((images[part], labels[part])) for part in (slice(0, 11), slice(11, 30))]
    for name in ("loss", "confusion"):
        assert torch.allclose(halves[0][name] + halves[1][name], whole[name], rtol=1e-5)


def test_recall_and_f1_are_means_over_the_classes_there_are() -> None:
    confusion = torch.zeros(10, 10, dtype=torch.float64)
    confusion[0, 0], confusion[0, 1], confusion[1, 1] = 6, 2, 4
    told = make(cnn.Parameters()).describe({"loss": torch.tensor(6.0), "confusion": confusion}, 12)
    assert told == pytest.approx(
        {"loss": 0.5, "accuracy": 10 / 12, "recall": (6 / 8 + 1) / 2, "f1": (12 / 14 + 8 / 10) / 2}
    )


@settings(max_examples=15)
@given(st.integers(1, 12), st.integers(1, 9))
def test_the_mean_of_the_ranks_gradients_is_that_of_the_mean_over_the_batch(batch: int, world_size: int) -> None:
    task = make(cnn.Parameters(architecture="conv8", augment=False))
    batch_of_all, schedule = samples(batch), Schedule(batch, batch, 1)

    def gradients(places: list[Place]) -> torch.Tensor:
        total = torch.zeros(sum(p.numel() for p in task.model.parameters()))
        for place in places:
            own = Feed(batch_of_all, 0, schedule, place).part(0, 0)
            assert own.total == batch
            task.optimizer.zero_grad()
            (task.loss(task.model, task.prepare(own)) * own.weight).backward()
            total += torch.cat([p.grad.flatten() for p in task.model.parameters()])  # type: ignore[union-attr]
        return total / len(places)

    alone = gradients([Place(0, 0, 1)])
    together = gradients([Place(rank, rank, world_size) for rank in range(world_size)])
    assert torch.allclose(alone, together, atol=1e-5)
