"""What the rendezvous remembers, what it takes for news, and who gets an answer when."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from dlcloud_operator.api import CheckpointStatus, EndedRound, Outcome, Phase, Progress, Recovery, TrainingJobStatus
from dlcloud_operator.core.model import JobKey, JobView, RankResult, RankState, RankView, Report
from dlcloud_operator.engine.rendezvous import Book, PodIdentity
from dlcloud_operator.engine.rendezvous.book import News
from dlcloud_operator.engine.rendezvous.messages import Heard

from .memory_cluster import KEY, T0, job_view
from .test_assignment import decided

IDENTITY = PodIdentity("default", "mnist-0-1", "u0")
OTHER = PodIdentity("default", "mnist-1-4", "u1")


class Index:
    """Which pods there are."""

    def __init__(self) -> None:
        self.uids = {"u0", "u1"}

    def owner_of(self, namespace: str, pod: str, uid: str) -> JobKey | None:
        return KEY if uid in self.uids else None


def book(index: Index | None = None, **changes: Any) -> Book:
    return Book((index or Index()).owner_of, lambda: T0, **changes)


def in_round(number: int, **changes: Any) -> JobView:
    return job_view(status=TrainingJobStatus(phase=Phase.RUNNING, round=decided(number)), **changes)


RESULT = RankResult(round=3, rank=0, outcome=Outcome.ERROR, ended_at=T0 - timedelta(seconds=1), exit_code=1)
REPORT = Report(
    pod_uid="u0", received_at=T0, round=3, address="10.0.0.7", port=29511,
    ranks=(RankView(0, RankState.RUNNING, quiet_s=0.1, step=5, longest_step_s=0.2),),
    progress=Progress(step=5, loss=0.5, reported_at=T0),
)  # fmt: skip
LATER = T0 + timedelta(seconds=5)


def heard(report: Report = REPORT, after_s: float = 0.0) -> Heard:
    return Heard(report, T0 + timedelta(seconds=after_s))


def test_the_first_report_of_a_pod_is_news() -> None:
    assert book().record(KEY, IDENTITY, heard())


def test_a_heartbeat_is_no_news() -> None:
    one = book()
    one.record(KEY, IDENTITY, heard())
    quieter = replace(
        REPORT,
        received_at=LATER,
        ranks=(RankView(0, RankState.RUNNING, quiet_s=3.0, step=6, longest_step_s=0.3),),
        progress=Progress(step=5, loss=0.5, reported_at=LATER),
    )
    assert not one.record(KEY, IDENTITY, heard(quieter, 5))
    assert one.reports_for(KEY).by_uid["u0"] == replace(quieter, heard_since=T0)


@pytest.mark.parametrize(
    "change",
    [
        {"round": 4},
        {"port": 29512},
        {"address": "10.0.0.8"},
        {"draining": True},
        {"ranks": (RankView(0, RankState.ENDED),)},
        {"results": (RESULT,)},
        {"checkpoint": CheckpointStatus(step=5, uri="s3://b/m", committed_at=T0)},  # the first one
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_change_the_plan_cares_about_is_news(change: dict[str, Any]) -> None:
    one = book()
    one.record(KEY, IDENTITY, heard())
    assert one.record(KEY, IDENTITY, heard(replace(REPORT, received_at=LATER, **change), 5)) is News.MORE


def test_how_far_the_training_is_has_no_hurry() -> None:
    one, committed = book(), CheckpointStatus(step=5, uri="s3://b/m", committed_at=T0)
    one.record(KEY, IDENTITY, heard(replace(REPORT, checkpoint=committed)))
    further = replace(REPORT, received_at=LATER, checkpoint=committed, progress=Progress(step=6, loss=0.4))
    assert one.record(KEY, IDENTITY, heard(further, 5)) is News.PROGRESS
    saved = replace(further, checkpoint=committed.model_copy(update={"step": 6}))
    assert one.record(KEY, IDENTITY, heard(saved, 6)) is News.PROGRESS


def test_any_word_after_a_silence_is_news() -> None:
    one = book()
    one.record(KEY, IDENTITY, heard())
    assert one.record(KEY, IDENTITY, heard(replace(REPORT, received_at=T0 + timedelta(seconds=20)), 20))


def test_a_silence_begins_the_time_anew_since_when_a_pod_is_heard() -> None:
    one, seconds = book(), (0, 14, 28, 43, 50)
    for at in seconds:
        one.record(KEY, IDENTITY, heard(replace(REPORT, received_at=T0 + timedelta(seconds=at)), at))
        since = 43 if at >= 43 else 0
        assert one.reports_for(KEY).by_uid["u0"].heard_since == T0 + timedelta(seconds=since)


def test_a_result_keeps_the_time_it_was_first_heard_with() -> None:
    one = book()
    one.record(KEY, IDENTITY, heard(replace(REPORT, results=(RESULT,))))
    again = replace(RESULT, ended_at=RESULT.ended_at + timedelta(milliseconds=7))  # another way through the network
    assert not one.record(KEY, IDENTITY, heard(replace(REPORT, results=(again,)), 5))
    assert one.reports_for(KEY).by_uid["u0"].results == (RESULT,)


def test_a_report_that_was_overtaken_changes_nothing() -> None:
    one = book()
    ended = replace(REPORT, ranks=(RankView(0, RankState.ENDED),))
    one.record(KEY, IDENTITY, heard(ended, 2))
    assert not one.record(KEY, IDENTITY, heard(REPORT, 1))
    assert one.reports_for(KEY).by_uid["u0"] == replace(ended, heard_since=ended.received_at)


def test_an_agent_whose_clock_was_set_back_is_still_heard() -> None:
    one = book()
    one.record(KEY, IDENTITY, heard())
    moved = replace(REPORT, port=1, received_at=LATER)
    assert one.record(KEY, IDENTITY, heard(moved, -3600))


def test_an_agent_never_goes_back_to_a_lower_round() -> None:
    one = book()
    one.record(KEY, IDENTITY, heard())
    assert not one.record(KEY, IDENTITY, heard(replace(REPORT, round=2), 5))
    assert one.reports_for(KEY).by_uid["u0"].round == 3


@pytest.mark.parametrize(("age_s", "kept"), [(61, {"u0"}), (59, {"u0", "old"})])
def test_reports_of_pods_that_are_gone_are_dropped_after_a_minute(age_s: int, kept: set[str]) -> None:
    index = Index()
    one = book(index)
    last = replace(REPORT, pod_uid="old", received_at=T0 - timedelta(seconds=age_s))
    one.record(KEY, PodIdentity("default", "mnist-0-0", "old"), heard(last))
    one.record(KEY, IDENTITY, heard())
    one.publish(in_round(3))
    assert set(one.reports_for(KEY).by_uid) == kept


def test_the_last_words_of_a_member_outlive_its_pod() -> None:
    index = Index()
    one = book(index)
    one.record(KEY, IDENTITY, heard())
    index.uids.discard("u0")
    ended = EndedRound(round=decided(3), ended_at=T0)
    status = TrainingJobStatus(phase=Phase.RESTARTING, recovery=Recovery(unsettled=[ended]))
    one.publish(job_view(status=status))
    assert set(one.reports_for(KEY).by_uid) == {"u0"}


def test_a_forgotten_job_has_no_reports() -> None:
    one = book()
    one.record(KEY, IDENTITY, heard())
    one.forget(KEY)
    assert one.reports_for(KEY).by_uid == {}


def test_life_of_any_pod_is_told_with_every_jobs_reports() -> None:
    one = book()
    assert one.reports_for(KEY).last_heard_any is None
    one.note_life()
    assert one.reports_for(JobKey("other", "job")).last_heard_any == T0


async def ask(one: Book, uid: str = "u0", after: int = 0, wait_s: float = 0.0) -> int | str | None:
    told = await one.instruction(KEY, uid, after, wait_s)
    return None if told is None else told.get("round", told.get("phase"))


async def waiting(one: Book, uid: str = "u0", after: int = 0) -> asyncio.Task[int | str | None]:
    task = asyncio.create_task(ask(one, uid, after, wait_s=5))
    await asyncio.sleep(0)
    return task


def test_a_published_round_is_told_at_once() -> None:
    one = book()
    one.publish(in_round(3))
    assert asyncio.run(ask(one)) == 3


def test_a_round_already_seen_is_not_told_again() -> None:
    one = book()
    one.publish(in_round(3))
    assert asyncio.run(ask(one, after=3)) is None


def test_who_waits_is_told_when_the_round_is_published() -> None:
    async def scenario() -> None:
        one = book()
        polls = [await waiting(one, "u0"), await waiting(one, "u1")]
        one.publish(in_round(1))
        assert await asyncio.gather(*polls) == [1, 1]

    asyncio.run(scenario())


def test_an_older_reading_never_takes_a_round_back() -> None:
    one = book()
    one.publish(in_round(4))
    one.publish(in_round(3))
    one.publish(job_view())
    assert asyncio.run(ask(one)) == 4


def test_after_the_end_no_older_reading_starts_the_job_again() -> None:
    one = book()
    one.publish(job_view(status=TrainingJobStatus(phase=Phase.SUCCEEDED, round=decided(3))))
    one.publish(in_round(3))
    assert asyncio.run(ask(one, after=3)) == "Succeeded"


def test_a_job_made_again_under_the_same_name_starts_from_its_own_round() -> None:
    one = book()
    one.publish(in_round(7))
    one.publish(in_round(1, uid="second", created_at=T0 + timedelta(hours=1)))
    one.publish(in_round(8))  # a late reading of the first
    assert asyncio.run(ask(one)) == 1


def test_of_three_polls_of_a_pod_the_oldest_is_answered_with_nothing() -> None:
    async def scenario() -> None:
        one = book()
        first, second, third = [await waiting(one) for _ in range(3)]
        assert await asyncio.wait_for(first, 1) is None
        assert not second.done()
        one.publish(in_round(1))
        assert [await second, await third] == [1, 1]

    asyncio.run(scenario())


def test_forgetting_a_job_answers_who_waits() -> None:
    async def scenario() -> None:
        one = book()
        poll = await waiting(one)
        one.forget(KEY)
        assert await asyncio.wait_for(poll, 1) is None

    asyncio.run(scenario())


def test_closing_answers_who_waits_and_who_comes_later() -> None:
    async def scenario() -> None:
        one = book()
        poll = await waiting(one)
        one.close()
        assert await asyncio.wait_for(poll, 1) is None
        assert await asyncio.wait_for(ask(one, wait_s=25), 1) is None

    asyncio.run(scenario())


def test_a_poll_leaves_no_trace() -> None:
    async def scenario() -> None:
        one = book()
        await ask(one, wait_s=0.01)
        assert one._jobs == {}

    asyncio.run(scenario())
