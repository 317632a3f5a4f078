"""A state that nearly fills its pod is saved and restored there, and many checkpoints leave nothing behind."""

from __future__ import annotations

import gc
import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from .limited import Limiter, limiter, start

MIB = 1 << 20
Make = Callable[..., Any]


def said(process: Any, limit: Limiter) -> list[list[Any]]:
    """All it says until it ends by itself."""
    words = [json.loads(line) for line in process.stdout]
    code = process.wait(30)
    assert code == 0, f"ended with {code} in {limit}: {words}"
    return words


def killed_in_its_second_save(process: Any, place: Any) -> list[list[Any]]:
    words = []
    for line in process.stdout:
        words.append(json.loads(line))
        if words[-1] == ["saving", 2]:
            break
    until = time.monotonic() + 120
    while len({key.split("/")[1] for key in place.objects().list("attempts")}) < 2 and process.poll() is None:
        assert time.monotonic() < until, words
        time.sleep(0.005)
    assert process.poll() is None, words + [json.loads(line) for line in process.stdout]
    process.kill()
    process.wait(30)
    return words


def saved_killed_restored(place: Any, job: dict[str, Any]) -> None:
    def settings(round: int) -> dict[str, Any]:
        return {"uri": place.uri, "endpoint": place.endpoint, "round": round, "nonce": str(round), "keep_best": 0}

    with limiter() as limit:
        process = start(limit, job | {"settings": settings(1), "restore": False})
        words = killed_in_its_second_save(process, place)
    warnings = [word[1:] for word in words if word[0] == "warning"]
    assert [reason for reason, _ in warnings] == ["CheckpointBlocks"], words
    assert "raise workers.memory" in warnings[0][1]
    assert ["saved", 1, True] in words
    with limiter() as limit:
        process = start(limit, job | {"settings": settings(2), "restore": True})
        assert said(process, limit)[-1] == ["restored", 1, True]


def has_groups() -> bool:
    with limiter() as limit:
        return limit.folder is not None


def test_a_state_there_is_no_second_memory_for_is_saved_and_restored(s3_place: Any) -> None:
    # RLIMIT_DATA counts what threads might take as well.
    state, slack = (128 * MIB, 0) if has_groups() else (320 * MIB, 64 * MIB)
    saved_killed_restored(s3_place, {"state_bytes": state, "grow_bytes": int(1.4 * state) + slack})


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_gib_of_state_live_in_a_pod_of_three(s3_place: Any) -> None:
    if not has_groups():
        pytest.skip("needs a control group of its own: /sys/fs/cgroup is not writable here")
    saved_killed_restored(s3_place, {"state_bytes": 2048 * MIB, "limit_bytes": 3072 * MIB})


@dataclass(frozen=True)
class Traces:
    """What a process holds."""

    rss_mib: float
    threads: int
    descriptors: int
    objects: int

    @staticmethod
    def of(store: Any) -> Traces:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return Traces(
            pages * os.sysconf("SC_PAGE_SIZE") / MIB,
            threading.active_count(),
            sum(1 for _ in Path("/proc/self/fd").iterdir()),
            len(store.list()),
        )


def saves_leave_nothing(place: Any, one: Any, count: int, warm_up: int = 50) -> None:
    checkpointer = one.checkpointer
    checkpointer.take_over()
    store = place.objects()
    state = {f"w{n}": torch.full((1 << 18,), float(n)) for n in range(3)}
    for step in range(1, warm_up + count + 1):
        state["w0"][0] = step
        checkpointer.save(state, {"step": step}, step=step, samples=step, metric=float(-step), wait=True)
        if step in (warm_up, warm_up + count):
            checkpointer.flush(30)
            if step == warm_up:
                before = Traces.of(store)
    after = Traces.of(store)
    assert (after.threads, after.objects) == (before.threads, before.objects)
    assert after.descriptors <= before.descriptors + 4, (before, after)  # idle connections come and go
    assert after.rss_mib - before.rss_mib < 8, (before, after)
    assert [commit.step for commit in one.commits] == list(range(1, warm_up + count + 1))
    assert one.warnings == []


def test_a_hundred_checkpoints_leave_nothing_behind(s3_place: Any, rank: Make) -> None:
    saves_leave_nothing(s3_place, rank(s3_place, keep_last=3, keep_best=1), 100)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_five_hundred_checkpoints_leave_nothing_behind(s3_place: Any, rank: Make) -> None:
    saves_leave_nothing(s3_place, rank(s3_place, keep_last=3, keep_best=1), 500)
