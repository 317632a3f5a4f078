"""A store that goes away, stumbles or fills up in the middle of a training: training goes on, its user hears of it
within 10 s and hears when it is over, and nothing is lost or doubled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

from dlcloud_trainer.checkpoint.errors import UploadFailed
from dlcloud_trainer.checkpoint.layout import HEAD, Head, Manifest

from .proxy import Fault, Proxy

Make = Callable[..., Any]
TOLD_S = 10.0
LARGE = 1 << 19  # floats: 2 MiB, which goes as a bulk upload
UPLOAD_FAILED = "CheckpointUploadFailed"


def begin(rank: Make, place: Any, round: int = 1, **settings: Any) -> Any:
    one = rank(place, round, **({"upload_limit_s": 120.0} | settings))
    one.checkpointer.take_over()
    return one


def start_save(one: Any, step: int, floats: int = 100) -> bool:
    """A save that nobody waits for."""
    state = {"model/w": torch.full((floats,), float(step))}
    saved: bool = one.checkpointer.save(state, {"step": step}, step=step, samples=step * 32)
    return saved


def wait_for(condition: Callable[[], object], limit_s: float) -> float:
    """Seconds until the condition held."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() < began + limit_s, f"not within {limit_s} s"
        time.sleep(0.02)
    return time.monotonic() - began


def troubles(one: Any) -> list[str]:
    return [message for reason, message in one.warnings if reason == UPLOAD_FAILED]


def steps_of(place: Any) -> list[int]:
    """Of the checkpoints in the head, newest first; each manifest and slice of them is there, and nothing else."""
    store = place.objects()
    entries = Head.parse(store.get(HEAD), HEAD).checkpoints
    assert store.list("manifests") == sorted(entry.manifest for entry in entries)
    slices = [s.key for e in entries for s in Manifest.parse(store.get(e.manifest), "m").slices]
    assert store.list("attempts") == sorted(slices)
    return [entry.step for entry in entries]


def during(seconds: float, fault: Fault, method: str = "", path: str = "") -> Callable[[str, str], Fault | str]:
    """A proxy's rule: the fault for some time from now, for this method and this part of the path."""
    end = time.monotonic() + seconds

    def rule(asked: str, where: str) -> Fault | str:
        return fault if time.monotonic() < end and asked.startswith(method) and path in where else ""

    return rule


OUTAGES = [5, pytest.param(20, marks=pytest.mark.slow), pytest.param(60, marks=pytest.mark.slow)]


@pytest.mark.parametrize("away_s", OUTAGES)
def test_an_outage_costs_no_checkpoint_and_is_told_once_within_10_s(
    through_proxy: Any, s3_place: Any, proxy: Proxy, rank: Make, away_s: float
) -> None:
    one = begin(rank, through_proxy)
    one.save(1)
    proxy.stop()
    began = time.monotonic()
    assert start_save(one, 2)
    assert wait_for(lambda: troubles(one), TOLD_S) < TOLD_S
    assert one.checkpointer.troubled
    while time.monotonic() < began + away_s:  # the steps of the training: none is held up
        assert not start_save(one, 3)
        one.checkpointer.check()
        assert time.monotonic() - began < away_s + 5
        time.sleep(0.05)
    proxy.start()
    one.checkpointer.flush(60)
    one.save(4)
    assert [commit.step for commit in one.commits] == [1, 2, 4]
    assert not one.checkpointer.troubled
    said, waiting = troubles(one)  # the second when `flush` began to wait
    assert waiting == said.replace("training goes on", "the job waits for it")
    assert said.startswith("the checkpoint of step 2 cannot be saved since ")
    assert f"object store {proxy.endpoint} refuses connections; check objectStore.endpoint" in said
    assert "(training goes on; tried again until " in said
    assert steps_of(s3_place) == [4, 2, 1]
    assert rank(s3_place, 2).checkpointer.take_over().step == 4


def test_a_server_that_falls_silent_in_the_middle_of_a_large_upload_is_told_within_10_s(
    through_proxy: Any, s3_place: Any, proxy: Proxy, rank: Make
) -> None:
    one = begin(rank, through_proxy)
    gate = threading.Event()
    proxy.rule = lambda method, path: Fault(before=lambda _: gate.wait(60))
    assert start_save(one, 1, LARGE)
    assert wait_for(lambda: troubles(one), TOLD_S) < TOLD_S
    assert "does not answer in time" in troubles(one)[0]
    gate.set()
    one.checkpointer.flush(60)
    assert [commit.step for commit in one.commits] == [1]
    assert steps_of(s3_place) == [1]


def test_an_upload_that_is_only_slow_is_no_trouble(through_proxy: Any, proxy: Proxy, rank: Make) -> None:
    one = begin(rank, through_proxy)
    proxy.on("PUT", "/attempts/", Fault(bytes_per_s=LARGE * 4 / 5))  # 5 s
    assert start_save(one, 1, LARGE)
    one.checkpointer.flush(60)
    assert one.checkpointer.upload_s > 4
    assert [method for method, _ in proxy.seen].count("HEAD") >= 1  # it was asked, and answered
    assert one.warnings == []


ANSWERS = {
    "503": Fault(status=503, code="SlowDown"),
    "429": Fault(status=429, code="TooManyRequests", headers=(("Retry-After", "2"),)),
    "reset": Fault(refuse=True),
    "cut upload": Fault(forward=0.5),
}


@pytest.mark.parametrize("path", ["/attempts/", "/manifests/", HEAD])
@pytest.mark.parametrize("answer", ANSWERS)
def test_a_commit_survives_a_store_that_stumbles(
    through_proxy: Any, s3_place: Any, proxy: Proxy, rank: Make, answer: str, path: str
) -> None:
    one = begin(rank, through_proxy)
    one.save(1)
    proxy.on("PUT", path, ANSWERS[answer], times=4)
    one.save(2)
    one.save(3)
    assert [commit.step for commit in one.commits] == [1, 2, 3]
    assert one.warnings == []
    assert steps_of(s3_place) == [3, 2, 1]


@pytest.mark.parametrize("answer", ["429", pytest.param("503", marks=pytest.mark.slow)])
def test_a_store_that_is_overloaded_for_longer_is_told_and_waited_for(
    through_proxy: Any, proxy: Proxy, rank: Make, answer: str
) -> None:
    one = begin(rank, through_proxy)
    proxy.rule = during(6, ANSWERS[answer], "PUT")
    assert start_save(one, 1)
    assert wait_for(lambda: troubles(one), TOLD_S) < TOLD_S
    assert f"answers {answer}; it is overloaded or starting, look at its log" in troubles(one)[0]
    one.checkpointer.flush(60)
    assert [commit.step for commit in one.commits] == [1]


READS = {
    "503": Fault(status=503, code="SlowDown"),
    "429": Fault(status=429, headers=(("Retry-After", "1"),)),
    "reset": Fault(refuse=True),
    "truncated": Fault(reply=0.5),
    "lost reply": Fault(reply=0.0),
    "trickling": Fault(bytes_per_s=20_000),
}


@pytest.mark.parametrize("path", [HEAD, "/manifests/", "/attempts/"])
@pytest.mark.parametrize("answer", READS)
def test_a_take_over_and_a_restore_survive_a_store_that_stumbles(
    through_proxy: Any, s3_place: Any, proxy: Proxy, rank: Make, answer: str, path: str
) -> None:
    begin(rank, s3_place).save(1, value=7.0)
    proxy.on("", path, READS[answer], times=2)
    two = rank(through_proxy, 2)
    restored = two.checkpointer.take_over()
    assert restored.tensors["model/w"].eq(7).all()
    assert two.warnings == []
    two.save(2)
    assert steps_of(s3_place) == [2, 1]


@pytest.mark.parametrize("answer", ["reset", "truncated", "trickling"])
def test_a_large_slice_is_read_though_the_answer_breaks_off(
    through_proxy: Any, s3_place: Any, proxy: Proxy, rank: Make, answer: str
) -> None:
    one = begin(rank, s3_place)
    start_save(one, 1, LARGE)
    one.checkpointer.flush(60)
    fault = Fault(bytes_per_s=LARGE * 4 / 2) if answer == "trickling" else READS[answer]
    rule = proxy.on("GET", r"/attempts/.*\.bin", fault, times=2)
    assert rank(through_proxy, 2).checkpointer.take_over().tensors["model/w"].eq(1).all()
    assert rule.met >= 1


def test_a_full_store_is_named_at_once_and_used_again_when_there_is_space(
    through_proxy: Any, s3_place: Any, proxy: Proxy, rank: Make
) -> None:
    one = begin(rank, through_proxy)
    one.save(1)
    proxy.rule = lambda method, path: Fault(status=507, code="XMinioStorageFull") if method == "PUT" else ""
    assert start_save(one, 2)
    wait_for(lambda: not one.checkpointer.busy, TOLD_S)
    assert one.checkpointer.troubled
    assert start_save(one, 3), "training goes on, and tries again with newer state"
    wait_for(lambda: not one.checkpointer.busy, TOLD_S)
    assert "is full (XMinioStorageFull); free space or raise its quota; training goes on" in troubles(one)[0]
    proxy.clear()
    one.save(4)
    assert not one.checkpointer.troubled
    assert steps_of(s3_place) == [4, 1]


def test_keys_that_are_revoked_for_good_end_the_training_after_three_limits(
    through_proxy: Any, s3_place: Any, proxy: Proxy, rank: Make
) -> None:
    one = begin(rank, through_proxy, upload_limit_s=0.5)
    one.save(1)
    proxy.rule = lambda method, path: Fault(status=403, code="AccessDenied")
    began, step = time.monotonic(), 1
    with pytest.raises(UploadFailed) as ended:
        while time.monotonic() < began + 30:
            step += 1
            start_save(one, step)
            one.checkpointer.check()
            time.sleep(0.1)
    assert time.monotonic() - began >= 1.5
    assert len(troubles(one)) >= 2 and all("training goes on, the next save tries again" in m for m in troubles(one))
    said = str(ended.value)
    assert said.startswith("no checkpoint could be saved for ") and "(3 x limits.checkpoint)" in said
    assert "refused to put " in said and "objectStore.credentialsSecret" in said
    assert steps_of(s3_place) == [1]
