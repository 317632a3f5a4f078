"""Trainings that are broken off at chosen moments, and what is compared of those that went on.

`PRELUDE` lets a forked rank send itself a signal the n-th time it comes to a moment; the trainer knows nothing of it.
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.ranks import RankServer
from dlcloud_trainer.checkpoint import Restored
from dlcloud_trainer.objects import Objects

PRELUDE = """
import functools, importlib, os
_seen = {}
def _reach(moment):
    rank, wanted, count, number = os.environ.get("TEST_KILL", ":::").split(":")
    if os.environ.get("RANK") == rank and moment == wanted:
        _seen[moment] = _seen.get(moment, 0) + 1
        if _seen[moment] == int(count):
            os.kill(os.getpid(), int(number))
def _arm(module, name, before="", after=""):
    *path, last = name.split(".")
    holder = functools.reduce(getattr, path, importlib.import_module(module))
    inner = getattr(holder, last)
    @functools.wraps(inner)
    def armed(*args, **kwargs):
        _reach(before)
        result = inner(*args, **kwargs)
        _reach(after)
        return result
    setattr(holder, last, armed)
_arm("dlcloud_trainer.loop", "seed_generators", before="step")
_arm("dlcloud_trainer.loop", "evaluate", before="evaluation", after="evaluated")
_arm("dlcloud_trainer.checkpoint.checkpointer", "put_slices", before="save", after="slices")
_arm("dlcloud_trainer.checkpoint.checkpointer", "put_manifest", after="manifest")
_arm("dlcloud_trainer.checkpoint.head", "HeadFile.commit", after="commit")
"""
ON_RANK_0 = {"save", "slices", "manifest", "commit"}
MOMENTS = ("any", "step", "evaluation", "evaluated", "slices", "manifest", "commit")
LATEST_S = 0.15
LIMIT_S = 600.0  # of a round; a loaded machine takes its time
VOLATILE = ("time", "samplesPerSecond")
PEER_LOST, KILLED = 72, -signal.SIGKILL


@dataclass(frozen=True)
class Kill:
    """A rank, and the `count`-th time it comes to this moment of a round; `any`: `after_s` after its first step."""

    rank: int
    moment: str
    count: int = 1
    after_s: float = 0.0
    number: int = signal.SIGKILL

    @property
    def env(self) -> dict[str, str]:
        told = f"{self.rank}:{self.moment}:{self.count}:{int(self.number)}"
        return {} if self.moment == "any" else {"TEST_KILL": told}


def choose_kills(seed: int, number: int, world_size: int, most_steps: int = 6) -> list[Kill]:
    """As many kills, every moment in turn, of ranks and after counts and times by chance; a round makes few steps."""
    choose = random.Random(seed)
    kills = []
    moments = [*choose.sample(MOMENTS, len(MOMENTS))] * number
    for moment in moments[:number]:
        rank = 0 if moment in ON_RANK_0 else choose.randrange(world_size)
        count = choose.randint(2, most_steps) if moment == "step" else choose.randint(1, most_steps // 6)
        kills.append(Kill(rank, moment, count, choose.uniform(0, LATEST_S)))
    return kills


def train_whole(server: RankServer, job: dict[str, Any], world_size: int, **env: str) -> None:
    """One round from begin to end, without a word that its user could not act on."""
    ranks = server.start_round(job, world_size=world_size, env=env)
    assert [rank.wait(LIMIT_S) for rank in ranks] == [0] * world_size, ranks[0].log
    assert not any("Warning" in rank.log for rank in ranks), ranks[0].log


def train_broken(server: RankServer, job: dict[str, Any], world_size: int, kills: list[Kill], **env: str) -> int:
    """A round for each kill, and one that runs to the end; returns how many kills met a training in progress."""
    met = 0
    for number, kill in enumerate(kills, start=1):
        ranks = server.start_round(job, world_size=world_size, round=number, env=env | kill.env)
        if kill.moment == "any":
            ranks[kill.rank].wait_for_event("step")
            time.sleep(kill.after_s)
            ranks[kill.rank].kill()
        codes = [rank.wait(LIMIT_S) for rank in ranks]
        assert set(codes) <= {KILLED, PEER_LOST, 0}, (kill, codes, [rank.log for rank in ranks])
        met += KILLED in codes
    ranks = server.start_round(job, world_size=world_size, round=len(kills) + 1, env=env)
    assert [rank.wait(LIMIT_S) for rank in ranks] == [0] * world_size, ranks[0].log
    return met


def merged_records(store: Objects) -> dict[tuple[str, int], str]:
    """Every kind's and step's newest record without what a clock told, as JSON text."""
    merged: dict[tuple[str, int], str] = {}
    for key in store.list("metrics"):  # by round
        for line in store.get(key).decode().splitlines():
            record = json.loads(line)
            told = {name: value for name, value in record.items() if name not in VOLATILE}
            merged[record["kind"], record["step"]] = json.dumps(told, sort_keys=True)
    return merged


def as_bytes(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Type, shape and bytes of each tensor: equal means the same bits, NaN and -0.0 included."""
    return {
        name: (str(tensor.dtype), tuple(tensor.shape), tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        for name, tensor in tensors.items()
    }


def assert_same_training(one: Restored, other: Restored, store: Objects, other_store: Objects, after: int = 0) -> None:
    """Model, optimiser, ledger and the merged records after a step are the same bytes."""
    ours, theirs = as_bytes(one.tensors), as_bytes(other.tensors)
    assert [name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)] == []
    assert json.dumps(one.state, sort_keys=True) == json.dumps(other.state, sort_keys=True)
    assert (one.step, one.samples, one.metric) == (other.step, other.samples, other.metric)
    records, others = merged_records(store), merged_records(other_store)
    steps = {key for key in records.keys() | others.keys() if key[1] > after}
    differing = sorted(key for key in steps if records.get(key) != others.get(key))
    assert [(key, records.get(key), others.get(key)) for key in differing[:5]] == []
