"""The gradients of `gan` on two and three real ranks, beside those of one process that works out every rank's part by
itself, as simply as it can, and takes the mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from dlcloud_trainer.workload import Part

from .gradients import RATE, Order, begin, gradients, optimizers_of, parts_of, watch

# Steps of 7, 7 and 1 sample: shares differ, and in the last step ranks have no sample or just one.
SAMPLES, STEPS = 15, 3
PARAMETERS = {"width": 2, "noise": 5, "batchSize": 7, "optimizer": "sgd", "momentum": 0.0, "learningRate": RATE}
STEPS_OF_CRITIC = 3
KINDS: dict[str, dict[str, Any]] = {
    "dcgan": {"dropout": 0.0},
    "wgan": {"criticSteps": STEPS_OF_CRITIC, "weightClip": 0.5},
    "wgan-gp": {"criticSteps": STEPS_OF_CRITIC},
}


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradients_are_the_mean_of_those_of_the_ranks(kind: str, world_size: int, tmp_path: Path) -> None:
    parameters = PARAMETERS | KINDS[kind] | {"kind": kind}
    seen = gradients("gan", parameters, tmp_path, world_size, samples=SAMPLES, steps=STEPS)
    wanted = emulated(kind, parameters, world_size)
    per_step = ["discriminator-optimizer"] * (1 if kind == "dcgan" else STEPS_OF_CRITIC) + ["generator-optimizer"]
    for rank in seen:
        assert [name for name, _ in rank] == per_step * STEPS == [name for name, _ in wanted]
        for number, ((_, ours), (name, theirs)) in enumerate(zip(rank, wanted, strict=True)):
            for weight, (one, other) in enumerate(zip(ours, theirs, strict=True)):
                torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-6, msg=f"{name} {number}, weight {weight}")


def emulated(kind: str, parameters: dict[str, Any], world_size: int) -> list[tuple[str, list[Tensor]]]:
    """The same steps in one process."""
    ranks = [begin(Order("gan", parameters, SAMPLES, STEPS, rank, world_size, "")) for rank in range(world_size)]
    task = ranks[0][0]
    generator, discriminator = task.models["generator"], task.models["discriminator"]
    optimizers = optimizers_of(task)
    seen: list[tuple[str, list[Tensor]]] = []
    watch(optimizers, seen)

    def step(name: str, model: nn.Module, losses: list[Tensor]) -> None:
        torch.autograd.backward(sum(losses), inputs=list(model.parameters()))  # type: ignore[arg-type]
        optimizers[f"{name}-optimizer"].param_groups[0]["lr"] = RATE
        optimizers[f"{name}-optimizer"].step()
        optimizers[f"{name}-optimizer"].zero_grad()

    for parts in zip(*(parts_of(Order("gan", parameters, SAMPLES, STEPS, rank, world_size, ""), feed, world_size)
                       for rank, (_, feed) in enumerate(ranks)), strict=True):  # fmt: skip
        mine = [part for part in parts if part.weight]
        assert sum(len(part) for part in mine) == parts[0].total
        if kind == "dcgan":
            about_fake = [binary(discriminator(draw(generator, part, 0)), 1.0) / part.total for part in mine]
            about_both = [
                (binary(discriminator(real(part)), 1.0) + binary(discriminator(draw(generator, part, 0)), 0.0))
                / part.total
                for part in mine
            ]
            # Both gradients first, then both steps.
            kept = torch.autograd.grad(sum(about_fake), list(generator.parameters()))  # type: ignore[arg-type]
            step("discriminator", discriminator, about_both)
            for weight, gradient in zip(generator.parameters(), kept, strict=True):
                weight.grad = gradient
            optimizers["generator-optimizer"].param_groups[0]["lr"] = RATE
            optimizers["generator-optimizer"].step()
            continue
        for number in range(STEPS_OF_CRITIC):
            step(
                "discriminator",
                discriminator,
                [criticism(kind, generator, discriminator, part, number) for part in mine],
            )
            if kind == "wgan":
                for weight in discriminator.parameters():
                    weight.data.clamp_(-0.5, 0.5)
        images = [draw(generator, part, 2 * STEPS_OF_CRITIC) for part in mine]
        step(
            "generator",
            generator,
            [-discriminator(one).sum() / part.total for one, part in zip(images, mine, strict=True)],
        )
    return seen


def criticism(kind: str, generator: nn.Module, critic: nn.Module, part: Part, number: int) -> Tensor:
    """A rank's part of the critic's loss, with the penalty as its paper has it."""
    fake = draw(generator, part, 2 * number).detach()
    loss = critic(fake).sum() - critic(real(part)).sum()
    if kind == "wgan-gp":
        even = 0.5 * (1 + torch.erf(part.noise(1, 1, 1, stream=2 * number + 1) / 2**0.5))
        between = (even * fake + (1 - even) * real(part)).requires_grad_()
        for index in range(len(part)):
            one = between[index : index + 1]
            (slope,) = torch.autograd.grad(critic(one).sum(), one, create_graph=True)
            loss = loss + 10 * (slope.norm() - 1) ** 2
    return loss / part.total


def draw(generator: nn.Module, part: Part, stream: int) -> Tensor:
    noise = part.noise(5, stream=stream)
    return generator(noise) if len(noise) > 1 else generator(torch.cat([noise, -noise]))[:1]


def real(part: Part) -> Tensor:
    return part.batch[0] / 127.5 - 1


def binary(scores: Tensor, wanted: float) -> Tensor:
    return binary_cross_entropy_with_logits(scores, torch.full_like(scores, wanted), reduction="sum")
