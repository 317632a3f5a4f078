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

from .proxy import Fault
from .ranks import committed, needed

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


def flipped_at(index: float) -> Callable[[bytes], bytes]:
    """One bit of the byte at this part of an object: 0 the first, 1 the last."""

    def flip_one(data: bytes) -> bytes:
        at = round(index * (len(data) - 1))
        return bytes([*data[:at], data[at] ^ 0x10, *data[at + 1 :]])

    return flip_one


BROKEN: dict[str, Callable[[bytes], bytes | None]] = {
    "first byte flipped": flipped_at(0),
    "a byte flipped": flipped_at(0.3),
    "last byte flipped": flipped_at(1),
    "first byte missing": lambda data: data[1:],
    "a byte missing": lambda data: data[: len(data) // 3] + data[len(data) // 3 + 1 :],
    "last byte missing": lambda data: data[:-1],
    "empty": lambda data: b"",
    "gone": lambda data: None,
}


def break_object(store: Any, key: str, how: str) -> None:
    data = BROKEN[how](store.get(key))
    if data is None:
        store.delete(key)
    else:
        store.put(key, data)


@pytest.mark.parametrize("how", BROKEN)
@pytest.mark.parametrize("what", ["slice", "manifest"])
def test_one_wrong_byte_leads_to_the_checkpoint_before(place: Any, rank: Make, what: str, how: str) -> None:
    store = saved(place, rank)
    key = slice_of(store, 3) if what == "slice" else "manifests/000000000003-000001.json"
    break_object(store, key, how)
    two = rank(place, 2)
    restored = two.checkpointer.take_over()
    assert restored.step == 2
    assert restored.tensors["model/w"].eq(2).all()
    ((reason, message),) = two.warnings
    assert reason == "CheckpointDamaged" and store.uri(key) in message


@pytest.mark.parametrize("how", BROKEN)
def test_one_wrong_byte_in_the_head_costs_no_checkpoint(place: Any, rank: Make, how: str) -> None:
    store = saved(place, rank)
    break_object(store, HEAD, how)
    two = rank(place, 2)
    restored = two.checkpointer.take_over()
    assert restored.step == 3
    assert restored.tensors["model/w"].eq(3).all()
    ((reason, message),) = two.warnings
    assert reason == "CheckpointHeadDamaged" and store.uri(HEAD) in message
    two.save(4)
    assert committed(place) == [4, 3, 2]
    assert set(store.list()) == needed(place)


def test_with_a_damaged_head_and_a_damaged_newest_checkpoint_the_one_before_is_used(place: Any, rank: Make) -> None:
    store = saved(place, rank)
    break_object(store, HEAD, "a byte flipped")
    break_object(store, slice_of(store, 3), "a byte flipped")
    two = rank(place, 2)
    assert two.checkpointer.take_over().step == 2
    assert [reason for reason, _ in two.warnings] == ["CheckpointHeadDamaged", "CheckpointDamaged"]


@pytest.mark.parametrize("how", ["a byte flipped", "gone"])
def test_without_head_and_manifests_a_job_does_not_begin_anew(place: Any, rank: Make, how: str) -> None:
    store = saved(place, rank)
    break_object(store, HEAD, how)
    for key in store.list("manifests"):
        break_object(store, key, "a byte flipped")
    before = store.list()
    with pytest.raises(NothingSound, match="none of the 3 manifests beside it can be read; put the objects back"):
        rank(place, 2).checkpointer.take_over()
    assert store.list() == before


def test_what_was_kept_for_long_survives_a_lost_head(place: Any, rank: Make) -> None:
    one = rank(place, 1, keep_last=2, keep_best=1)
    one.checkpointer.take_over()
    for step, metric in [(1, 0.9), (2, 0.1), (3, 0.2), (4, 0.3), (5, 0.4)]:
        one.save(step, metric=metric)
    place.objects().delete(HEAD)
    two = rank(place, 2, keep_last=2, keep_best=0)
    assert two.checkpointer.take_over().step == 5
    assert "from 3 of 3 manifests, pins are lost, and 1 that retention had kept are pinned" in two.warnings[0][1]
    two.save(6)
    assert committed(place) == [6, 5, 1]


@pytest.mark.parametrize(
    ("what", "path"), [("slice", "/attempts/.*bin"), ("manifest", "/manifests/"), ("head", f"/{HEAD}")]
)
def test_a_byte_flipped_on_the_way_is_no_damage(
    through_proxy: Any, s3_place: Any, proxy: Any, rank: Make, what: str, path: str
) -> None:
    saved(s3_place, rank)
    rule = proxy.on("GET", path, Fault(edit=flipped_at(0.4)), times=1)
    two = rank(through_proxy, 2)
    assert two.checkpointer.take_over().step == 3
    assert rule.met == 1
    assert two.warnings == []


@pytest.mark.parametrize("how", ["a byte flipped", "gone"])
def test_an_older_checkpoint_with_a_damaged_manifest_does_not_keep_what_is_retired(
    place: Any, rank: Make, how: str
) -> None:
    one = rank(place, 1, keep_last=2, keep_best=1)
    one.checkpointer.take_over()
    for step, metric in [(1, 0.9), (2, 0.1), (3, 0.2)]:
        one.save(step, metric=metric)
    store = place.objects()
    break_object(store, "manifests/000000000001-000001.json", how)
    before = set(store.list("attempts"))
    two = rank(place, 2, keep_last=1, keep_best=1)
    assert two.checkpointer.take_over().step == 3
    for step in (4, 5, 6):
        two.save(step)
    assert committed(place) == [6, 1]
    ((reason, message),) = two.warnings
    assert reason == "CheckpointDamaged" and "checkpoint of step 1 is damaged" in message
    # What its slices were nobody can tell: none of its round's is deleted, and of the others all.
    assert {key for key in store.list("attempts") if key.startswith("attempts/000001")} == before
    assert len([key for key in store.list("attempts") if key.startswith("attempts/000002")]) == 1
    assert [key for key in store.list("manifests") if key.endswith("-000002.json")] == [
        "manifests/000000000006-000002.json"
    ]


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
    monkeypatch.setattr("dlcloud_trainer.checkpoint.reading.SLICE_RETRY_S", 0.5)
    proxy.rule = lambda method, path: "503" if "/attempts/" in path else ""
    two = rank(through_proxy, 2)
    with pytest.raises(StoreUnreachable, match="answers 503"):
        two.checkpointer.take_over()
    assert two.warnings == []
    proxy.rule = lambda method, path: ""
    assert rank(through_proxy, 3).checkpointer.take_over().step == 3
