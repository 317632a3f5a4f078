"""`cifar`: its networks, its first layer, its views, and what it cannot take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dlcloud_trainer.data import Images, Splits
from dlcloud_trainer.data.cifar import CLASSES
from dlcloud_trainer.errors import InvalidInput
from dlcloud_trainer.parameters import parse_parameters
from dlcloud_trainer.workload import Moment, Part
from dlcloud_trainer.workloads import cifar

CPU = torch.device("cpu")
COUNT = 16


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small convolutions are slow with more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def data(count: int = COUNT, side: int = 20) -> Splits[Images]:
    generator = torch.Generator().manual_seed(1)
    # neighbouring pixels are alike, as in photographs
    coarse = torch.rand(count, 3, side // 4, side // 4, generator=generator)
    images = nn.functional.interpolate(coarse, size=side, mode="bilinear").mul(255).to(torch.uint8)
    part = Images(images, torch.arange(count) % 10)
    return Splits(part, part, part, CLASSES, ((125.0, 125.0, 125.0), (60.0, 60.0, 60.0)))


def task(**given: Any) -> cifar.Cifar:
    torch.manual_seed(3)
    return cifar.make_task(cifar.Parameters.model_validate(given), data(), CPU)


def whole(epoch: int = 0) -> Part:
    train = data().train
    return Part(tuple(train), torch.arange(COUNT), epoch, 1 / COUNT, 0, COUNT, 7)


@pytest.mark.parametrize(("architecture", "size"), [("conv32-64-64", 122_570), ("whitened", 1_972_504)])
def test_the_networks_have_the_weights_they_are_known_for(architecture: str, size: int) -> None:
    parameters = cifar.Parameters.model_validate({"architecture": architecture})
    model = cifar.make_task(parameters, data(side=32), CPU).model
    assert sum(one.numel() for one in model.parameters() if one.requires_grad) == size
    assert model.eval()(torch.rand(3, 3, 32, 32)).shape == (3, 10)


def test_the_first_layer_makes_patches_of_deviation_one_that_have_nothing_in_common() -> None:
    made = task()
    pixels = made.inputs(whole().batch)[0]
    with torch.no_grad():
        answers = made.model.get_submodule("whiten")(pixels)
    half = answers.shape[1] // 2
    assert torch.allclose(answers[:, :half], -answers[:, half:], atol=1e-4)
    rows = answers[:, :half].permute(1, 0, 2, 3).flatten(1).double()
    covariance = rows @ rows.T / rows.shape[1]
    off = covariance - covariance.diagonal().diag()
    assert off.abs().max() < 1e-3
    assert (covariance.diagonal() <= 1 + 1e-3).all()
    assert covariance.diagonal()[-4:].min() > 0.99  # only what is nearly noise is kept below one


def test_the_first_layer_is_the_same_from_the_same_data_and_is_not_trained() -> None:
    made, again = task(), task()
    before = made.model.get_submodule("whiten").weight.clone()
    assert torch.equal(before, again.model.get_submodule("whiten").weight)
    for step in range(2):
        made.update(whole(), Moment(step, 0, 0.1))
    assert torch.equal(before, made.model.get_submodule("whiten").weight)


@pytest.mark.parametrize("architecture", ["conv32-64-64", "whitened"])
def test_a_few_steps_make_the_loss_smaller(architecture: str) -> None:
    made = task(architecture=architecture, augment=False, label_smoothing=0.0)
    rate = 0.02
    made.model.train()
    losses = [made.update(whole(), Moment(step, 0, rate)).item() for step in range(6)]
    assert losses[-1] < losses[0]


def test_an_image_is_mirrored_every_other_epoch() -> None:
    made = task(architecture="conv32-64-64")
    plain = made.normalize(whole().batch[0])
    torch.manual_seed(5)
    one = made.prepare(whole(0)).batch[0]
    torch.manual_seed(5)
    other = made.prepare(whole(1)).batch[0]
    middle = (..., slice(4, 16), slice(4, 16))
    # moved alike in both epochs: one is the other's mirror image, but for the move
    torch.manual_seed(5)
    moved = cifar.shift(plain, cifar.MOVED_BY)
    torch.manual_seed(5)
    mirrored = cifar.shift(plain.flip(-1), cifar.MOVED_BY)
    first = torch.tensor([torch.equal(one[i][middle], moved[i][middle]) for i in range(COUNT)])
    second = torch.tensor([torch.equal(other[i][middle], moved[i][middle]) for i in range(COUNT)])
    assert (first ^ second).all()
    assert 4 <= first.sum() <= 12
    assert all(torch.equal((other if first[i] else one)[i], mirrored[i]) for i in range(COUNT))


def test_without_augmentation_a_batch_is_only_normalised() -> None:
    made = task(augment=False)
    prepared = made.prepare(whole()).batch[0]
    assert torch.equal(prepared, made.inputs(whole().batch)[0])
    assert torch.allclose(prepared * 60 + 125, whole().batch[0].float(), atol=1e-3)


def test_six_views_are_measured_alike_for_an_image_and_its_mirror_image() -> None:
    made = task(architecture="conv32-64-64", tta=True)
    made.model.eval()
    plain = whole().batch[0]
    views = made.scores(made.inputs((plain, whole().batch[1])))
    mirrored = made.scores(made.inputs((plain.flip(-1), whole().batch[1])))
    assert torch.allclose(views, mirrored, atol=1e-5)
    alone = task(architecture="conv32-64-64").model.eval()(made.inputs((plain,))[0])
    assert not torch.allclose(views, alone, atol=1e-3)


def test_a_view_that_is_moved_by_nothing_is_the_image() -> None:
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(cifar.corner(images, 1), images)
    assert torch.equal(cifar.corner(images, 0)[..., 1:, 1:], images[..., :-1, :-1])


@pytest.mark.parametrize(("architecture", "words"), [("conv32-64-64", "18x18"), ("whitened", "16x16")])
def test_images_that_are_too_small_are_refused(architecture: str, words: str) -> None:
    parameters = cifar.Parameters.model_validate({"architecture": architecture})
    with pytest.raises(InvalidInput, match=f"images of 12x12 pixels; {architecture} needs {words} and more"):
        cifar.make_task(parameters, data(side=12), CPU)


@pytest.mark.parametrize("preset", ["faithful", "best"])
def test_the_presets_are_parameters_it_takes(preset: str) -> None:
    found = parse_parameters(cifar, {"preset": preset})
    assert isinstance(found, cifar.Parameters)
    if preset == "faithful":
        assert (found.architecture, found.optimizer, found.epsilon) == ("conv32-64-64", "adam", 1e-7)
        first = cifar.make_task(found, data(), CPU).model.get_submodule("conv1")
        assert not first.bias.any()  # Keras begins with zeros
        assert (found.augment, found.label_smoothing, found.weight_decay) == (False, 0.0, 0.0)


def test_its_manifest_is_one_it_takes() -> None:
    import yaml

    file = Path(__file__).parents[4] / "manifests" / "cifar.yaml"
    spec = yaml.safe_load(file.read_text())["spec"]
    assert spec["workload"] == "cifar"
    parse_parameters(cifar, spec["parameters"])
