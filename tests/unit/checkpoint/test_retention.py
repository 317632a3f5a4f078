"""Which checkpoints stay, which objects go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dlcloud_trainer.checkpoint.layout import Entry, manifest_key, slice_key
from dlcloud_trainer.checkpoint.retention import garbage, kept

metrics = st.none() | st.floats(-10, 10)


@st.composite
def lineages(draw: st.DrawFn) -> list[Entry]:
    steps = sorted(draw(st.sets(st.integers(0, 50), max_size=12)), reverse=True)
    return [Entry(manifest_key(step, 1), step, 1, draw(metrics), draw(st.booleans())) for step in steps]


@given(lineages(), st.integers(1, 5), st.integers(0, 3))
def test_the_newest_are_kept_in_their_order(lineage: list[Entry], last: int, best: int) -> None:
    stay = kept(lineage, keep_last=last, keep_best=best)
    assert stay[:last] == tuple(lineage[:last])
    assert list(stay) == [entry for entry in lineage if entry in stay]


@given(lineages(), st.integers(1, 5), st.integers(0, 3))
def test_no_dropped_one_is_better_than_the_kept_best(lineage: list[Entry], last: int, best: int) -> None:
    stay = kept(lineage, keep_last=last, keep_best=best)
    measured = sorted((entry.metric for entry in lineage if entry.metric is not None), reverse=True)
    assert sorted((e.metric for e in stay if e.metric is not None), reverse=True)[:best] == measured[:best]


@given(lineages(), st.integers(1, 5), st.integers(0, 3))
def test_a_pinned_one_never_goes_and_no_more_stay_than_asked_for(lineage: list[Entry], last: int, best: int) -> None:
    stay = kept(lineage, keep_last=last, keep_best=best)
    pinned = [entry for entry in lineage if entry.pinned]
    assert set(pinned) <= set(stay)
    assert len(stay) <= last + best + len(pinned)


@given(lineages(), st.integers(1, 5), st.integers(0, 3))
def test_keeping_twice_changes_nothing(lineage: list[Entry], last: int, best: int) -> None:
    once = kept(lineage, keep_last=last, keep_best=best)
    assert kept(once, keep_last=last, keep_best=best) == once


def test_of_equally_good_ones_the_newer_is_kept() -> None:
    lineage = [Entry(manifest_key(step, 1), step, 1, metric) for step, metric in [(4, None), (3, 0.9), (2, 0.9)]]
    assert [entry.step for entry in kept(lineage, keep_last=1, keep_best=1)] == [4, 3]


def test_the_newest_stays_even_when_nothing_is_asked_for() -> None:
    assert len(kept([Entry(manifest_key(1, 1), 1, 1)], keep_last=0, keep_best=0)) == 1


folders = st.sampled_from(["attempts/000001-aa", "attempts/000002-bb", "attempts/000002-cc", "attempts/000003-dd"])
all_keys = st.sets(
    st.builds(manifest_key, st.integers(0, 5), st.integers(1, 3)) | st.builds(slice_key, folders, st.integers(0, 2)),
    max_size=25,
)


@given(all_keys, st.data())
def test_garbage_is_nothing_listed_used_or_of_a_round_that_may_still_write(keys: set[str], data: st.DataObject) -> None:
    listed = {key for key in keys if data.draw(st.booleans())}
    mine = {"attempts/000002-bb", manifest_key(4, 2)}
    gone = garbage(keys, round=2, listed=listed, used=listed, mine=mine)
    assert not set(gone) & listed
    assert set(gone) == {
        key
        for key in keys - listed
        if key.startswith("attempts/000001-") or "-000001." in key or key.startswith(tuple(mine))
    }


@given(all_keys)
def test_no_slice_of_a_round_is_garbage_while_a_listed_manifest_of_it_cannot_be_read(keys: set[str]) -> None:
    gone = garbage(keys, round=3, listed=(), used=(), mine=(), unknown={1})
    assert {key for key in keys if key.startswith("attempts/000001-")}.isdisjoint(gone)
    assert {key for key in keys if key.startswith("attempts/000002-")} <= set(gone)


@given(all_keys)
def test_manifests_go_before_slices(keys: set[str]) -> None:
    gone = garbage(keys, round=9, listed=(), used=(), mine=())
    assert gone == [*(k for k in gone if k.startswith("manifests/")), *(k for k in gone if k.startswith("attempts/"))]
    assert set(gone) == keys


def test_objects_that_are_not_ours_are_left_alone() -> None:
    keys = ["attempts/notes.txt", "manifests/README", "attempts/latest/00000.bin"]
    assert garbage(keys, round=9, listed=(), used=(), mine=()) == []
