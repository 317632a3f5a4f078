"""kill -9 at any moment of a round: the last commit loads, bit for bit, and the next round collects what is left.

A rank process works through a proxy that kills it at a chosen request: before the store has heard of it, when the store
has half of its body, or when the store has answered and the rank does not know. Every request of a round is met once
each way. Then the next round takes over.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from dlcloud_trainer.checkpoint import upload
from dlcloud_trainer.checkpoint.layout import HEAD, Manifest

from .proxy import Fault, Request
from .ranks import SLICE_BYTES, committed, needed, same, tensors, wait_for

Make = Callable[..., Any]
pytestmark = pytest.mark.timeout(600)  # some tests play a hundred rounds


@dataclass(frozen=True)
class Story:
    """A round that is killed. `lineages`: what the head lists after each of its PUTs of the head, the first before any;
    None is no head at all."""

    before: tuple[int, ...]  # steps round 1 has committed
    round: int
    step: int
    lineages: tuple[tuple[int, ...] | None, ...]
    damaged: int = 0  # the step whose slice is damaged

    def prepare(self, place: Any, rank: Make) -> None:
        if not self.before:
            return
        one = rank(place, 1, keep_last=2)
        one.checkpointer.take_over()
        for step in self.before:
            assert one.checkpointer.save(tensors(step), {"step": step}, step=step, samples=step, wait=True)
            one.checkpointer.flush(30)
        store = place.objects()
        store.put("attempts/000001-dead/00000.bin", b"of an upload nobody committed")
        store.put("manifests/000000000007-000001.json", b"of a round that was fenced")
        if self.damaged:
            key = Manifest.parse(store.get(f"manifests/{self.damaged:012d}-000001.json"), "m").slices[1].key
            store.put(key, store.get(key)[:-1] + b"?")


STORIES = {
    "first round": Story(before=(), round=1, step=1, lineages=(None, (), (1,))),
    "later round": Story(before=(1, 2), round=2, step=3, lineages=((2, 1), (2, 1), (3, 2))),
    "round after damage": Story(
        before=(1, 2), round=2, step=3, lineages=((2, 1), (2, 1), (1,), (3, 1)), damaged=2
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def several_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "SMALLEST", SLICE_BYTES)


@pytest.fixture(params=STORIES)
def story(request: pytest.FixtureRequest) -> Story:
    return STORIES[request.param]


class Killed:
    """What `kill` did to the rank of a story; `place` is the store without the proxy."""

    def __init__(self, proxy: Any, rank: Make, rank_process: Make, s3_place: Any) -> None:
        self.proxy, self._rank, self._rank_process, self._s3_place = proxy, rank, rank_process, s3_place
        self._runs = 0

    def play(self, story: Story, rule: Callable[[Callable[..., None]], Any] | None = None) -> str:
        """Play the story; `rule(kill)` sets the proxy's rules. Returns what was killed, "" for nothing."""
        self._runs += 1
        self.place = self._s3_place.below(f"run-{self._runs}")
        story.prepare(self.place, self._rank)
        process: list[Any] = []
        victims: list[Request] = []

        def kill(request: Request) -> None:
            wait_for(lambda: process, "the process is known")
            victims.append(request)
            process[0].kill()

        self.proxy.clear()
        self.proxy.forget()
        if rule is not None:
            rule(kill)
        through = type(self.place)(self.place.uri, self.proxy.endpoint)
        process.append(self._rank_process(through, story.round, steps=(story.step,), keep_last=2))
        code = process[0].wait()
        assert code == (-signal.SIGKILL if victims else 0), process[0].said()
        self.proxy.settle()
        self.requests = list(self.proxy.requests)
        puts = [one for one in self.requests if one.method == "PUT" and one.path.endswith(HEAD) and one.status == 200]
        self.lineage = story.lineages[len(puts)]
        return " and ".join(f"request {one.number}: {one.method} {one.path}" for one in victims)

    def check_the_next_round(self, story: Story) -> None:
        """It takes over what was committed, and leaves nothing but that and what others may still be writing."""
        found = self.place.objects().get_with_etag(HEAD)
        assert (found and committed(self.place)) == (self.lineage if self.lineage is None else list(self.lineage))
        sound = [step for step in self.lineage or () if step != story.damaged]
        following = self._rank(self.place, story.round + 1, keep_last=2)
        restored = following.checkpointer.take_over()
        assert (restored.step if restored else None) == next(iter(sound), None)
        assert restored is None or same(restored.tensors, restored.step)
        live = self.live_uploads(story.round + 1)
        for step in (10, 11):
            following.save(step)
            assert set(self.place.objects().list()) == needed(self.place) | live
        assert committed(self.place) == [11, 10]
        reasons = {reason for reason, _ in following.warnings}
        assert reasons <= ({"CheckpointDamaged"} if story.damaged else set()), following.warnings

    def live_uploads(self, round: int) -> set[str]:
        """Objects of uploads that may be under way: of the same round, and of higher ones."""
        keys = {f"attempts/{r:06d}-live/00000.bin" for r in (round, round + 1, round + 7)}
        keys.add(f"manifests/000000000012-{round + 1:06d}.json")
        for key in keys:
            self.place.objects().put(key, b"half done")
        return keys


@pytest.fixture
def killed(proxy: Any, rank: Make, rank_process: Make, s3_place: Any) -> Killed:
    return Killed(proxy, rank, rank_process, s3_place)


def each_request(killed: Killed, story: Story, fault: Callable[[Callable[..., None]], Fault]) -> None:
    """Play the story once whole, then once for each of its requests, which gets this fault."""
    assert killed.play(story) == ""
    killed.check_the_next_round(story)
    requests = killed.requests
    assert {one.method for one in requests} >= {"GET", "PUT"}
    for number in range(len(requests)):
        what = killed.play(story, lambda kill, n=number: killed.proxy.on("", "", fault(kill), skip=n, times=1))
        assert what, f"request {number} of {len(requests)} never came"
        try:
            killed.check_the_next_round(story)
        except BaseException as error:
            error.add_note(f"the rank was killed at {what}")
            raise


@pytest.mark.parametrize("story", ["first round", "later round"], indirect=True)
def test_a_rank_killed_after_any_request_loses_no_commit_and_leaves_no_garbage(killed: Killed, story: Story) -> None:
    each_request(killed, story, lambda kill: Fault(after=kill, reply=0.0))


@pytest.mark.slow
@pytest.mark.parametrize("story", ["round after damage"], indirect=True)
def test_a_rank_killed_after_any_request_of_a_round_that_goes_back(killed: Killed, story: Story) -> None:
    each_request(killed, story, lambda kill: Fault(after=kill, reply=0.0))


@pytest.mark.slow
def test_a_rank_killed_before_any_request_loses_no_commit_and_leaves_no_garbage(killed: Killed, story: Story) -> None:
    each_request(killed, story, lambda kill: Fault(before=kill, refuse=True))


@pytest.mark.parametrize(("path", "skip"), [("/attempts/.*/00001.bin", 0), ("/manifests/", 0), (f"/{HEAD}", 1)])
def test_a_rank_killed_in_the_middle_of_an_upload_leaves_the_checkpoint_before(
    killed: Killed, path: str, skip: int
) -> None:
    story = STORIES["later round"]

    def half(kill: Callable[..., None]) -> None:
        killed.proxy.on("PUT", path, Fault(forward=0.5, midway=kill), skip=skip, times=1)

    what = killed.play(story, half)
    assert killed.lineage == (2, 1)
    key = what.rpartition(f"{killed.place.uri.removeprefix('s3://')}/")[2]
    assert key == HEAD or key not in killed.place.objects().list()
    killed.check_the_next_round(story)
