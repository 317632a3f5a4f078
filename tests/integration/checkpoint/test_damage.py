"""Objects that are broken, cut or gone: the checkpoint before is used, with a warning; nothing is silently begun
anew."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from dlcloud_trainer.checkpoint.errors import Fenced, NewerFormat, NothingSound, StoreUnreachable
from dlcloud_trainer.checkpoint.layout import HEAD, Head, Manifest, seal

Make = Callable[..., Any]


def saved(place: Any, rank: Make, steps: tuple[int, ...] = (1, 2, 3)) -> Any:
    one = rank(place, 1)
    one.checkpointer.take_over()
    for step in steps:
        one.save(step)
    return place.objects()


def slice_of(store: Any, step: int) -> str:
    return Manifest.parse(store.get(f"manifests/{step:012d}-000001.json"), "m").slices[0].key


def flip(store: Any, key: str) -> None:
    data = bytearray(store.get(key))
    data[len(data) // 2] ^= 1
    store.put(key, bytes(data))


DAMAGES: dict[str, tuple[Callable[[Any], None], str]] = {
    "flipped slice": (lambda s: flip(s, slice_of(s, 3)), "CRC does not match"),
    "cut slice": (lambda s: s.put(slice_of(s, 3), s.get(slice_of(s, 3))[:-1]), "bytes instead of"),
    "longer slice": (lambda s: s.put(slice_of(s, 3), s.get(slice_of(s, 3)) + b"x"), "bytes instead of"),
    "missing slice": (lambda s: s.delete(slice_of(s, 3)), "is missing"),
    "flipped manifest": (lambda s: flip(s, "manifests/000000000003-000001.json"), "manifests/000000000003-000001.json"),
    "cut manifest": (lambda s: s.put("manifests/000000000003-000001.json", b'{"version"'), "not JSON"),
    "missing manifest": (lambda s: s.delete("manifests/000000000003-000001.json"), "is missing"),
    "foreign manifest": (
        lambda s: s.put("manifests/000000000003-000001.json", s.get("manifests/000000000001-000001.json")),
        "is about step 1",
    ),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_damaged_checkpoint_leads_to_the_one_before(place: Any, rank: Make, what: str) -> None:
    store = saved(place, rank)
    damage, said = DAMAGES[what]
    damage(store)
    two = rank(place, 2)
    restored = two.checkpointer.take_over()
    assert restored.step == 2
    assert restored.tensors["model/w"].eq(2).all()
    ((reason, message),) = two.warnings
    assert reason == "CheckpointDamaged"
    assert "checkpoint of step 3 is damaged" in message and said in message and "going back to step 2" in message
    assert [entry.step for entry in Head.parse(store.get(HEAD), HEAD).checkpoints] == [2, 1]


def test_training_goes_on_after_damage_and_sweeps_it(place: Any, rank: Make) -> None:
    store = saved(place, rank)
    flip(store, slice_of(store, 3))
    two = rank(place, 2)
    two.checkpointer.take_over()
    two.save(3)
    assert store.list("manifests") == [
        f"manifests/00000000000{n}" for n in ("1-000001.json", "2-000001.json", "3-000002.json")
    ]
    named = {piece.key for key in store.list("manifests") for piece in Manifest.parse(store.get(key), key).slices}
    assert set(store.list("attempts")) == named


def test_the_oldest_is_used_when_all_newer_ones_are_damaged(place: Any, rank: Make) -> None:
    store = saved(place, rank)
    flip(store, slice_of(store, 3))
    store.delete(slice_of(store, 2))
    two = rank(place, 2)
    assert two.checkpointer.take_over().step == 1
    assert len(two.warnings) == 2


def test_a_job_whose_checkpoints_are_all_damaged_does_not_begin_anew(place: Any, rank: Make) -> None:
    store = saved(place, rank, (1, 2))
    flip(store, slice_of(store, 1))
    flip(store, slice_of(store, 2))
    with pytest.raises(NothingSound, match="none of its 2 checkpoints can be read; put the missing objects back"):
        rank(place, 2).checkpointer.take_over()
    flip(store, slice_of(store, 2))
    assert rank(place, 3).checkpointer.take_over().step == 2


@pytest.mark.parametrize(
    "damage",
    [lambda s: flip(s, HEAD), lambda s: s.put(HEAD, b""), lambda s: s.delete(HEAD)],
    ids=["flip", "cut", "gone"],
)
def test_a_damaged_head_is_put_together_from_the_manifests(
    place: Any, rank: Make, damage: Callable[[Any], None]
) -> None:
    store = saved(place, rank)
    damage(store)
    two = rank(place, 2)
    assert two.checkpointer.take_over().step == 3
    ((reason, message),) = two.warnings
    assert reason == "CheckpointHeadDamaged"
    assert "put together again from 3 of 3 manifests" in message
    two.save(4)
    assert [entry.step for entry in Head.parse(store.get(HEAD), HEAD).checkpoints] == [4, 3, 2]


def test_a_damaged_head_still_fences_by_what_newer_rounds_wrote(place: Any, rank: Make) -> None:
    store = saved(place, rank)
    store.put("attempts/000009-ab/00000.bin", b"x")
    store.put(HEAD, b"")
    with pytest.raises(Fenced, match="round 9 owns"):
        rank(place, 2).checkpointer.take_over()


def test_a_stale_manifest_is_not_in_the_lineage_that_is_put_together(place: Any, rank: Make) -> None:
    one, two = rank(place, 1), rank(place, 2)
    one.checkpointer.take_over()
    one.save(1)
    two.checkpointer.take_over()
    with pytest.raises(Fenced):
        one.save(9)  # leaves its manifest behind
    two.save(2)
    store = place.objects()
    stale = Manifest.parse(store.get("manifests/000000000001-000001.json"), "m")
    store.put("manifests/000000000009-000001.json", replace(stale, step=9).dump())
    store.put(HEAD, b"")
    three = rank(place, 3)
    assert three.checkpointer.take_over().step == 2
    assert "from 2 of 3 manifests" in three.warnings[0][1]


def test_a_newer_format_is_refused_and_left_alone(place: Any, rank: Make) -> None:
    store = saved(place, rank)
    body = json.loads(store.get(HEAD)) | {"version": 2}
    del body["crc32"]
    store.put(HEAD, seal(body))
    before = {key: store.get(key) for key in store.list()}
    with pytest.raises(NewerFormat, match="use the image that wrote it"):
        rank(place, 2).checkpointer.take_over()
    assert {key: store.get(key) for key in store.list()} == before


def test_a_store_that_fails_is_not_taken_for_damage(
    through_proxy: Any, s3_place: Any, proxy: Any, rank: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(s3_place, rank)
    monkeypatch.setattr("dlcloud_trainer.checkpoint.restore.SLICE_RETRY_S", 0.5)
    proxy.rule = lambda method, path: "503" if "/attempts/" in path else ""
    two = rank(through_proxy, 2)
    with pytest.raises(StoreUnreachable, match="answers 503"):
        two.checkpointer.take_over()
    assert two.warnings == []
    proxy.rule = lambda method, path: ""
    assert rank(through_proxy, 3).checkpointer.take_over().step == 3
