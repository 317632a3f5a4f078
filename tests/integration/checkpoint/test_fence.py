"""Two rounds at once: the older one stops, and has changed nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from dlcloud_trainer.checkpoint.errors import Fenced
from dlcloud_trainer.checkpoint.head import HeadFile
from dlcloud_trainer.checkpoint.layout import HEAD, Entry, Head
from dlcloud_trainer.objects import AlreadyExists, Objects, PreconditionFailed, s3

from .proxy import LOSE_REPLY, Fault
from .ranks import committed, needed, same, wait_for

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


LOST = {
    "first takeover": ("PUT", f"/{HEAD}", 0),
    "probe": ("PUT", "-probe/", 0),
    "slice": ("PUT", r"\.bin", 0),
    "manifest": ("PUT", "/manifests/", 0),
    "commit": ("PUT", f"/{HEAD}", 1),
    "listing": ("GET", "list-type", 1),
    "delete of a manifest": ("DELETE", "/manifests/", 0),
    "delete of a slice": ("DELETE", r"\.bin", 0),
}


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
@pytest.mark.parametrize("what", LOST)
def test_a_lost_reply_is_no_conflict(through_proxy: Any, proxy: Any, rank: Make, what: str, times: int) -> None:
    method, path, skip = LOST[what]
    rule = proxy.on(method, path, LOSE_REPLY, skip=skip, times=times)
    one = rank(through_proxy, 1, keep_last=1)
    one.checkpointer.take_over()
    one.save(1)
    one.save(2)
    assert rule.met == times
    assert [commit.step for commit in one.commits] == [1, 2]
    assert one.warnings == []
    assert committed(through_proxy) == [2]
    written = [one for one in proxy.requests if one.method == "PUT" and one.path.endswith(HEAD) and one.status == 200]
    assert len(written) == 3  # the takeover and two commits: what had arrived is not written again
    assert set(through_proxy.objects().list()) == needed(through_proxy)


@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
def test_a_lost_reply_of_a_later_takeover_is_no_conflict(
    through_proxy: Any, s3_place: Any, proxy: Any, rank: Make, times: int
) -> None:
    one = rank(s3_place, 1)
    one.checkpointer.take_over()
    one.save(1)
    rule = proxy.on("PUT", f"/{HEAD}", LOSE_REPLY, times=times)
    two = rank(through_proxy, 2)
    assert two.checkpointer.take_over().step == 1
    assert rule.met == times
    two.save(2)
    assert committed(s3_place) == [2, 1]
    assert two.warnings == []


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


class Held:
    """A rank process that is stopped while one of its requests is on the way, and the request with it."""

    def __init__(self, proxy: Any) -> None:
        self._proxy = proxy
        self._processes: list[Any] = []
        self._stopped, self._released = threading.Event(), threading.Event()

    def stop(self, _: Any) -> None:
        wait_for(lambda: self._processes, "the process is known")
        self._processes[0].stop()
        self._stopped.set()
        assert self._released.wait(60)

    def watch(self, process: Any) -> None:
        self._processes.append(process)
        wait_for(lambda: self._stopped.is_set() or not process.process.is_alive(), "it is stopped")
        assert self._stopped.is_set(), process.said()
        self._met = len(self._proxy.requests)

    def wake(self) -> int:
        """The request goes on, the process as well; its exit code."""
        self._released.set()
        self._processes[0].go_on()
        return int(self._processes[0].wait())

    def requests_since(self, method: str) -> list[Any]:
        return [one for one in self._proxy.requests[self._met - 1 :] if one.method == method]


@pytest.fixture
def held(proxy: Any) -> Iterator[Held]:
    made = Held(proxy)
    yield made
    made._released.set()


# The rank's requests for a manifest's object: 0 is its first PUT. Held before a byte was forwarded it cannot see the
# reply, so its head PUT is still to come; a head PUT held is one that comes late.
STOPPED = {
    "in the middle of a slice": ("PUT", "/attempts/000001.*/00001.bin", 1, {"forward": 0.5, "resume": True}),
    "before its head PUT": ("PUT", "/manifests/", 1, {}),
    "while its head PUT is on the way": ("PUT", f"/{HEAD}", 2, {}),
}


@pytest.mark.parametrize("where", STOPPED)
def test_a_stopped_rank_is_fenced_when_it_wakes_and_deletes_nothing(
    through_proxy: Any, s3_place: Any, proxy: Any, held: Held, rank: Make, rank_process: Make, where: str
) -> None:
    method, path, skip, fields = STOPPED[where]
    fields = fields | ({"midway": held.stop} if fields else {"before": held.stop})
    proxy.on(method, path, Fault(**fields), skip=skip, times=1)
    stale = rank_process(through_proxy, 1, steps=(1, 2, 3), keep_last=1)
    held.watch(stale)

    two = rank(s3_place, 2, keep_last=3)
    assert two.checkpointer.take_over().step == 1
    two.save(7)
    before = contents(s3_place)
    assert held.wake() == 74
    proxy.settle()
    assert stale.said()[:-1] == [["restored", None], ["committed", 1]]
    assert stale.said()[-1][0] == "fenced"
    assert "round 2 owns the checkpoints, this process belongs to round 1" in stale.said()[-1][1]
    assert [one.status for one in held.requests_since("PUT") if one.path.endswith(HEAD)] == [412]
    assert held.requests_since("DELETE") == []
    after = contents(s3_place)
    assert {key: after.get(key) for key in before} == before

    two.save(8)
    assert set(s3_place.objects().list()) == needed(s3_place)
    assert rank(s3_place, 3).checkpointer.take_over().step == 8


def test_a_rank_stopped_in_its_cleaning_deletes_nothing_of_the_next_round(
    through_proxy: Any, s3_place: Any, proxy: Any, held: Held, rank: Make, rank_process: Make
) -> None:
    proxy.on("DELETE", "/manifests/000000000001-", Fault(before=held.stop), times=1)
    stale = rank_process(through_proxy, 1, steps=(1, 2, 3), keep_last=1)
    held.watch(stale)

    two = rank(s3_place, 2, keep_last=3)
    restored = two.checkpointer.take_over()
    assert restored.step == 2 and same(restored.tensors, 2)
    two.save(7)
    before = contents(s3_place)
    assert before.keys() == needed(s3_place)
    assert held.wake() == 74
    proxy.settle()
    assert stale.said()[-2] == ["committed", 2] and stale.said()[-1][0] == "fenced"
    assert len(held.requests_since("DELETE")) > 1
    assert [one.status for one in held.requests_since("PUT") if one.path.endswith(HEAD)] == [412]
    after = contents(s3_place)
    assert {key: after.get(key) for key in before} == before
    restored = rank(s3_place, 3).checkpointer.take_over()
    assert restored.step == 7


def test_a_rank_that_ended_well_needs_no_fence(place: Any, rank: Make, rank_process: Make) -> None:
    process = rank_process(place, 1, steps=(1, 2))
    assert process.wait() == 0
    restored = rank(place, 2).checkpointer.take_over()
    assert restored.step == 2 and same(restored.tensors, 2)


# --- races ---


def at_once(*acts: Callable[[], Any]) -> list[Any]:
    """Results of all, run at the same moment; `Fenced` is one."""
    together = threading.Barrier(len(acts))

    def run(act: Callable[[], Any]) -> Any:
        together.wait(30)
        try:
            return act()
        except Fenced as fenced:
            return fenced

    with ThreadPoolExecutor(len(acts)) as pool:
        return list(pool.map(run, acts))


class HeadRace:
    """Races on one head, over and over; every method is one of them and leaves the head to a single owner."""

    def __init__(self, objects: Objects) -> None:
        self._objects, self._round, self._step = objects, 0, 0

    def owner(self, round: int, nonce: str) -> HeadFile:
        return HeadFile(self._objects, round=round, nonce=nonce, warn=lambda *_: None)

    def commit(self, head: HeadFile, name: str) -> Callable[[], Any]:
        self._step += 1
        entry = Entry(f"manifests/{name}", self._step, 1)
        return lambda: head.commit((entry,), tuple, until=time.monotonic() + 30)

    def check(self, owner: HeadFile, round: int, nonce: str, name: str) -> None:
        self._round = round
        found = Head.parse(self._objects.get(HEAD), HEAD)
        assert (found.round, found.nonce) == (round, nonce)
        assert [entry.manifest for entry in found.checkpoints] == [f"manifests/{name}"]
        assert owner.checkpoints == found.checkpoints

    def takeovers(self, difference: int) -> None:
        """Two rounds, or two that claim the same number, take over at once and then commit at once."""
        rounds = (self._round + 1, self._round + 1 + difference)
        racers = [self.owner(round, name) for round, name in zip(rounds, "ab", strict=True)]
        taken = at_once(*(one.take_over for one in racers))
        still = [i for i in (0, 1) if not isinstance(taken[i], Fenced)]
        done = at_once(*(self.commit(racers[i], "ab"[i]) for i in still))
        winners = [i for i, said in zip(still, done, strict=True) if not isinstance(said, Fenced)]
        assert len(winners) == 1, (taken, done)
        assert difference == 0 or winners == [1]
        self.check(racers[winners[0]], max(rounds), "ab"[winners[0]], "ab"[winners[0]])

    def commit_and_takeover(self) -> None:
        """A round commits while the next one takes over: the commit is inherited or refused, never lost."""
        old, new = self.owner(self._round + 1, "old"), self.owner(self._round + 2, "new")
        old.take_over()
        said, _ = at_once(self.commit(old, "old"), new.take_over)
        inherited = "manifests/old" in [entry.manifest for entry in new.checkpoints]
        assert inherited == (not isinstance(said, Fenced))
        with pytest.raises(Fenced):
            self.commit(old, "late")()
        self.commit(new, "new")()
        self.check(new, self._round + 2, "new", "new")


def test_of_two_rounds_racing_for_the_head_one_wins_200_times(s3_place: Any) -> None:
    race = HeadRace(s3_place.objects())
    kinds = [lambda: race.takeovers(1), lambda: race.takeovers(0), race.commit_and_takeover]
    for number in range(200):
        kinds[number % len(kinds)]()


def race_whole(place: Any, rank: Make, number: int, rounds: tuple[int, int]) -> None:
    """Two ranks take over at once and then save at once: what the winner saved loads."""
    racers = [rank(place, round, nonce=f"{number}-{i}", keep_last=1) for i, round in enumerate(rounds)]
    taken = at_once(*(one.checkpointer.take_over for one in racers))
    owners = [i for i in (0, 1) if not isinstance(taken[i], Fenced)]
    assert {taken[i].step if taken[i] else 0 for i in owners} == {number}
    value = [number + 0.25, number + 0.5]
    saved = at_once(*(partial(racers[i].save, number + 1, value=value[i]) for i in owners))
    (winner,) = [i for i, said in zip(owners, saved, strict=True) if not isinstance(said, Fenced)]
    assert [len(one.commits) for one in racers] == [int(i == winner) for i in (0, 1)]
    loaded = rank(place, max(rounds), nonce=f"{number}-{winner}").checkpointer
    restored = loaded.take_over()
    for one in (*(racer.checkpointer for racer in racers), loaded):
        one.close()
    assert (restored.step, committed(place)) == (number + 1, [number + 1])
    assert restored.tensors["model/w"].eq(value[winner]).all()


@pytest.mark.parametrize("times", [20, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_what_the_winner_of_a_race_saved_loads(s3_place: Any, rank: Make, times: int) -> None:
    for number in range(times):
        race_whole(s3_place, rank, number, (2 * number + 1, 2 * number + 1 + number % 2))


@pytest.mark.parametrize("condition", ["If-None-Match", "If-Match"])
@pytest.mark.parametrize("times", [1, pytest.param(25, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_of_16_conditional_writes_at_once_the_store_takes_one(
    s3_place: Any, condition: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "TIMEOUT_S", 60.0)  # SeaweedFS lets those that meet wait for one another
    stores = [s3_place.objects() for _ in range(16)]  # each with connections of its own
    for number in range(times):
        key = f"race/{number}"
        etag = stores[0].put(key, b"before") if condition == "If-Match" else ""

        def write(index: int, key: str = key, etag: str = etag) -> str | None:
            data = f"{index}".encode()
            try:
                return stores[index].put_if_match(key, data, etag) if etag else stores[index].put_if_absent(key, data)
            except (AlreadyExists, PreconditionFailed):
                return None

        answers = at_once(*(partial(write, index) for index in range(16)))
        (winner,) = [index for index, answer in enumerate(answers) if answer is not None]
        assert stores[0].get_with_etag(key) == (f"{winner}".encode(), answers[winner])
