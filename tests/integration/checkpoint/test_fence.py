"""Two rounds at once: the older one stops, and has changed nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dlcloud_trainer.checkpoint.errors import Fenced
from dlcloud_trainer.checkpoint.layout import HEAD, Head

Make = Callable[..., Any]


def contents(place: Any) -> dict[str, bytes]:
    store = place.objects()
    return {key: store.get(key) for key in store.list()}


def test_a_commit_of_an_older_round_is_refused_and_changes_no_checkpoint(place: Any, rank: Make) -> None:
    one = rank(place, 1, keep_last=1)
    one.checkpointer.take_over()
    one.save(1)
    two = rank(place, 2, keep_last=3)
    assert two.checkpointer.take_over().step == 1
    two.save(2)
    before = contents(place)
    with pytest.raises(Fenced, match="round 2 owns the checkpoints, this process belongs to round 1"):
        one.save(3)
    after = contents(place)
    assert {key: after.get(key) for key in before} == before
    with pytest.raises(Fenced):
        one.checkpointer.save({}, {}, step=4, samples=1)
    assert [commit.step for commit in one.commits] == [1]
    two.save(5)
    assert rank(place, 3).checkpointer.take_over().step == 5


def test_what_a_fenced_round_left_is_swept_later(place: Any, rank: Make) -> None:
    one, two = rank(place, 1), rank(place, 2)
    one.checkpointer.take_over()
    two.checkpointer.take_over()
    with pytest.raises(Fenced):
        one.save(1)
    two.save(2)
    assert place.objects().list("manifests") == ["manifests/000000000002-000002.json"]
    assert not [key for key in place.objects().list("attempts") if key.startswith("attempts/000001")]


def test_an_older_round_cannot_take_over(place: Any, rank: Make) -> None:
    rank(place, 5).checkpointer.take_over()
    with pytest.raises(Fenced, match="round 5 owns"):
        rank(place, 4).checkpointer.take_over()


def test_the_same_round_of_another_nonce_cannot_take_over(place: Any, rank: Make) -> None:
    rank(place, 5).checkpointer.take_over()
    with pytest.raises(Fenced):
        rank(place, 5, nonce="another").checkpointer.take_over()


def test_the_same_round_may_take_over_twice(place: Any, rank: Make) -> None:
    rank(place, 5).checkpointer.take_over()
    one = rank(place, 5)
    one.checkpointer.take_over()
    one.save(1)
    assert [commit.step for commit in one.commits] == [1]


def test_a_commit_in_the_middle_of_a_takeover_is_not_lost(
    through_proxy: Any, s3_place: Any, proxy: Any, rank: Make
) -> None:
    one = rank(s3_place, 1)
    one.checkpointer.take_over()
    one.save(1)
    pending = [2]

    def commit_first(method: str, path: str) -> str:
        if method == "PUT" and path.endswith(HEAD) and pending:
            one.save(pending.pop())
        return ""

    proxy.rule = commit_first
    assert rank(through_proxy, 2).checkpointer.take_over().step == 2


def test_a_head_that_vanished_ends_its_round(place: Any, rank: Make) -> None:
    one = rank(place, 1)
    one.checkpointer.take_over()
    one.save(1)
    place.objects().delete(HEAD)
    with pytest.raises(Fenced, match="was removed while round 1 owned it"):
        one.save(2)


@pytest.mark.parametrize("lost", [1, 2])
def test_a_lost_reply_of_the_commit_is_no_conflict(through_proxy: Any, proxy: Any, rank: Make, lost: int) -> None:
    one = rank(through_proxy, 1)
    one.checkpointer.take_over()
    left = [lost]

    def lose(method: str, path: str) -> str:
        if method == "PUT" and path.endswith(HEAD) and left[0]:
            left[0] -= 1
            return "lose reply"
        return ""

    proxy.rule = lose
    one.save(1)
    assert left == [0]
    one.save(2)
    assert [commit.step for commit in one.commits] == [1, 2]
    assert one.warnings == []
    assert [entry.step for entry in Head.parse(through_proxy.objects().get(HEAD), HEAD).checkpoints] == [2, 1]


@pytest.mark.parametrize("first", [True, False], ids=["first round", "later round"])
def test_a_lost_reply_of_the_takeover_is_no_conflict(
    through_proxy: Any, s3_place: Any, proxy: Any, rank: Make, first: bool
) -> None:
    if not first:
        rank(s3_place, 1).checkpointer.take_over()
    left = [1]

    def lose(method: str, path: str) -> str:
        if method == "PUT" and path.endswith(HEAD) and left[0]:
            left[0] -= 1
            return "lose reply"
        return ""

    proxy.rule = lose
    two = rank(through_proxy, 2)
    two.checkpointer.take_over()
    assert left == [0]
    two.save(1)
    assert [commit.step for commit in two.commits] == [1]


def test_a_lost_reply_of_a_manifest_is_no_conflict(through_proxy: Any, proxy: Any, rank: Make) -> None:
    one = rank(through_proxy, 1)
    one.checkpointer.take_over()
    left = [1]

    def lose(method: str, path: str) -> str:
        if method == "PUT" and "/manifests/" in path and left[0]:
            left[0] -= 1
            return "lose reply"
        return ""

    proxy.rule = lose
    one.save(1)
    assert [commit.step for commit in one.commits] == [1]


def test_a_lost_reply_followed_by_a_takeover_is_fenced(
    through_proxy: Any, s3_place: Any, proxy: Any, rank: Make
) -> None:
    """The commit arrived, its reply did not, and before the second look the next round came: its lineage holds the
    commit."""
    one = rank(through_proxy, 1)
    one.checkpointer.take_over()
    one.save(1)
    two = rank(s3_place, 2)
    stage = ["commit"]

    def lose(method: str, path: str) -> str:
        if not path.endswith(HEAD):
            return ""
        if method == "PUT" and stage == ["commit"]:
            stage[0] = "again"
            return "lose reply"
        if method == "PUT" and stage == ["again"]:
            stage[0] = "done"
            assert two.checkpointer.take_over().step == 2
        return ""

    proxy.rule = lose
    with pytest.raises(Fenced):
        one.save(2)
    two.save(3)
    assert rank(s3_place, 3).checkpointer.take_over().step == 3


STALE = """
import sys, torch
from dlcloud_trainer.checkpoint import Checkpointer, CheckpointSettings
from dlcloud_trainer.checkpoint.errors import Fenced
uri, endpoint = sys.argv[1:]
checkpointer = Checkpointer(
    CheckpointSettings(uri=uri, endpoint=endpoint, round=1, nonce="nonce-1", keep_last=1, keep_best=0),
    on_commit=lambda commit: print("committed", commit.step, flush=True), on_warning=print)
checkpointer.take_over()
try:
    for step in (1, 2):
        checkpointer.save({"w": torch.full((10,), float(step))}, {}, step=step, samples=step)
        checkpointer.flush(60)
except Fenced as error:
    print("fenced", error, flush=True)
"""


def test_a_rank_stopped_before_its_commit_is_fenced_when_it_wakes(
    through_proxy: Any, s3_place: Any, proxy: Any, rank: Make
) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    stale: list[subprocess.Popen[str]] = []

    def stop_it(method: str, path: str) -> str:
        # Its second manifest is on the way: stopped here, it cannot read the reply, so its head PUT is still to come.
        if method == "PUT" and path.endswith("manifests/000000000002-000001.json"):
            stale[0].send_signal(signal.SIGSTOP)
        return ""

    proxy.rule = stop_it
    stale.append(
        subprocess.Popen(
            [sys.executable, "-c", STALE, through_proxy.uri, through_proxy.endpoint],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    )
    process = stale[0]
    try:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), process.stdout and process.stdout.read()
        two = rank(s3_place, 2, keep_last=3)
        assert two.checkpointer.take_over().step == 1
        two.save(7)
        before = contents(s3_place)
        process.send_signal(signal.SIGCONT)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert output.splitlines()[0] == "committed 1"
    assert output.splitlines()[1].startswith("fenced") and "round 2 owns the checkpoints" in output
    after = contents(s3_place)
    assert {key: after.get(key) for key in before} == before
    assert rank(s3_place, 3).checkpointer.take_over().step == 7


def test_a_killed_rank_leaves_nothing_to_wait_for(place: Any, rank: Make, tmp_path: Path) -> None:
    program = STALE + "\nimport os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    done = subprocess.run(
        [sys.executable, "-c", program, place.uri, place.endpoint],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    restored = rank(place, 2).checkpointer.take_over()
    assert torch.equal(restored.tensors["w"], torch.full((10,), 2.0))
