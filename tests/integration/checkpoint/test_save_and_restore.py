"""Save, restore, keep: on a folder and on a real S3 server."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dlcloud_trainer.checkpoint import collect, restore_into
from dlcloud_trainer.checkpoint.errors import NothingToResume, StateMismatch, StateNotPlain, UploadFailed
from dlcloud_trainer.checkpoint.layout import HEAD, Head, Manifest, seal
from dlcloud_trainer.objects import Objects
from tests.rig.processes import until

Make = Callable[..., Any]


def head_of(store: Objects) -> Head:
    return Head.parse(store.get(HEAD), HEAD)


def steps(store: Objects) -> list[int]:
    return [entry.step for entry in head_of(store).checkpoints]


def test_a_new_job_begins_from_nothing_and_owns_its_head(place: Any, rank: Make) -> None:
    assert rank(place, 1).checkpointer.take_over() is None
    head = head_of(place.objects())
    assert (head.round, head.nonce, head.checkpoints) == (1, "nonce-1", ())
    assert place.objects().list() == [HEAD]


def test_a_training_state_comes_back_bit_for_bit(place: Any, rank: Make) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(700, 900), nn.Linear(900, 700)).to(torch.bfloat16)
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(2):
        model(torch.randn(4, 700).bfloat16()).sum().backward()
        optimizer.step()
    one = rank(place, 1).checkpointer
    one.take_over()
    tensors, state = collect({"model": model, "optimizer": optimizer})
    assert one.save(tensors, state, step=7, samples=224, metric=0.5)
    one.flush(30)

    restored = rank(place, 2).checkpointer.take_over()
    assert (restored.step, restored.samples, restored.metric) == (7, 224, 0.5)
    assert restored.manifest == f"{place.uri}/manifests/000000000007-000001.json"
    other = nn.Sequential(nn.Linear(700, 900), nn.Linear(900, 700)).to(torch.bfloat16)
    again = torch.optim.AdamW(other.parameters())
    restore_into({"model": other, "optimizer": again}, restored.tensors, restored.state)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    ours, theirs = (collect({"o": one})[0] for one in (optimizer, again))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_state_of_several_slices_comes_back(place: Any, rank: Make) -> None:
    one = rank(place, 1).checkpointer
    one.take_over()
    tensors = {f"w{n}": torch.randn(3_000_001) for n in range(4)}
    one.save(tensors, {}, step=1, samples=1)
    one.flush(60)
    assert len([key for key in place.objects().list("attempts") if key.endswith(".bin")]) == 3
    restored = rank(place, 2).checkpointer.take_over()
    assert all(torch.equal(restored.tensors[name], tensor) for name, tensor in tensors.items())


class Parts:
    """A model of three slices and its optimiser, filled with one number."""

    def __init__(self, value: float) -> None:
        self.model = nn.ParameterList(nn.Parameter(torch.full((3_000_001,), value)) for _ in range(2))
        self.model.append(nn.Parameter(torch.full((1000, 2000), value).t()))
        self.optimizer = torch.optim.SGD(self.model.parameters(), momentum=0.9)
        for parameter in self.model:
            self.optimizer.state[parameter] = {"momentum_buffer": torch.full_like(parameter.detach(), value)}
        self.all: dict[str, Any] = {"model": self.model, "optimizer": self.optimizer}

    def holds(self, value: float) -> bool:
        return all(bool(tensor.eq(value).all()) for tensor in collect(self.all)[0].values())


def test_a_checkpoint_is_read_into_the_parts_of_a_training(place: Any, rank: Make) -> None:
    one = rank(place, 1).checkpointer
    assert not one.claim()
    one.save(*collect(Parts(1.0).all), step=1, samples=1)
    one.flush(60)
    two, parts = rank(place, 2).checkpointer, Parts(0.0)
    assert two.claim()
    before = [parameter.data_ptr() for parameter in parts.model]
    restored = two.restore(parts.all)
    assert restored.step == 1 and parts.holds(1.0)
    assert [parameter.data_ptr() for parameter in parts.model] == before


def test_damage_met_on_the_way_leaves_nothing_of_the_damaged_checkpoint(place: Any, rank: Make) -> None:
    one = rank(place, 1)
    one.checkpointer.claim()
    for step in (1, 2):
        one.checkpointer.save(*collect(Parts(float(step)).all), step=step, samples=step, wait=True)
    one.checkpointer.flush(60)
    store = place.objects()
    newest = Manifest.parse(store.get("manifests/000000000002-000001.json"), "m")
    assert len(newest.slices) > 2
    last = bytearray(store.get(newest.slices[-1].key))
    last[-1] ^= 1
    store.put(newest.slices[-1].key, bytes(last))
    two, parts = rank(place, 2), Parts(0.0)
    assert two.checkpointer.claim()
    assert two.checkpointer.restore(parts.all).step == 1
    assert parts.holds(1.0)
    assert [reason for reason, _ in two.warnings] == ["CheckpointDamaged"]


def test_a_checkpoint_that_does_not_fit_changes_no_part(place: Any, rank: Make) -> None:
    one = rank(place, 1)
    one.checkpointer.claim()
    one.checkpointer.save(*collect({"model": nn.Linear(4, 2)}), step=1, samples=1)
    one.checkpointer.flush(60)
    two, other = rank(place, 2).checkpointer, nn.Linear(4, 3)
    before = other.weight.clone()
    assert two.claim()
    with pytest.raises(StateMismatch, match=r"model\.weight"):
        two.restore({"model": other})
    assert torch.equal(other.weight, before)


def test_a_state_without_tensors_comes_back(place: Any, rank: Make) -> None:
    one = rank(place, 1).checkpointer
    one.take_over()
    one.save({}, {"loop": {"epoch": 3}}, step=1, samples=1)
    one.flush(30)
    restored = rank(place, 2).checkpointer.take_over()
    assert restored.state == {"loop": {"epoch": 3}}
    assert restored.tensors == {}


def test_a_commit_is_told_with_its_manifest(place: Any, rank: Make) -> None:
    one = rank(place, 1, workload="cnn", parameters={"epochs": 2}, world_size=4, threads=2, seed=9)
    one.checkpointer.take_over()
    one.save(5)
    (commit,) = one.commits
    store = place.objects()
    manifest = Manifest.parse(store.get("manifests/000000000005-000001.json"), "m")
    assert commit.uri == store.uri("manifests/000000000005-000001.json")
    assert (commit.step, commit.size_bytes, commit.committed_at) == (
        5,
        manifest.size_bytes,
        head_of(store).committed_at,
    )
    assert (manifest.workload, manifest.parameters, manifest.world_size) == ("cnn", {"epochs": 2}, 4)
    assert (manifest.threads, manifest.seed, manifest.round, manifest.parent) == (2, 9, 1, None)
    assert 0 <= one.checkpointer.blocked_s < one.checkpointer.upload_s + 1


def test_a_manifest_names_the_one_before(place: Any, rank: Make) -> None:
    one = rank(place, 1)
    one.checkpointer.take_over()
    one.save(1)
    two = rank(place, 2)
    two.checkpointer.take_over()
    two.save(2)
    manifest = json.loads(place.objects().get("manifests/000000000002-000002.json"))
    assert manifest["parent"] == "manifests/000000000001-000001.json"


def test_what_retention_drops_is_deleted_with_its_slices(place: Any, rank: Make) -> None:
    one = rank(place, 1, keep_last=2, keep_best=1)
    one.checkpointer.take_over()
    for step, metric in [(1, 0.1), (2, 0.9), (3, 0.2), (4, None), (5, 0.3)]:
        one.save(step, metric=metric)
    store = place.objects()
    assert steps(store) == [5, 4, 2]
    named = {piece.key for key in store.list("manifests") for piece in Manifest.parse(store.get(key), key).slices}
    assert store.list("manifests") == [f"manifests/{step:012d}-000001.json" for step in (2, 4, 5)]
    assert set(store.list("attempts")) == named
    assert one.warnings == []


def test_a_new_round_sweeps_what_older_rounds_left(place: Any, rank: Make) -> None:
    one = rank(place, 1)
    one.checkpointer.take_over()
    one.save(1)
    store = place.objects()
    mine = set(store.list())
    left = {"attempts/000001-dead/00000.bin", "manifests/000000000009-000001.json"}
    newer = {"attempts/000007-live/00000.bin", "manifests/000000000009-000007.json"}
    for key in [*left, *newer, "metrics/000001/000000.jsonl"]:
        store.put(key, b"x")
    two = rank(place, 2)
    two.checkpointer.take_over()
    two.save(2)
    keys = set(store.list())
    assert not keys & left
    assert keys >= mine | newer | {"metrics/000001/000000.jsonl"}


def test_a_pin_set_by_a_tool_survives_the_next_commit(place: Any, rank: Make) -> None:
    one = rank(place, 1, keep_last=1)
    one.checkpointer.take_over()
    one.save(1)
    store = place.objects()
    data, etag = store.get_with_etag(HEAD)
    body = json.loads(data)
    body["checkpoints"][0]["pinned"] = True
    store.put_if_match(HEAD, seal({key: body[key] for key in body if key != "crc32"}), etag)
    one.save(2)
    one.save(3)
    assert [(entry.step, entry.pinned) for entry in head_of(store).checkpoints] == [(3, False), (1, True)]
    assert rank(place, 2).checkpointer.take_over().step == 3


def test_a_checkpoint_a_tool_removed_is_not_listed_again(place: Any, rank: Make) -> None:
    one = rank(place, 1)
    one.checkpointer.take_over()
    one.save(1)
    one.save(2)
    store = place.objects()
    data, etag = store.get_with_etag(HEAD)
    body = json.loads(data)
    del body["checkpoints"][1], body["crc32"]
    store.put_if_match(HEAD, seal(body), etag)
    one.save(3)
    assert steps(store) == [3, 2]


def test_a_step_that_is_committed_is_not_uploaded_again(place: Any, rank: Make) -> None:
    one = rank(place, 1)
    one.checkpointer.take_over()
    one.save(1)
    before = place.objects().list()
    one.save(1)
    assert place.objects().list() == before
    assert len(one.commits) == 1


def test_a_metric_known_later_is_added_to_its_step(place: Any, rank: Make) -> None:
    one = rank(place, 1, keep_last=1, keep_best=1)
    one.checkpointer.take_over()
    one.save(1)
    one.save(1, metric=0.7)
    one.save(2, metric=0.1)
    assert [(entry.step, entry.metric) for entry in head_of(place.objects()).checkpoints] == [(2, 0.1), (1, 0.7)]


def test_a_metric_that_is_no_number_counts_as_none(place: Any, rank: Make) -> None:
    one = rank(place, 1)
    one.checkpointer.take_over()
    one.save(1, metric=float("nan"))
    assert head_of(place.objects()).checkpoints[0].metric is None


def test_a_round_that_made_no_step_changes_no_checkpoint(place: Any, rank: Make) -> None:
    one = rank(place, 1)
    one.checkpointer.take_over()
    one.save(4)
    two = rank(place, 2)
    assert two.checkpointer.take_over().step == 4
    two.save(4)
    assert steps(place.objects()) == [4]
    assert two.commits == []


def test_another_job_is_resumed_by_its_prefix_and_not_changed(place: Any, rank: Make) -> None:
    old = rank(place.below("old"), 5)
    old.checkpointer.take_over()
    old.save(8)
    before = [(key, place.below("old").objects().get(key)) for key in place.below("old").objects().list()]

    new = rank(place.below("new"), 1, resume_from=f"{place.uri}/old/")
    restored = new.checkpointer.take_over()
    assert (restored.step, restored.samples) == (8, 256)
    assert restored.manifest == f"{place.uri}/old/manifests/000000000008-000005.json"
    new.save(9)
    assert json.loads(place.below("new").objects().get("manifests/000000000009-000001.json"))["parent"] is None
    assert [(key, place.below("old").objects().get(key)) for key in place.below("old").objects().list()] == before


def test_a_single_manifest_is_resumed(place: Any, rank: Make) -> None:
    old = rank(place.below("old"), 1)
    old.checkpointer.take_over()
    old.save(1)
    old.save(2)
    uri = f"{place.uri}/old/manifests/000000000001-000001.json"
    assert rank(place.below("new"), 1, resume_from=uri).checkpointer.take_over().step == 1


def test_own_checkpoints_win_over_resume_from(place: Any, rank: Make) -> None:
    old = rank(place.below("old"), 1)
    old.checkpointer.take_over()
    old.save(50)
    one = rank(place.below("new"), 1, resume_from=f"{place.uri}/old")
    one.checkpointer.take_over()
    one.save(51)
    assert rank(place.below("new"), 2, resume_from=f"{place.uri}/old").checkpointer.take_over().step == 51


@pytest.mark.parametrize(
    ("resume_from", "said"),
    [
        ("none", "there is no checkpoint at .* give the prefix that holds a job's head.json"),
        ("", r"below it there is .*/old/"),
        ("old/manifests/000000000009-000001.json", "is missing; give another manifest"),
        ("old/manifests/latest.json", "is no manifest"),
        ("empty", "has committed no checkpoint yet"),
    ],
)
def test_a_resume_from_that_leads_nowhere_is_an_error(place: Any, rank: Make, resume_from: str, said: str) -> None:
    old = rank(place.below("old"), 1)
    old.checkpointer.take_over()
    old.save(1)
    rank(place.below("empty"), 1).checkpointer.take_over()
    new = rank(place.below("new"), 1, resume_from=f"{place.uri}/{resume_from}")
    with pytest.raises(NothingToResume, match=said) as refused:
        new.checkpointer.take_over()
    assert str(refused.value).startswith("resumeFrom: ")


def test_a_save_returns_before_its_upload_and_the_next_one_is_skipped(
    through_proxy: Any, proxy: Any, rank: Make
) -> None:
    one = rank(through_proxy, 1)
    one.checkpointer.take_over()
    gate = threading.Event()

    def hold(method: str, path: str) -> str:
        if method == "PUT" and "/attempts/" in path:
            gate.wait(30)
        return ""

    proxy.rule = hold
    weights = torch.ones(1000)
    assert one.checkpointer.save({"w": weights}, {}, step=1, samples=1)
    weights.zero_()  # training goes on
    assert one.checkpointer.busy
    assert not one.checkpointer.save({"w": weights}, {}, step=2, samples=2)
    with pytest.raises(UploadFailed, match=r"still being uploaded after 0\.1 s"):
        one.checkpointer.flush(0.1)
    gate.set()
    assert one.checkpointer.save({"w": weights}, {}, step=3, samples=3, wait=True)
    one.checkpointer.flush(30)
    assert [commit.step for commit in one.commits] == [1, 3]
    proxy.rule = lambda method, path: ""
    assert not rank(through_proxy, 2).checkpointer.take_over().tensors["w"].any()
    store = through_proxy.objects()
    first = Manifest.parse(store.get("manifests/000000000001-000001.json"), "m")
    assert store.get(first.slices[0].key) == torch.ones(1000).numpy().tobytes()


def test_nothing_of_an_upload_given_up_is_committed(through_proxy: Any, proxy: Any, rank: Make) -> None:
    one = rank(through_proxy, 1)
    one.checkpointer.take_over()
    held, gate = threading.Event(), threading.Event()

    def hold(method: str, path: str) -> str:
        if method == "PUT" and "/manifests/" in path:
            held.set()
            gate.wait(30)
        return ""

    proxy.rule = hold
    one.checkpointer.save({"w": torch.ones(10)}, {}, step=1, samples=1)
    assert held.wait(10)
    threading.Timer(0.2, gate.set).start()
    one.checkpointer.close()
    assert steps(through_proxy.objects()) == []
    assert one.warnings == []


def test_a_store_that_comes_back_in_time_costs_no_checkpoint(through_proxy: Any, proxy: Any, rank: Make) -> None:
    one = rank(through_proxy, 1)
    one.checkpointer.take_over()
    back = time.monotonic() + 1.0
    proxy.rule = lambda method, path: "refuse" if time.monotonic() < back else ""
    one.save(1)
    assert steps(through_proxy.objects()) == [1]
    assert one.warnings == []


def test_a_failed_upload_is_a_warning_and_the_next_save_tries_again(through_proxy: Any, proxy: Any, rank: Make) -> None:
    one = rank(through_proxy, 1, upload_limit_s=3.0)
    one.checkpointer.take_over()
    proxy.rule = lambda method, path: "refuse" if method == "PUT" else ""
    one.checkpointer.save({"w": torch.ones(10)}, {}, step=1, samples=1)
    with pytest.raises(Exception, match=r"is not reachable|does not answer|refuses|breaks connections off"):
        one.checkpointer.flush(30)
    assert {reason for reason, _ in one.warnings} == {"CheckpointUploadFailed"}
    proxy.rule = lambda method, path: ""
    one.save(2)
    assert steps(through_proxy.objects()) == [2]
    kept = Manifest.parse(through_proxy.objects().get("manifests/000000000002-000001.json"), "m")
    assert through_proxy.objects().list("attempts") == [piece.key for piece in kept.slices]


def test_training_ends_when_nothing_could_be_committed_for_long(through_proxy: Any, proxy: Any, rank: Make) -> None:
    one = rank(through_proxy, 1, upload_limit_s=0.3)
    one.checkpointer.take_over()
    proxy.rule = lambda method, path: "503" if method == "PUT" else ""
    limit = time.monotonic() + 90
    with pytest.raises(UploadFailed, match="no checkpoint could be saved for"):
        for step in range(1, 100):
            one.checkpointer.save({"w": torch.ones(10)}, {}, step=step, samples=1, wait=True)
            assert time.monotonic() < limit
    with pytest.raises(UploadFailed):
        one.checkpointer.check()


def test_a_state_that_cannot_be_stored_is_refused_by_save(place: Any, rank: Make) -> None:
    one = rank(place, 1)
    one.checkpointer.take_over()
    with pytest.raises(StateNotPlain, match="give what collect"):
        one.checkpointer.save({}, {"x": object()}, step=1, samples=1)
    with pytest.raises(StateNotPlain, match="not JSON compliant"):
        one.checkpointer.save({}, {"x": float("nan")}, step=1, samples=1)


def test_a_mistake_in_a_callback_does_not_pass_unseen(place: Any, rank: Make) -> None:
    one = rank(place, 1)
    one.checkpointer.take_over()
    one.checkpointer._on_commit = lambda commit: 1 / 0
    with pytest.raises(ZeroDivisionError):
        one.save(1)


def test_a_prepared_buffer_changes_nothing_but_the_time(place: Any, rank: Make) -> None:
    one = rank(place, 1).checkpointer
    one.take_over()
    state = {"w": torch.randn(1 << 20)}
    one.prepare(state)
    one.save(state, {}, step=1, samples=1, wait=True)
    one.flush(30)
    assert torch.equal(rank(place, 2).checkpointer.take_over().tensors["w"], state["w"])


def test_a_save_leaves_no_openmp_threads_behind(place: Any, rank: Make) -> None:
    """While there are more than processors, those of the training sleep at every barrier."""

    def openmp_threads() -> int:
        return sum(1 for _ in Path("/proc/self/task").iterdir()) - threading.active_count()

    state = {"w": torch.randn(1 << 20)}
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        warm = rank(place, 1).checkpointer  # what a store's client keeps is there from here on
        warm.take_over()
        warm.save(state, {}, step=1, samples=1, wait=True)
        warm.flush(30)
        state["w"].add_(1)
        before = openmp_threads()
        one = rank(place, 2).checkpointer
        one.take_over()
        one.prepare(state)
        one.save(state, {}, step=2, samples=1, wait=True)
        one.flush(30)
        until("no more OpenMP threads than before the save", lambda: openmp_threads() <= before, 10)
    finally:
        torch.set_num_threads(threads)
