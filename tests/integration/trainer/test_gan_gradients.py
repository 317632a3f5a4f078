"""The gradients of `gan` on two and three real ranks, beside those of one process that works out every rank's part by
itself, as simply as it can, and takes the mean."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from dlcloud_trainer.workload import Part

from .gradients import RATE, Order, begin, optimizers_of, orders, parts_of, run, watch, written

pytestmark = pytest.mark.timeout(300)
# Steps of 7, 7 and 1 sample: shares differ, and in the last step ranks have no sample or just one.
SAMPLES, STEPS = 15, 3
PARAMETERS = {"width": 2, "noise": 5, "batchSize": 7, "optimizer": "sgd", "momentum": 0.0, "learningRate": RATE}
STEPS_OF_CRITIC = 2
KINDS: dict[str, dict[str, Any]] = {
    "dcgan": {"dropout": 0.0},
    "wgan": {"criticSteps": STEPS_OF_CRITIC, "weightClip": 0.5},
    "wgan-gp": {"criticSteps": STEPS_OF_CRITIC},
}


WORLD_SIZES = (2, 3)
Seen = list[tuple[str, list[Tensor]]]


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], list[Order]]:
    """The ranks of every kind and number, all of which have made their steps."""
    wanted = {
        (kind, world_size): orders(
            world_size,
            workload="gan",
            parameters=PARAMETERS | KINDS[kind] | {"kind": kind},
            samples=SAMPLES,
            steps=STEPS,
            folder=str(tmp_path_factory.mktemp("round")),
        )
        for kind in KINDS
        for world_size in WORLD_SIZES
    }
    run(list(wanted.values()))
    return wanted


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradients_are_the_mean_of_those_of_the_ranks(
    kind: str, world_size: int, rounds: dict[tuple[str, int], list[Order]]
) -> None:
    ranks = rounds[kind, world_size]
    wanted = emulated(kind, ranks)
    per_step = ["discriminator-optimizer"] * (1 if kind == "dcgan" else STEPS_OF_CRITIC) + ["generator-optimizer"]
    assert [name for name, _ in wanted] == per_step * STEPS
    for seen in map(written, ranks):
        assert [name for name, _ in seen] == per_step * STEPS
        for number, ((_, ours), (name, theirs)) in enumerate(zip(seen, wanted, strict=True)):
            for weight, (one, other) in enumerate(zip(ours, theirs, strict=True)):
                torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-6, msg=f"{name} {number}, weight {weight}")


class Reference:
    """The same steps in one process, on plain networks."""

    def __init__(self, kind: str, ranks: list[Order]) -> None:
        self.kind = kind
        begun = [begin(order) for order in ranks]
        self.parts = [parts_of(order, feed) for order, (_, feed) in zip(ranks, begun, strict=True)]
        task = begun[0][0]
        self.generator, self.critic = task.models["generator"], task.models["discriminator"]
        self.optimizers = optimizers_of(task)
        for optimizer in self.optimizers.values():
            optimizer.param_groups[0]["lr"] = RATE
        self.seen: Seen = []
        watch(self.optimizers, self.seen)

    def step(self, name: str, gradients: tuple[Tensor, ...]) -> None:
        model = self.generator if name == "generator" else self.critic
        for weight, gradient in zip(model.parameters(), gradients, strict=True):
            weight.grad = gradient.contiguous()  # a fused optimiser takes it for such
        self.optimizers[f"{name}-optimizer"].step()

    def of_generator(self, parts: list[Part], stream: int) -> tuple[Tensor, ...]:
        scores = torch.cat([self.critic(draw(self.generator, part, stream)) for part in parts])
        loss = binary(scores, 1.0) if self.kind == "dcgan" else -scores.sum()
        return torch.autograd.grad(loss / len(scores), list(self.generator.parameters()))

    def of_critic(self, parts: list[Part], number: int) -> tuple[Tensor, ...]:
        losses = [criticism(self.kind, self.generator, self.critic, part, number) for part in parts]
        return torch.autograd.grad(torch.stack(losses).sum(), list(self.critic.parameters()))


def emulated(kind: str, ranks: list[Order]) -> Seen:
    """An optimiser's name and its gradients, for each step."""
    reference = Reference(kind, ranks)
    for shares in zip(*reference.parts, strict=True):
        parts = [part for part in shares if part.weight]  # the others have no samples of their own
        assert sum(len(part) for part in parts) == parts[0].total
        if kind == "dcgan":  # both look at the same, before either has moved
            both = reference.of_critic(parts, 0), reference.of_generator(parts, 0)
            reference.step("discriminator", both[0])
            reference.step("generator", both[1])
            continue
        for number in range(STEPS_OF_CRITIC):
            reference.step("discriminator", reference.of_critic(parts, number))
            if kind == "wgan":
                for weight in reference.critic.parameters():
                    weight.data.clamp_(-0.5, 0.5)
        reference.step("generator", reference.of_generator(parts, 2 * STEPS_OF_CRITIC))
    return reference.seen


def criticism(kind: str, generator: nn.Module, critic: nn.Module, part: Part, number: int) -> Tensor:
    """A rank's part of the discriminator's loss; the penalty sample by sample, as its paper has it."""
    fake = draw(generator, part, 2 * number).detach()
    if kind == "dcgan":
        return (binary(critic(real(part)), 1.0) + binary(critic(fake), 0.0)) / part.total
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
