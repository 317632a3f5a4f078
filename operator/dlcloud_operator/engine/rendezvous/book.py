"""What the rendezvous server remembers: a job's instructions, its agents' last reports, who waits for news.

May import the engine's assignment, api and core. No HTTP here and no decision: published jobs alone decide.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Any

from dlcloud_operator.core.model import JobKey, JobView, RankResult, Report, Reports
from dlcloud_operator.engine.assignment import Instructions, is_news

from .auth import PodIdentity
from .messages import Heard

# After so long a silence any report is news: the pod was suspect and speaks again.
_SILENCE = timedelta(seconds=15)
# An older report of the same agent is one that was overtaken on its way; a larger step back is a clock that was set.
_OVERTAKEN = timedelta(seconds=60)
# A pod that was asked to leave may tell what it saved just before it vanishes: the next plans must still see it.
_LAST_WORDS = timedelta(seconds=60)


@dataclass(frozen=True, eq=False)
class _Poll:
    after: int
    answer: asyncio.Future[dict[str, Any] | None]

    def give(self, instruction: dict[str, Any] | None) -> None:
        if not self.answer.done():
            self.answer.set_result(instruction)


@dataclass
class _Job:
    job: JobView | None = None
    instructions: Instructions | None = None
    heard: dict[str, tuple[PodIdentity, Heard]] = field(default_factory=dict)  # by pod uid
    polls: dict[str, list[_Poll]] = field(default_factory=dict)  # by pod uid, oldest first


class News(IntEnum):
    """What a report tells."""

    NOTHING = 0  # that its agent lives
    PROGRESS = 1  # how far the training is: the status is in no hurry to say so
    MORE = 2


class Book:
    """State of the rendezvous; every method is called on the event loop."""

    def __init__(
        self,
        owner_of: Callable[[str, str, str], JobKey | None],
        now: Callable[[], datetime],
        polls_per_pod: int = 2,
    ) -> None:
        self._owner_of = owner_of
        self._now = now
        self._polls_per_pod = polls_per_pod
        self._jobs: dict[JobKey, _Job] = {}
        self._listening_since = now()
        self._last_heard_any: datetime | None = None
        self._closed = False

    def open(self) -> None:
        """From now on a silent pod could have spoken."""
        self._listening_since = self._now()

    def publish(self, job: JobView) -> None:
        """Hand out what this job, as read back from the cluster, decides. An older reading changes nothing."""
        entry = self._jobs.setdefault(job.key, _Job())
        if _is_newer(job, entry.job):
            entry.job, entry.instructions = job, Instructions(job)
            for uid, polls in entry.polls.items():
                instruction = entry.instructions.of(uid)
                for poll in polls:
                    if is_news(instruction, poll.after):
                        poll.give(instruction)
        self._drop_reports_of_gone_pods(entry, job)

    def forget(self, key: JobKey) -> None:
        """Drop all of a job that is gone; its waiting agents are told nothing."""
        entry = self._jobs.pop(key, None)
        for polls in entry.polls.values() if entry else ():
            for poll in polls:
                poll.give(None)

    def reports_for(self, key: JobKey) -> Reports:
        """The last report of every pod of the job."""
        entry = self._jobs.get(key)
        by_uid = {} if entry is None else {uid: heard.report for uid, (_, heard) in entry.heard.items()}
        return Reports(listening_since=self._listening_since, by_uid=by_uid, last_heard_any=self._last_heard_any)

    def num_fresh(self) -> int:
        """Pods that reported so recently that nobody would suspect them."""
        since = self._now() - _SILENCE
        return sum(heard.report.received_at > since for job in self._jobs.values() for _, heard in job.heard.values())

    def note_life(self) -> None:
        """Some agent reached this server."""
        self._last_heard_any = self._now()

    def record(self, key: JobKey, identity: PodIdentity, heard: Heard) -> News:
        """Keep an agent's report; the answer is what it tells beside that the agent is alive."""
        entry = self._jobs.setdefault(key, _Job())
        _, before = entry.heard.get(identity.uid, (identity, None))
        if before is not None:
            if _overtaken(heard, before):
                return News.NOTHING
            heard = replace(heard, report=_with_first_times(heard.report, before.report))
        heard = replace(heard, report=_with_heard_since(heard.report, before.report if before is not None else None))
        entry.heard[identity.uid] = (identity, heard)
        return News.MORE if before is None else _news(heard.report, before.report)

    async def instruction(self, key: JobKey, pod_uid: str, after: int, wait_s: float) -> dict[str, Any] | None:
        """The pod's instruction, as soon as it is news to who has seen rounds up to `after`; None after `wait_s`."""
        entry = self._jobs.setdefault(key, _Job())
        instruction = None if entry.instructions is None else entry.instructions.of(pod_uid)
        if is_news(instruction, after):
            return instruction
        poll = _Poll(after, asyncio.get_running_loop().create_future())
        polls = entry.polls.setdefault(pod_uid, [])
        polls.append(poll)
        for older in polls[: -self._polls_per_pod]:
            older.give(None)
        if self._closed:
            poll.give(None)
        try:
            async with asyncio.timeout(wait_s):
                return await poll.answer
        except TimeoutError:
            return None
        finally:
            polls.remove(poll)
            if not polls and entry.polls.get(pod_uid) is polls:
                del entry.polls[pod_uid]
            if entry == _Job() and self._jobs.get(key) is entry:
                del self._jobs[key]

    def close(self) -> None:
        """Answer everybody who waits, now and from now on."""
        self._closed = True
        self.wake()

    def wake(self) -> None:
        """Answer everybody who waits now, without news."""
        for entry in self._jobs.values():
            for polls in entry.polls.values():
                for poll in polls:
                    poll.give(None)

    def _drop_reports_of_gone_pods(self, entry: _Job, job: JobView) -> None:
        rounds = [job.status.round] if job.status.round else []
        rounds += [ended.round for ended in job.status.recovery.unsettled]
        members = {member.uid for one in rounds for member in one.members}  # their last words still decide a verdict
        for uid, (identity, heard) in list(entry.heard.items()):
            old = self._now() - heard.report.received_at > _LAST_WORDS
            if old and uid not in members and self._owner_of(identity.namespace, identity.pod, uid) != job.key:
                del entry.heard[uid]


def _is_newer(job: JobView, held: JobView | None) -> bool:
    """Whether `job` says something that `held` does not: readings from a cache can be older than what was written."""
    if held is None:
        return True
    if job.uid != held.uid:
        return job.created_at >= held.created_at
    if _finished(held) or (job.spec is None and not _finished(job)):
        return False
    return _finished(job) or _round(job) > _round(held)


def _finished(job: JobView) -> bool:
    return job.status.phase is not None and job.status.phase.finished


def _round(job: JobView) -> int:
    return job.status.round.number if job.status.round else 0


def _overtaken(heard: Heard, before: Heard) -> bool:
    back = before.sent_at - heard.sent_at
    return heard.report.round < before.report.round or timedelta() < back < _OVERTAKEN


def _with_first_times(report: Report, before: Report) -> Report:
    """The report with its results' times as first heard: the shift to our clock varies with the network."""
    known = {_result_words(result): result for result in before.results}
    return replace(report, results=tuple(known.get(_result_words(result), result) for result in report.results))


def _with_heard_since(report: Report, before: Report | None) -> Report:
    if before is None or report.received_at - before.received_at >= _SILENCE:
        return replace(report, heard_since=report.received_at)
    return replace(report, heard_since=before.heard_since)


def _result_words(result: RankResult) -> Hashable:
    return (result.round, result.rank, result.outcome, result.exit_code, result.message)


def _news(report: Report, before: Report) -> News:
    if report.received_at - before.received_at >= _SILENCE or _words(report) != _words(before):
        return News.MORE
    return News.PROGRESS if _achieved(report) != _achieved(before) else News.NOTHING


def _achieved(report: Report) -> Mapping[str, Any]:
    return {
        "progress": report.progress and report.progress.model_copy(update={"reported_at": None}),
        "checkpoint": report.checkpoint,
    }


def _words(report: Report) -> Mapping[str, Any]:
    """All of a report that something may have to be done about."""
    return {
        "round": report.round,
        "address": report.address,
        "port": report.port,
        "draining": report.draining,
        "ranks": [(rank.rank, rank.state) for rank in report.ranks],
        "results": report.results,
        "told": (report.progress is not None, report.checkpoint is not None),
        "warnings": [(warning.reason, warning.message, warning.over) for warning in report.warnings],
    }
