"""Whole jobs: killed ones end as uninterrupted ones, `resumeFrom` goes on from another job's state and leaves it alone,
and what is kept at the end is what was asked for.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ranks import RankServer
from dlcloud.objects import Access
from dlcloud.sabotage import rank_pids
from dlcloud.session import LocalSession
from dlcloud_operator.api import Phase
from dlcloud_trainer.checkpoint.layout import HEAD, Head, Manifest
from dlcloud_trainer.objects import Objects, PreconditionFailed, open_objects

from .breaking import assert_same_training, merged_records, train_whole
from .conftest import folder_checkpoint, newest
from .sessions import DIGITS, Ended, digits_job, run_job, succeeded, until

pytestmark = pytest.mark.timeout(300)
STEPS_PER_EPOCH = 20
FEW, MORE = 2, 16  # epochs
KILLS = 2
KEEP = {"keepLast": 2, "keepBest": 1}


@dataclass(frozen=True)
class Place:
    """A bucket's prefix and a folder of this module's own."""

    folder: Path
    uri: str
    access: Access

    def objects(self, uri: str) -> Objects:
        return open_objects(uri, endpoint=self.access.endpoint)

    def run(self, name: str, act: Any = None, **fields: Any) -> Ended:
        return run_job(self.folder, name, digits_job(self.uri, **fields), act, self.access)

    def everything(self, uri: str) -> dict[str, tuple[bytes, str] | None]:
        """Content and etag of all objects."""
        store = self.objects(uri)
        return {key: store.get_with_etag(key) for key in store.list()}

    def head(self, uri: str) -> Head:
        return Head.parse(self.objects(uri).get(HEAD), uri)

    def manifest(self, uri: str, key: str) -> Manifest:
        return Manifest.parse(self.objects(uri).get(key), key)


@pytest.fixture(scope="module")
def place(s3_server: Any, s3_bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    access = Access(s3_server.endpoint, s3_server.access_key, s3_server.secret_key)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", access.access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", access.secret_key)
        folder = tmp_path_factory.mktemp("jobs")
        yield Place(folder, f"s3://{s3_bucket}/{secrets.token_hex(4)}", access)


@pytest.fixture(scope="module")
def short(place: Place) -> Ended:
    """A job of a few epochs."""
    return succeeded(place.run("short", parameters={"epochs": FEW}))


def trained_steps(place: Place, ended: Ended) -> list[int]:
    return sorted(step for kind, step in merged_records(place.objects(ended.prefix)) if kind == "train")


def assert_ends_as_whole(
    server: RankServer, place: Place, ended: Ended, epochs: int, world_size: int, after: int = 0
) -> None:
    """The job's state and records are those of the same training in one round, by ranks alone."""
    whole = folder_checkpoint(place.folder)
    train_whole(server, {"parameters": DIGITS | {"epochs": epochs}, "checkpoint": whole}, world_size)
    ours, theirs = newest({"uri": ended.prefix}, place.access.endpoint), newest(whole)
    assert_same_training(ours, theirs, place.objects(ended.prefix), open_objects(whole["uri"]), after)


def test_a_job_resumed_from_anothers_prefix_goes_on_with_its_state_and_leaves_it_alone(
    server: RankServer, place: Place, short: Ended
) -> None:
    before = place.everything(short.prefix)
    resumed = succeeded(place.run("resumed", parameters={"epochs": 2 * FEW}, resumeFrom=short.prefix))
    assert place.everything(short.prefix) == before
    begun = FEW * STEPS_PER_EPOCH
    assert trained_steps(place, resumed) == list(range(begun + 1, 2 * begun + 1))
    assert resumed.status.checkpoint is not None
    assert resumed.status.checkpoint.uri.startswith(resumed.prefix)
    assert_ends_as_whole(server, place, resumed, 2 * FEW, world_size=1, after=begun)


def test_a_job_resumed_from_an_older_manifest_begins_at_its_step_and_writes_below_its_own_prefix(
    server: RankServer, place: Place, short: Ended
) -> None:
    before = place.everything(short.prefix)
    oldest = place.head(short.prefix).checkpoints[-1]
    assert oldest.step < FEW * STEPS_PER_EPOCH
    resumed = succeeded(place.run("rewound", parameters={"epochs": FEW}, resumeFrom=f"{short.prefix}{oldest.manifest}"))
    assert place.everything(short.prefix) == before
    assert trained_steps(place, resumed) == list(range(oldest.step + 1, FEW * STEPS_PER_EPOCH + 1))
    assert_ends_as_whole(server, place, resumed, FEW, world_size=1, after=oldest.step)


def test_a_prefix_without_a_job_fails_the_job_at_its_start_in_a_sentence(place: Place, short: Ended) -> None:
    ended = place.run("lost", resumeFrom=f"{place.uri}/default")
    assert ended.status.phase is Phase.FAILED
    message = ended.status.message
    assert f"resumeFrom: there is no checkpoint at '{place.uri}/default'" in message
    assert f"below it there is {place.uri}/default/" in message
    assert "Traceback" not in ended.log
    assert place.objects(ended.prefix).list("manifests") == []


def test_a_job_whose_ranks_are_killed_ends_as_the_uninterrupted_one_and_keeps_what_was_asked_for(
    server: RankServer, place: Place
) -> None:
    pinned: list[str] = []

    async def trouble(session: LocalSession) -> None:
        choose, seen = random.Random(5), 0
        for _ in range(KILLS):
            seen = await next_checkpoint(place, session, seen)
            if not pinned:
                pinned.append(pin(place, session.checkpoint_prefix))
            await kill(session, choose.randrange(2))

    workers = {"count": 2, "memory": "1Gi"}
    killed = succeeded(place.run("killed", trouble, workers=workers, parameters={"epochs": MORE}, checkpoint=KEEP))
    assert killed.status.restarts == KILLS
    assert_ends_as_whole(server, place, killed, MORE, world_size=2)

    head, store = place.head(killed.prefix), place.objects(killed.prefix)
    first, second, *others = head.checkpoints
    manifests = {entry.manifest: place.manifest(killed.prefix, entry.manifest) for entry in head.checkpoints}
    assert (first.step, manifests[first.manifest].parent) == (MORE * STEPS_PER_EPOCH, second.manifest)
    best = max((entry for entry in head.checkpoints if entry.metric is not None), key=lambda e: (e.metric, e.step))
    assert best.metric == best_accuracy(store)
    assert {entry.manifest for entry in others} == {best.manifest, *pinned} - {first.manifest, second.manifest}
    assert [entry.manifest for entry in head.checkpoints if entry.pinned] == pinned
    slices = sorted(piece.key for manifest in manifests.values() for piece in manifest.slices)
    assert store.list("manifests") == sorted(manifests)
    assert store.list("attempts") == slices


def best_accuracy(store: Objects) -> float:
    records = merged_records(store)
    return max(float(json.loads(text)["accuracy"]) for (kind, _), text in records.items() if kind == "validation")


async def next_checkpoint(place: Place, session: LocalSession, seen: int) -> int:
    """Wait for a commit above this step; its step."""
    found = seen

    def committed() -> bool:
        nonlocal found
        prefix = session.checkpoint_prefix
        head = place.objects(prefix).get_with_etag(HEAD) if prefix else None
        if head is not None:
            found = max((entry.step for entry in Head.parse(head[0], HEAD).checkpoints), default=0)
        return found > seen

    await until(session, committed)
    return found


def pin(place: Place, prefix: str) -> str:
    """Pin the oldest checkpoint, as a tool does it; its manifest's key."""
    store = place.objects(prefix)
    while True:
        found = store.get_with_etag(HEAD)
        assert found is not None
        head = Head.parse(found[0], HEAD)
        *newer, oldest = head.checkpoints
        changed = replace(head, write=secrets.token_hex(8), checkpoints=(*newer, replace(oldest, pinned=True)))
        with contextlib.suppress(PreconditionFailed):  # the job has just committed
            store.put_if_match(HEAD, changed.dump(), found[1])
            return oldest.manifest


async def kill(session: LocalSession, rank: int) -> None:
    """SIGKILL to this rank, and wait for the next round."""
    assert session.job is not None
    current = session.job.status.round
    assert current is not None
    uid = next(member.uid for member in current.members if rank in member.ranks)
    await until(session, lambda: rank_pids(uid))
    os.kill(rank_pids(uid)[0], signal.SIGKILL)

    def later_round() -> bool:
        status = session.job.status if session.job else None
        assert status is not None and not (status.phase and status.phase.finished), "it was over before the last kill"
        return status.round is not None and status.round.number > current.number

    await until(session, later_round)
