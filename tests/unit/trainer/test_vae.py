"""`vae`: the bound it minimises, the noise it uses, its pictures."""

from __future__ import annotations

import math

import pytest
import torch

from dlcloud_trainer.assignment import Place, StoreAddress
from dlcloud_trainer.data.splits import Splits
from dlcloud_trainer.data.unlabelled import Placed, noise_of_places
from dlcloud_trainer.errors import InvalidInput
from dlcloud_trainer.feed import Feed
from dlcloud_trainer.parameters import parse_parameters
from dlcloud_trainer.sharding import Schedule
from dlcloud_trainer.workload import Moment, Part
from dlcloud_trainer.workloads import vae

CPU = torch.device("cpu")
SMALL = {"hidden": 8, "latents": 3}


def images(samples: int = 12, side: int = 8, channels: int = 1) -> Splits[Placed]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (samples, channels, side, side), dtype=torch.uint8, generator=generator)
    part = Placed(pixels, torch.arange(samples))
    return Splits(part, part, part)


def make(data: Splits[Placed] | None = None, **parameters: object) -> vae.Vae:
    torch.manual_seed(3)
    return vae.make_task(vae.Parameters.model_validate(SMALL | parameters), data or images(), CPU)


def parts(samples: int, world_size: int, step: int = 0) -> list[Part]:
    """A step's batch, as each of the ranks gets it."""
    feeds = (
        Feed(images(samples).train, 0, Schedule(samples, samples, 1), Place(rank, rank, world_size))
        for rank in range(world_size)
    )
    return [feed.part(0, step) for feed in feeds]


def test_the_divergence_is_that_of_two_normal_distributions() -> None:
    mean, deviation = torch.tensor([[0.3, -1.2]]), torch.tensor([[0.5, 1.7]])
    pixels = torch.zeros(1, 4)
    _, divergence = vae.bounds(pixels, pixels, mean, 2 * deviation.log())
    own, standard = torch.distributions.Normal(mean, deviation), torch.distributions.Normal(0.0, 1.0)
    assert divergence.item() == pytest.approx(torch.distributions.kl_divergence(own, standard).sum().item(), rel=1e-5)


def test_the_reconstruction_is_measured_in_nats_summed_over_pixels_and_samples() -> None:
    grey, latents = torch.full((3, 1, 2, 2), 0.25), torch.zeros(3, 2)
    logits = torch.full((3, 1, 2, 2), math.log(0.25 / 0.75))
    reconstruction, divergence = vae.bounds(grey, logits, latents, latents)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert reconstruction.item() == pytest.approx(3 * 4 * entropy, rel=1e-5)
    assert divergence.item() == 0


def test_the_loss_is_the_sum_of_both_terms_and_never_less_than_the_pixels_entropy() -> None:
    task = make()
    measured = task.measure(images().test)
    assert measured["loss"].item() == pytest.approx((measured["reconstruction"] + measured["divergence"]).item())
    shares = images().test.images.double() / 255
    least = torch.special.entr(shares).sum() + torch.special.entr(1 - shares).sum()
    assert measured["reconstruction"].item() > least.item()


@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_train_with_the_noise_that_one_rank_would_have_drawn(world_size: int) -> None:
    task = make()
    whole = task.prepare(parts(7, 1)[0]).batch
    shares = [task.prepare(part).batch for part in parts(7, world_size)]
    for one, pieces in zip(whole, zip(*shares, strict=True), strict=True):
        assert torch.equal(one, torch.cat(list(pieces)))


def test_accumulated_pieces_have_the_noise_of_the_whole() -> None:
    task, (part,) = make(), parts(7, 1)
    pieces = [task.prepare(piece).batch[1] for piece in part.pieces(3)]
    assert len(pieces) == 3
    assert torch.equal(torch.cat(pieces), task.prepare(part).batch[1])


def test_an_image_is_measured_with_the_same_noise_wherever_it_is_measured() -> None:
    task, test = make(), images().test
    whole = task.measure(test)
    halves = [task.measure(Placed(*(tensor[chosen] for tensor in test))) for chosen in (slice(5), slice(5, 12))]
    for name, value in whole.items():
        assert sum(half[name].item() for half in halves) == pytest.approx(value.item(), rel=1e-5), name


def test_the_noise_of_measures_is_the_same_in_every_training() -> None:
    torch.manual_seed(1)
    one = noise_of_places(images(), 3)
    torch.manual_seed(2)
    assert torch.equal(one, noise_of_places(images(), 3))
    assert one.shape == (12, 3)


@pytest.mark.parametrize("architecture", ["dense", "conv"])
def test_a_few_steps_lower_the_loss_of_the_images_seen(architecture: str) -> None:
    task = make(architecture=architecture, hidden=16)
    before = task.measure(images().test)["loss"]
    for step in range(30):
        (part,) = parts(12, 1, step)  # new noise each time
        task.update(part, Moment(step, 0, 0.01))
    assert task.measure(images().test)["loss"] < 0.98 * before


@pytest.mark.parametrize(("channels", "shape"), [(1, ()), (3, (3,))])
def test_the_pictures_show_originals_above_reconstructions_and_a_walk(channels: int, shape: tuple[int, ...]) -> None:
    task = make(images(channels=channels))
    pictures = task.pictures(images(channels=channels).validation)
    assert pictures["reconstructions"].shape == (2 * 8 + 2, 10 * 8 + 9 * 2, *shape)
    assert pictures["walk"].shape == (10 * 8 + 9 * 2, 10 * 8 + 9 * 2, *shape)
    first = images(channels=channels).validation.images[0].permute(1, 2, 0).squeeze(-1)
    assert torch.equal(pictures["reconstructions"][:8, :8], first)
    assert {picture.dtype for picture in pictures.values()} == {torch.uint8}


def test_a_walk_begins_at_one_image_and_ends_at_the_next() -> None:
    task = make()
    task.model.eval()
    walk = task.pictures(images().validation)["walk"]
    assert torch.equal(walk[:8, -8:], walk[10:18, :8])


def test_the_dense_model_has_the_weights_it_is_known_for() -> None:
    task = make(images(side=28), hidden=400, latents=20)
    assert sum(weight.numel() for weight in task.model.parameters()) == 652_824


def test_images_that_the_strides_do_not_divide_are_refused_by_conv_and_taken_by_dense() -> None:
    with pytest.raises(InvalidInput, match="images of 10x10 pixels"):
        make(images(side=10), architecture="conv")
    assert make(images(side=10)).measure(images(side=10).test)["loss"] > 0


@pytest.mark.parametrize("preset", ["default", "faithful", "best"])
def test_every_preset_is_a_set_of_parameters_the_workload_takes(preset: str) -> None:
    parameters = parse_parameters(vae, {"preset": preset})
    data = vae.load_data("builtin://digits", StoreAddress(), parameters)
    assert isinstance(parameters, vae.Parameters)
    assert vae.make_task(parameters, data, CPU).measure(Placed(*(part[:2] for part in data.test)))["loss"] > 0
