"""What stays and what goes over a job's life, on real stores: keepLast, keepBest, pins, and other hands on the head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dlcloud_trainer.checkpoint.layout import HEAD, Head

from .proxy import Fault
from .ranks import committed, needed

Make = Callable[..., Any]
EditHead = Callable[[Any, dict[int, bool | None]], None]


def pinned(place: Any) -> list[int]:
    return [entry.step for entry in Head.parse(place.objects().get(HEAD), HEAD).checkpoints if entry.pinned]


def loads(place: Any, rank: Make, step: int) -> bool:
    """Whether the checkpoint of a step can be read, as another job would."""
    (manifest,) = [key for key in place.objects().list("manifests") if int(key[10:22]) == step]
    other = rank(place.below(f"other-{step}"), 1, resume_from=f"{place.uri}/{manifest}")
    return bool(other.checkpointer.take_over().tensors["model/w"].eq(step).all())


def test_last_best_and_pinned_stay_over_rounds_and_nothing_else_does(
    place: Any, rank: Make, edit_head: EditHead
) -> None:
    metrics = {1: 0.5, 2: 0.1, 3: 0.9, 4: 0.2, 5: 0.3, 6: 0.8, 7: None, 8: 0.1, 9: 0.95, 10: 0.2}
    expected = {2: [2, 1], 4: [4, 3, 2], 6: [6, 5, 3, 2], 8: [8, 7, 3, 2], 10: [10, 9, 2]}
    for round, steps in enumerate([(1, 2), (3, 4), (5, 6, 7, 8), (9, 10)], 1):
        one = rank(place, round, keep_last=2, keep_best=1)
        one.checkpointer.take_over()
        for step in steps:
            one.save(step, metric=metrics[step])
            assert step not in expected or committed(place) == expected[step]
            assert {key for key in place.objects().list() if not key.startswith("other")} == needed(place)
            if step == 2:
                edit_head(place, {2: True})
        assert one.warnings == []
        one.checkpointer.close()
    assert pinned(place) == [2]
    assert all(loads(place, rank, step) for step in (10, 9, 2))


def test_a_pin_set_between_two_commits_stays_and_a_pin_taken_off_lets_go(
    place: Any, rank: Make, edit_head: EditHead
) -> None:
    one = rank(place, 1, keep_last=1)
    one.checkpointer.take_over()
    one.save(1)
    edit_head(place, {1: True})
    one.save(2)
    one.save(3)
    assert (committed(place), pinned(place)) == ([3, 1], [1])
    assert loads(place, rank, 1)
    edit_head(place, {1: False})
    one.save(4)
    assert (committed(place), pinned(place)) == ([4], [])


def test_an_entry_removed_by_a_tool_stays_removed_and_its_objects_go(
    place: Any, rank: Make, edit_head: EditHead
) -> None:
    one = rank(place, 1, keep_last=9)
    one.checkpointer.take_over()
    for step in (1, 2, 3):
        one.save(step)
    two = rank(place, 2, keep_last=9)  # it has read the manifest of step 3 only
    two.checkpointer.take_over()
    two.save(4)
    edit_head(place, {1: None, 4: None})
    two.save(5)
    assert committed(place) == [5, 3, 2]
    assert set(place.objects().list()) == needed(place)
    assert two.warnings == []


def test_a_pin_that_arrives_in_the_middle_of_a_commit_is_kept(
    through_proxy: Any, s3_place: Any, proxy: Any, rank: Make, edit_head: EditHead
) -> None:
    one = rank(through_proxy, 1, keep_last=1)
    one.checkpointer.take_over()
    one.save(1)
    # The commit that would let go of step 1 is on its way: the tool's write comes first.
    rule = proxy.on("PUT", f"/{HEAD}", Fault(before=lambda _: edit_head(s3_place, {1: True})), times=1)
    one.save(2)
    assert rule.met == 1
    assert (committed(s3_place), pinned(s3_place)) == ([2, 1], [1])
    assert [request.status for request in proxy.requests if request.method == "PUT"][-2:] == [412, 200]
    assert set(s3_place.objects().list()) == needed(s3_place)
    assert loads(s3_place, rank, 1)


def test_what_a_failed_commit_uploaded_goes_with_the_next_one(
    through_proxy: Any, s3_place: Any, proxy: Any, rank: Make
) -> None:
    one = rank(through_proxy, 1, upload_limit_s=2.0)
    one.checkpointer.take_over()
    one.save(1)
    proxy.on("PUT", f"/{HEAD}", Fault(status=503))
    with pytest.raises(Exception, match="answers 503"):
        one.save(2)
    assert "manifests/000000000002-000001.json" in s3_place.objects().list()
    proxy.clear()
    one.save(3)
    assert committed(s3_place) == [3, 1]
    assert set(s3_place.objects().list()) == needed(s3_place)


def test_cleaning_that_fails_is_a_warning_and_is_made_good_by_the_next_commit(
    through_proxy: Any, s3_place: Any, proxy: Any, rank: Make
) -> None:
    one = rank(through_proxy, 1, keep_last=1)
    one.checkpointer.take_over()
    one.save(1)
    proxy.on("DELETE", r"\.bin", Fault(status=403, code="AccessDenied"))
    one.save(2)
    assert [reason for reason, _ in one.warnings] == ["CheckpointCleanupFailed"]
    proxy.clear()
    one.save(3)
    assert set(s3_place.objects().list()) == needed(s3_place)
    assert len(one.warnings) == 1
