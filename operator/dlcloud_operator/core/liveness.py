"""Silences and limits: which pod is to be given up because its agent says nothing, which rank because it gets nowhere.

May import api and the core's facts, model and causes. Every rule has the next time at which it could decide otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum, auto

from dlcloud_operator.api import Failure, Member, Outcome, RoundStatus, parse_duration

from . import causes
from .facts import LOST_AFTER, SUSPECT_AFTER, UNKNOWN_FOR, Facts
from .model import PodPhase, PodView, RankState, RankView, Report

LEAST_STEP_LIMIT = timedelta(seconds=30)
STEPS_IN_LIMIT = 20
POLL = timedelta(seconds=15)  # what other jobs' pods say reaches this job by no event


class Hearing(Enum):
    """What an agent's silence means."""

    HEARD = auto()
    NEVER = auto()  # it has not spoken yet, and still has time
    NEVER_CAME = auto()  # `limits.start` ran out
    UNKNOWN = auto()  # nothing can be concluded: the operator is new, or hears nobody
    SUSPECT = auto()
    LOST = auto()


@dataclass(frozen=True)
class Heard:
    """A judgement on a running pod, and when to judge again."""

    hearing: Hearing
    again_at: datetime | None = None
    why: str = ""


def listen(facts: Facts, pod: PodView, known: bool, suspect_since: datetime | None) -> Heard:
    """Judge a running pod by when its agent spoke. `known`: it was a member of a round, so it must have spoken."""
    report = facts.report(pod.uid)
    if report is None and not known:
        return _never_heard(facts, pod)
    silent_since = report.received_at if report is not None else facts.reports.listening_since
    silent_since = max(silent_since, facts.reports.listening_since)
    if facts.now < silent_since + SUSPECT_AFTER:
        hearing = Hearing.HEARD if facts.fresh_report(pod.uid) is not None else Hearing.UNKNOWN
        return Heard(hearing, silent_since + SUSPECT_AFTER)
    if node_is_lost(pod):
        return Heard(Hearing.LOST, why=_node_words(pod))
    if not others_speak(facts):
        return Heard(Hearing.UNKNOWN, facts.now + POLL)
    # Counted from the first time it was silent while others spoke: after a time without any report (the operator's own
    # trouble) the first pod that is heard again must not condemn the others.
    lost_at = (suspect_since or facts.now) + (LOST_AFTER - SUSPECT_AFTER)
    if facts.now >= lost_at:
        return Heard(Hearing.LOST, why=f"its agent was silent for {words_of(LOST_AFTER)} while others reported")
    return Heard(Hearing.SUSPECT, lost_at)


def others_speak(facts: Facts) -> bool:
    """Whether the operator hears anybody: else a silence is its own trouble."""
    last = facts.reports.last_heard_any
    return last is not None and facts.now - last < SUSPECT_AFTER


def deaf_since(facts: Facts) -> datetime | None:
    """Since when the operator has heard nobody, when that is long enough to say so."""
    if others_speak(facts) or facts.now < facts.reports.listening_since + UNKNOWN_FOR:
        return None
    return max(facts.reports.last_heard_any or facts.reports.listening_since, facts.reports.listening_since)


def node_is_lost(pod: PodView) -> bool:
    """Whether the API server's word is that nobody has heard of this pod's node."""
    return pod.node_lost or pod.phase is PodPhase.UNKNOWN


def stall(facts: Facts, current: RoundStatus) -> tuple[Failure | None, datetime | None]:
    """The rank that overran `limits.init` or `limits.step`, and else when the next one could.

    Only fresh reports are judged: what an agent said a minute ago tells nothing about its ranks now.
    """
    init_at = current.started_at + parse_duration(facts.spec.limits.init)
    if facts.now < init_at:
        late, again_at = [], [init_at]
    else:
        late, again_at = list(_not_started(facts, current)), []
    if late:
        text = ", ".join(f"worker {member.index}: {why}" for member, why in late[:3])
        more = f" and {len(late) - 3} more" if len(late) > 3 else ""
        message = f"not training {facts.spec.limits.init} after the round began (limits.init): {text}{more}"
        member = late[0][0]
        return causes.make(Outcome.STALLED, facts.now, current.number, message, member.index), None
    members = _reports_of(facts, current)
    if members is None:
        return None, min(again_at, default=None)  # they wait for a rank that is silent; `listen` says when it is lost
    limit = step_limit(facts, current)
    slowest: tuple[float, Member, RankView] | None = None
    for member, report, view in _views(facts, current):
        if view.state is not RankState.RUNNING or view.quiet_s is None:
            continue
        allowed = _allowed(facts, view, limit)
        quiet_s = _quiet_s(view.quiet_s, report, members)
        if quiet_s > allowed.total_seconds():
            slowest = max(slowest or (0.0, member, view), (quiet_s, member, view), key=lambda one: one[0])
        else:
            due = report.received_at + allowed - timedelta(seconds=quiet_s)
            again_at.append(max(due, facts.now + timedelta(seconds=1)))
    if slowest is None:
        return None, min(again_at, default=None)
    quiet_s, member, view = slowest
    message = f"no step for {quiet_s:.0f} s; limits.step allows {words_of(_allowed(facts, view, limit))}"
    return causes.make(Outcome.STALLED, facts.now, current.number, message, member.index, view.rank), None


def step_limit(facts: Facts, current: RoundStatus) -> timedelta:
    """`limits.step`, or what the steps of this round teach: 20 times the longest, at least 30 s."""
    if facts.spec.limits.step != "auto":
        return parse_duration(facts.spec.limits.step)
    longest_s = max((view.longest_step_s or 0.0 for _, _, view in _views(facts, current)), default=0.0)
    return max(LEAST_STEP_LIMIT, STEPS_IN_LIMIT * timedelta(seconds=longest_s))


def words_of(duration: timedelta) -> str:
    """`90 s`, or `10 min` when it is whole minutes of at least two."""
    seconds = duration.total_seconds()
    return f"{seconds / 60:.0f} min" if seconds >= 120 and seconds % 60 == 0 else f"{seconds:g} s"


def _never_heard(facts: Facts, pod: PodView) -> Heard:
    since = max(pod.running_since or pod.created_at, facts.reports.listening_since)
    due = since + parse_duration(facts.spec.limits.start)
    if node_is_lost(pod) and facts.now >= since + SUSPECT_AFTER:
        return Heard(Hearing.LOST, why=_node_words(pod))
    if facts.now >= due:
        return Heard(
            Hearing.NEVER_CAME, why=f"its agent did not report within {facts.spec.limits.start} (limits.start)"
        )
    return Heard(Hearing.NEVER, due)


def _node_words(pod: PodView) -> str:
    return f"its node {pod.node} is lost" if pod.node else "its node is lost"


def _not_started(facts: Facts, current: RoundStatus) -> Iterator[tuple[Member, str]]:
    """Members whose agent did not take up the round, or (not for scripts) whose ranks made no first step."""
    for member in current.members:
        report = facts.fresh_report(member.uid)
        if report is None or report.round > current.number:
            continue
        if report.round < current.number:
            yield member, "its agent did not begin the round"
            continue
        state = {view.rank: view.state for view in report.ranks}
        ended = {result.rank for result in report.results if result.round == current.number}
        late = [r for r in member.ranks if r not in ended and state.get(r, RankState.STARTING) is RankState.STARTING]
        if late and not facts.script:
            yield member, f"no first step of rank {', '.join(map(str, late))}"


def _views(facts: Facts, current: RoundStatus) -> Iterator[tuple[Member, Report, RankView]]:
    for member in current.members:
        report = facts.fresh_report(member.uid)
        if report is not None and report.round == current.number:
            yield from ((member, report, view) for view in report.ranks if view.rank in member.ranks)


def _reports_of(facts: Facts, current: RoundStatus) -> list[Report] | None:
    """What the members said last; None while one is silent."""
    reports = [facts.fresh_report(member.uid) for member in current.members]
    heard = [report for report in reports if report is not None]
    return heard if len(heard) == len(reports) else None


def _quiet_s(view_s: float, report: Report, members: list[Report]) -> float:
    """How long a rank has been quiet, counted from when all members were heard again.

    A step ends when all ranks took part in it: that a node was silent for a while is no fault of the program's.
    """
    since = max((one.heard_since for one in members if one.heard_since is not None), default=None)
    return view_s if since is None else min(view_s, max(0.0, (report.received_at - since).total_seconds()))


def _allowed(facts: Facts, view: RankView, limit: timedelta) -> timedelta:
    """After the last step the ranks wait for the last upload, which has a limit of its own."""
    progress = facts.job.status.progress
    total = progress.total_steps if progress is not None else None
    if total is not None and view.step is not None and view.step >= total:
        return max(limit, parse_duration(facts.spec.limits.checkpoint))
    return limit
