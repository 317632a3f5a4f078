"""A lost head is put together again from the manifests: nothing that was kept is lost, nothing fenced comes back."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from dlcloud_trainer.checkpoint.errors import Damaged
from dlcloud_trainer.checkpoint.layout import Entry, Manifest, manifest_key
from dlcloud_trainer.checkpoint.retention import kept
from dlcloud_trainer.checkpoint.salvage import lineage

EMPTY = Manifest(
    step=0, samples=0, round=1, parent=None, created_at=datetime(2026, 1, 2, tzinfo=UTC), world_size=1, threads=1,
    seed=0, size_bytes=0, metric=None, workload="", parameters={}, slices=(), tensors={}, state={},
)  # fmt: skip


class Prefix:
    """Manifests as a job writes them: `commit` adds one whose parent is the newest entry."""

    def __init__(self, keep_last: int = 99, keep_best: int = 0) -> None:
        self._keep = {"keep_last": keep_last, "keep_best": keep_best}
        self.entries: tuple[Entry, ...] = ()
        self.manifests: dict[str, Manifest | None] = {}  # None: damaged

    def write(self, step: int, round: int, metric: float | None = None) -> str:
        parent = self.entries[0].manifest if self.entries else None
        key = manifest_key(step, round)
        self.manifests[key] = replace(EMPTY, step=step, round=round, parent=parent, metric=metric)
        return key

    def commit(self, step: int, round: int = 1, metric: float | None = None, pinned: bool = False) -> None:
        entry = Entry(self.write(step, round, metric), step, round, metric, pinned)
        self.entries = kept((entry, *self.entries), **self._keep)
        listed = {entry.manifest for entry in self.entries}
        self.manifests = {key: manifest for key, manifest in self.manifests.items() if key in listed}

    def found(self) -> tuple[Entry, ...]:
        def read(key: str) -> Manifest | None:
            if self.manifests[key] is None:
                raise Damaged(key)
            return self.manifests[key]

        return lineage(self.manifests, read)


@given(st.data(), st.integers(1, 4), st.integers(0, 2))
def test_everything_that_was_listed_comes_back_in_its_order(data: st.DataObject, last: int, best: int) -> None:
    prefix = Prefix(last, best)
    round = 1
    for step in range(data.draw(st.integers(1, 12))):
        round += data.draw(st.integers(0, 1))
        prefix.commit(step, round, data.draw(st.none() | st.floats(-1, 1)), pinned=data.draw(st.booleans()))
    assert [entry.manifest for entry in prefix.found()] == [entry.manifest for entry in prefix.entries]


def test_what_retention_had_kept_beyond_a_gap_comes_back_pinned() -> None:
    prefix = Prefix(keep_last=2)
    for step in range(1, 7):
        prefix.commit(step, pinned=step == 2)
    assert [(entry.step, entry.pinned) for entry in prefix.found()] == [(6, False), (5, False), (2, True)]


def test_a_damaged_manifest_is_passed_over_and_pins_nothing() -> None:
    prefix = Prefix()
    for step in range(1, 5):
        prefix.commit(step)
    prefix.manifests[manifest_key(3, 1)] = None
    assert [(entry.step, entry.pinned) for entry in prefix.found()] == [(4, False), (2, False), (1, False)]


def test_what_a_fenced_round_left_is_not_in_the_lineage() -> None:
    prefix = Prefix()
    prefix.commit(1, round=1)
    prefix.write(9, round=1)
    prefix.commit(2, round=2)
    assert [entry.manifest for entry in prefix.found()] == [manifest_key(2, 2), manifest_key(1, 1)]


def test_a_manifest_under_another_ones_key_is_passed_over() -> None:
    prefix = Prefix()
    prefix.commit(1)
    prefix.commit(2)
    prefix.manifests[manifest_key(2, 1)] = prefix.manifests[manifest_key(1, 1)]
    assert [entry.step for entry in prefix.found()] == [1]


def test_no_readable_manifest_is_no_lineage() -> None:
    prefix = Prefix()
    prefix.commit(1)
    prefix.manifests[manifest_key(1, 1)] = None
    assert prefix.found() == ()
