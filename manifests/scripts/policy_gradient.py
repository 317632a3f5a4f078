"""Reinforcement learning, one file: an agent learns by policy gradient to balance a pole on a cart.

The physics are those of Barto, Sutton and Anderson (1983), computed here for many carts at a time. Each rank plays its
own games, the gradients are averaged. Shows dlcloud's three lines in a program of one's own.
"""

from __future__ import annotations

import math
import os

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dlcloud_trainer import Checkpointer, progress

STEPS, GAMES, LONGEST = int(os.environ.get("STEPS", "120")), 32, 200
GRAVITY, CART, POLE, HALF, FORCE, TIME_STEP_S = 9.8, 1.0, 0.1, 0.5, 10.0, 0.02
FURTHEST, STEEPEST = 2.4, math.radians(12)


def moved(state: Tensor, pushes_right: Tensor) -> Tensor:
    """A time step of carts: state (n, 4) is position, speed, angle, angular speed, in SI units."""
    _, speed, angle, turning = state.unbind(1)
    force = torch.where(pushes_right, FORCE, -FORCE)
    mass = CART + POLE
    sine, cosine = angle.sin(), angle.cos()
    pull = (force + POLE * HALF * turning**2 * sine) / mass
    faster = (GRAVITY * sine - cosine * pull) / (HALF * (4 / 3 - POLE * cosine**2 / mass))
    ahead = pull - POLE * HALF * faster * cosine / mass
    change = torch.stack([speed, ahead, turning, faster], 1)
    return state + TIME_STEP_S * change


def play(policy: nn.Module, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Games at the same time: states (time, n, 4), actions (time, n), and which games still went on (time, n)."""
    state = torch.rand(GAMES, 4, generator=random) * 0.1 - 0.05
    going = torch.ones(GAMES, dtype=torch.bool)
    states, actions, alive = [], [], []
    for _ in range(LONGEST):
        with torch.no_grad():
            right = torch.rand(GAMES, generator=random) < policy(state).squeeze(1).sigmoid()
        states.append(state)
        actions.append(right)
        alive.append(going)
        state = moved(state, right)
        going = going & (state[:, 0].abs() < FURTHEST) & (state[:, 2].abs() < STEEPEST)
        if not going.any():
            break
    return torch.stack(states), torch.stack(actions), torch.stack(alive)


def main() -> None:
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    policy = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 1))
    optimizer = torch.optim.Adam(policy.parameters(), lr=0.02)
    checkpointer = Checkpointer(policy=policy, optimizer=optimizer)
    wrapped = DistributedDataParallel(policy)
    for step in checkpointer.steps(STEPS):
        states, actions, alive = play(policy, torch.Generator().manual_seed(step * ranks + rank))
        # What is still to come of each game, one for each time step, against the mean of the games at that time.
        returns = alive.flip(0).cumsum(0).flip(0).float()
        advantage = (returns - returns.mean(1, keepdim=True)) / (returns.std() + 1e-6)
        chosen = torch.where(actions, 1.0, -1.0) * wrapped(states).squeeze(2)
        loss = -(nn.functional.logsigmoid(chosen) * advantage)[alive].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        length = alive.sum(0).float().mean()
        dist.all_reduce(length)
        mean = length.item() / ranks
        progress(loss=loss.item(), length=mean)
        if rank == 0 and (step + 1) % 10 == 0:
            print(f"step {step + 1}: the pole stands for {mean:.0f} of {LONGEST} time steps", flush=True)


if __name__ == "__main__":
    main()
