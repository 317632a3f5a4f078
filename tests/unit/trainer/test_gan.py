"""`gan`: its networks, what a step changes, its measures and what its kinds have."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dlcloud_trainer.assignment import Place, StoreAddress
from dlcloud_trainer.data.splits import Splits
from dlcloud_trainer.data.unlabelled import Placed
from dlcloud_trainer.errors import InvalidInput
from dlcloud_trainer.feed import Feed
from dlcloud_trainer.finetune import weights_of
from dlcloud_trainer.judging import set_training
from dlcloud_trainer.parameters import parse_parameters
from dlcloud_trainer.sharding import Schedule
from dlcloud_trainer.workload import Moment, Part
from dlcloud_trainer.workloads import gan

CPU = torch.device("cpu")
KINDS = ["dcgan", "wgan", "wgan-gp"]
SMALL = {"width": 2, "noise": 5}


def images(samples: int = 8, side: int = 8, channels: int = 1) -> Splits[Placed]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (samples, channels, side, side), dtype=torch.uint8, generator=generator)
    part = Placed(pixels, torch.arange(samples))
    return Splits(part, part, part)


def make(data: Splits[Placed] | None = None, **given: Any) -> gan.Gan:
    torch.manual_seed(3)
    parameters = parse_parameters(gan, SMALL | given)
    assert isinstance(parameters, gan.Parameters)
    task = gan.make_task(parameters, data or images(), CPU)
    set_training(task, True)
    return task


def part(samples: int = 8, step: int = 0) -> Part:
    return Feed(images(samples).train, 0, Schedule(samples, samples, 10), Place(0, 0, 1)).part(0, step)


def state(task: gan.Gan) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": value.clone()
        for name, model in task.models.items()
        for key, value in model.state_dict().items()
    }


def names_of_weights(task: gan.Gan) -> list[str]:
    return [f"{name}.{key}" for name, model in task.models.items() for key, _ in model.named_parameters()]


def test_the_networks_have_the_weights_they_are_known_for() -> None:
    parameters = gan.Parameters()
    with torch.device("meta"):  # their shapes are enough
        models = {
            name: getattr(gan, f"build_{name}")((1, 28, 28), parameters) for name in ("generator", "discriminator")
        }
    sizes = {name: sum(weight.numel() for weight in model.parameters()) for name, model in models.items()}
    assert sizes == {"generator": 2_305_472, "discriminator": 212_865}


@pytest.mark.parametrize(("side", "channels"), [(8, 1), (32, 3)])
def test_the_generator_draws_images_of_the_datas_shape(side: int, channels: int) -> None:
    task = make(images(4, side, channels))
    drawn = task.models["generator"](torch.randn(4, 5))
    assert drawn.shape == (4, channels, side, side)
    assert drawn.abs().max() <= 1
    assert task.models["discriminator"](drawn).shape == (4, 1)


def test_sides_that_4_does_not_divide_are_refused() -> None:
    with pytest.raises(InvalidInput, match="images of 10x10 pixels"):
        make(images(side=10))


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_changes_every_weight_of_both_networks(kind: str) -> None:
    task = make(kind=kind)
    before = state(task)
    task.update(part(), Moment(0, 0, 0.01))
    after = state(task)
    # A critic's last bias is in both of its terms, and cancels.
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same <= (set() if kind == "dcgan" else {"discriminator.dense.bias"})


@pytest.mark.parametrize("kind", KINDS)
def test_the_generators_step_leaves_no_gradient_in_the_discriminator(kind: str) -> None:
    task = make(kind=kind)
    (task._teach_both if kind == "dcgan" else task._teach_generator)(part())
    gradients = [weight.grad for weight in task.models["discriminator"].parameters()]
    if kind != "dcgan":
        assert gradients == [None] * len(gradients)
    assert all(weight.grad is not None for weight in task.models["generator"].parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_rehearsal_changes_no_weight_and_leaves_no_gradient(kind: str) -> None:
    task = make(kind=kind)
    before, weights = state(task), set(names_of_weights(task))
    rates = [optimizer.param_groups[0]["lr"] for optimizer in task.optimizers.values()]
    task.rehearse(part())
    assert {name for name, value in state(task).items() if not torch.equal(value, before[name])}.isdisjoint(weights)
    assert all(weight.grad is None for model in task.models.values() for weight in model.parameters())
    assert [optimizer.param_groups[0]["lr"] for optimizer in task.optimizers.values()] == rates


def test_a_clipped_critics_weights_stay_within_the_limit() -> None:
    task = make(kind="wgan", weightClip=0.02)
    task.update(part(), Moment(0, 0, 0.01))
    assert max(weight.abs().max().item() for weight in task.models["discriminator"].parameters()) <= 0.02
    assert max(weight.abs().max().item() for weight in task.models["generator"].parameters()) > 0.02


def test_the_critic_makes_as_many_steps_as_it_is_given() -> None:
    for steps in (1, 4):
        task = make(kind="wgan-gp", criticSteps=steps)
        task.update(part(), Moment(0, 0, 0.01))
        made = {
            name: next(iter(optimizer.state.values()))["step"].item() for name, optimizer in task.optimizers.items()
        }
        assert made == {"generator": 1, "discriminator": steps}


def test_the_penalty_of_a_critic_with_slope_one_is_nothing_and_with_slope_three_it_is_four() -> None:
    task, real = make(kind="wgan-gp"), torch.zeros(2, 1, 8, 8)

    class Plane(nn.Module):
        def __init__(self, slope: float) -> None:
            super().__init__()
            self.direction = torch.zeros(64)
            self.direction[3] = slope

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return (pixels.flatten(1) * self.direction).sum(1, keepdim=True)

    two = part(2)
    for slope, wanted in ((1.0, 0.0), (3.0, 2 * 4.0)):
        task.models["discriminator"] = Plane(slope)
        assert task._penalty(real, torch.ones_like(real), two, 1).item() == pytest.approx(wanted, abs=1e-5)


def test_gradients_are_clipped_value_by_value_where_it_is_usual() -> None:
    seen: list[float] = []

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        seen.append(max(weight.grad.abs().max().item() for weight in optimizer.param_groups[0]["params"]))

    for given in ({"clipValue": 1e-4}, {}):
        task = make(**given)
        task.optimizers["discriminator"].register_step_pre_hook(note)
        task.update(part(), Moment(0, 0, 0.01))
    assert seen[0] == pytest.approx(1e-4)
    assert seen[1] > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_rank_with_one_sample_can_train(kind: str) -> None:
    task = make(kind=kind)
    assert torch.isfinite(task.update(part(1), Moment(0, 0, 0.001)))


@pytest.mark.parametrize("kind", KINDS)
def test_mixed_precision_trains_float32_weights_about_as_float32_does(kind: str) -> None:
    losses = []
    for precision in ("float32", "bfloat16"):
        task = make(kind=kind, precision=precision, **({"dropout": 0.0} if kind == "dcgan" else {}))
        losses.append(task.update(part(), Moment(0, 0, 1e-4)).item())
        assert {weight.dtype for model in task.models.values() for weight in model.parameters()} == {torch.float32}
    assert losses[1] == pytest.approx(losses[0], rel=0.05, abs=0.05)


def test_the_average_follows_the_generator_and_is_what_is_measured() -> None:
    task = make(ema=0.5)
    before = [weight.clone() for weight in task.judged.parameters()]
    for step in range(3):
        task.update(part(step=step), Moment(step, 0, 0.01))
    assert task.judged is not task.models["generator"]
    assert "generator-average" in task.parts
    assert all(not torch.equal(one, other) for one, other in zip(before, task.judged.parameters(), strict=True))


def test_both_networks_begin_from_a_checkpoint_with_or_without_an_average() -> None:
    plain = {"generator.dense": torch.zeros(1), "discriminator.dense": torch.ones(1)}
    averaged = plain | {"generator-average.dense": torch.full((1,), 2.0)}
    for saved, generator in ((plain, 0.0), (averaged, 2.0)):
        found = {name: weights_of(name, saved) for name in ("generator", "generator-average", "discriminator")}
        assert {name: weights["dense"].item() for name, weights in found.items()} == {
            "generator": generator, "generator-average": generator, "discriminator": 1.0
        }  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_measured_the_same_in_one_batch_as_in_two(kind: str) -> None:
    task, test = make(kind=kind), images().test
    set_training(task, False)
    with torch.no_grad():
        whole = task.measure(test)
        halves = [task.measure(Placed(*(tensor[chosen] for tensor in test))) for chosen in (slice(3), slice(3, 8))]
    for name, value in whole.items():
        torch.testing.assert_close(halves[0][name] + halves[1][name], value, rtol=1e-4, atol=1e-4, msg=name)


def test_a_generator_that_draws_the_data_is_nearer_than_one_that_draws_always_the_same() -> None:
    data, distances = images(64), []
    for spread in (1.0, 0.0):
        task = make(data)

        class Copier(nn.Module):
            def __init__(self, spread: float) -> None:
                super().__init__()
                self.spread = spread

            def forward(self, noise: torch.Tensor) -> torch.Tensor:
                return gan.scaled(data.train.images.flip(0)) * self.spread

        task.models["generator"] = Copier(spread)
        distances.append(task.describe(task.measure(data.test), 64)["distance"])
    assert distances[0] < 1e-3 < distances[1]


def test_the_picture_is_a_grid_of_the_same_noise_each_time() -> None:
    task = make()
    set_training(task, False)
    one, other = task.pictures(images().validation)["samples"], task.pictures(images(3).validation)["samples"]
    assert one.shape == (8 * 8 + 7 * 2, 8 * 8 + 7 * 2)
    assert one.dtype == torch.uint8
    assert torch.equal(one, other)
    assert len({tuple(one[:8, 10 * column : 10 * column + 8].flatten().tolist()) for column in range(8)}) == 8


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, ("adam", 2e-4, 0.0)),
        ({"kind": "wgan"}, ("rmsprop", 3e-4, 0.0)),
        ({"kind": "wgan-gp"}, ("adam", 1e-4, 0.0)),
        ({"preset": "faithful"}, ("rmsprop", 8e-4, 1.0)),
        ({"preset": "faithful", "kind": "wgan"}, ("rmsprop", 5e-5, 0.0)),
        ({"preset": "faithful", "optimizer": "adam", "learningRate": 1e-4}, ("adam", 1e-4, 1.0)),
        ({"kind": "wgan", "optimizer": "usual", "learningRate": 0.0}, ("rmsprop", 3e-4, 0.0)),
        ({"kind": "wgan-gp", "learningRate": 0.003, "clipValue": 2.0}, ("adam", 0.003, 2.0)),
    ],
)
def test_what_a_job_does_not_say_is_as_usual_for_the_kind(
    given: dict[str, Any], wanted: tuple[str, float, float]
) -> None:
    parameters = parse_parameters(gan, given)
    assert isinstance(parameters, gan.Parameters)
    assert (parameters.optimizer, parameters.learning_rate, parameters.clip_value) == wanted


@pytest.mark.parametrize(
    ("given", "steps", "clip"),
    [
        ({}, 0, 0.0),
        ({"kind": "wgan"}, 5, 0.01),
        ({"kind": "wgan-gp"}, 5, 0.0),
        ({"kind": "wgan", "preset": "faithful"}, 5, 0.01),
        ({"kind": "wgan", "preset": "best"}, 3, 0.05),
        ({"kind": "wgan-gp", "preset": "best"}, 1, 0.0),
        ({"kind": "wgan", "preset": "best", "criticSteps": 5, "weightClip": 0.01}, 5, 0.01),
        ({"kind": "dcgan", "preset": "best"}, 0, 0.0),
    ],
)
def test_how_often_a_critic_goes_and_how_far_is_the_presets(given: dict[str, Any], steps: int, clip: float) -> None:
    parameters = parse_parameters(gan, given)
    assert isinstance(parameters, gan.Parameters)
    assert (parameters.critic_steps, parameters.weight_clip) == (steps, clip)


@pytest.mark.parametrize(
    ("given", "schedule"),
    [
        ({}, "constant"),
        ({"kind": "wgan"}, "constant"),
        ({"kind": "wgan", "preset": "faithful"}, "constant"),
        ({"kind": "wgan", "preset": "best"}, "cosine"),
        ({"kind": "wgan", "preset": "best", "schedule": "constant"}, "constant"),
        ({"kind": "wgan-gp", "preset": "best"}, "constant"),
        ({"kind": "wgan-gp", "schedule": "linear"}, "linear"),
    ],
)
def test_the_rate_falls_for_the_best_wgan_alone_unless_told(given: dict[str, Any], schedule: str) -> None:
    parameters = parse_parameters(gan, given)
    assert parameters.schedule == schedule


@pytest.mark.parametrize(
    ("given", "part"), [({}, 0.3), ({"preset": "best"}, 0.0), ({"preset": "best", "dropout": 0.2}, 0.2)]
)
def test_the_best_preset_drops_nothing_unless_told(given: dict[str, Any], part: float) -> None:
    parameters = parse_parameters(gan, given)
    assert isinstance(parameters, gan.Parameters)
    assert parameters.dropout == part


@pytest.mark.parametrize(("kind", "betas"), [("dcgan", (0.5, 0.999)), ("wgan", (0.5, 0.999)), ("wgan-gp", (0.0, 0.9))])
def test_adams_betas_are_the_kinds(kind: str, betas: tuple[float, float]) -> None:
    for optimizer in make(kind=kind, optimizer="adam").optimizers.values():
        assert optimizer.param_groups[0]["betas"] == betas


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"criticSteps": 2}, "criticSteps: kind dcgan has none; leave it out, or give kind wgan"),
        ({"kind": "wgan", "dropout": 0.1}, "dropout: kind wgan has none"),
        ({"kind": "wgan", "penalty": 5.0}, "penalty: kind wgan has none"),
        ({"kind": "wgan-gp", "weightClip": 0.1}, "weightClip: kind wgan-gp has none"),
        ({"accumulate": 2}, "parameters.accumulate: it does not apply here"),
        ({"kind": "began"}, "parameters.kind: 'began' is not allowed"),
    ],
)
def test_what_a_kind_does_not_have_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_parameters(gan, given)
    assert words in str(refused.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("preset", ["default", "faithful", "best"])
def test_every_preset_of_every_kind_is_a_set_of_parameters_the_workload_takes(kind: str, preset: str) -> None:
    parameters = parse_parameters(gan, {"preset": preset, "kind": kind, "width": 4})
    assert isinstance(parameters, gan.Parameters)
    data = gan.load_data("builtin://digits", StoreAddress(), parameters)
    task = gan.make_task(parameters, data, CPU)
    set_training(task, False)
    with torch.no_grad():
        told = task.describe(task.measure(Placed(*(tensor[:20] for tensor in data.validation))), 20)
    assert set(told) == {"loss", "generator", "distance"}
