"""What is known about a round: who of its members has spoken, what ended it, and when its cause can be settled.

May import api and the core's facts, model and causes. It finds facts; what they cost is decided in `budget`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from dlcloud_operator.api import EndedRound, Failure, Member, Outcome, RoundStatus

from . import causes
from .facts import LOST_AFTER, OVER, REPORT_EVERY, Facts
from .model import PodPhase, PodView, RankResult

SETTLE_AFTER = timedelta(seconds=10)
SETTLE_POLL = timedelta(seconds=2)  # heartbeats that bring no news are no events


@dataclass(frozen=True)
class Testimony:
    """One member's part in a round. `spoken`: nothing more is to be expected from it."""

    causes: tuple[Failure, ...]
    spoken: bool


def testify(facts: Facts, of: RoundStatus, member: Member, lost: Mapping[str, str]) -> Testimony:
    """What reports, the pod's end and its absence say of a member. `lost`: uids given up for their silence, and why."""
    if member_is_done(facts, of, member):
        return Testimony((), True)
    results = _results(facts, of, member)
    complete = all(rank in results for rank in member.ranks)
    departure = _departure(facts, of, member, results, lost)
    found = [
        _cause(of, member, result, departure) for result in results.values() if result.outcome is not Outcome.SUCCEEDED
    ]
    if departure is not None:
        found.append(departure)
    pod = facts.by_uid.get(member.uid)
    gone = pod is None or pod.phase in OVER
    return Testimony(tuple(found), complete or gone or departure is not None)


def gather(facts: Facts, ended: EndedRound, lost: Mapping[str, str]) -> EndedRound:
    """The ended round with all that is known of it by now; what was known before is never forgotten."""
    members = [member for member in ended.round.members if member.index not in ended.over]
    found = [cause for member in members for cause in testify(facts, ended.round, member, lost).causes]
    over = [member.index for member in members if _ended_by_itself(facts.by_uid.get(member.uid))]
    changes = {"cause": causes.gravest([ended.cause, *found]), "over": sorted([*ended.over, *over])}
    return ended.model_copy(update=changes)


def cause_of(facts: Facts, of: RoundStatus, lost: Mapping[str, str]) -> Failure | None:
    """The gravest thing that happened in a round so far; None when nothing did."""
    return causes.gravest(cause for member in of.members for cause in testify(facts, of, member, lost).causes)


def all_done(facts: Facts, of: RoundStatus) -> bool:
    """Whether every rank of the round ended well: then the training is complete, whatever happened to the pods."""
    return all(member_is_done(facts, of, member) for member in of.members)


def member_is_done(facts: Facts, of: RoundStatus, member: Member) -> bool:
    """Whether all ranks of a member succeeded; a pod that succeeded without a word about ranks speaks for them all."""
    results = _results(facts, of, member)
    good = [result.outcome is Outcome.SUCCEEDED for result in results.values()]
    if len(good) == len(member.ranks) and all(good):
        return True
    pod = facts.by_uid.get(member.uid)
    silent_success = pod is not None and pod.phase is PodPhase.SUCCEEDED and not (pod.exit and pod.exit.results)
    return silent_success and all(good)


def is_settled(facts: Facts, ended: EndedRound, lost: Mapping[str, str]) -> bool:
    """Whether the cause can be named: all have spoken, or there was time enough for those who have not."""
    if ended.cause is not None and ended.cause.reason is Outcome.INVALID_INPUT:
        return True
    members = [member for member in ended.round.members if member.index not in ended.over]
    waiting_for = [member for member in members if not testify(facts, ended.round, member, lost).spoken]
    if not waiting_for:
        return True
    # A dead pod's last report may arrive just after the end; only a heartbeat later is a sign of life.
    base = _settling_since(facts, ended)
    age = facts.now - base
    if age < SETTLE_AFTER or age >= SETTLE_AFTER + LOST_AFTER:
        return age >= SETTLE_AFTER
    reports = [facts.report(member.uid) for member in waiting_for]
    return all(report is not None and report.received_at > base + REPORT_EVERY for report in reports)


def settle_again_at(facts: Facts, ended: EndedRound) -> datetime:
    """When a round that is not settled may be."""
    first = _settling_since(facts, ended) + SETTLE_AFTER
    return first if facts.now < first else min(first + LOST_AFTER, facts.now + SETTLE_POLL)


def words_of_memory(pod: PodView) -> str:
    """What is said of a pod that its memory limit ended, and what to do about it."""
    return _pod_words(pod, "ran out of memory (raise workers.memory or use smaller batches)")


def _ended_by_itself(pod: PodView | None) -> bool:
    return pod is not None and pod.phase in OVER and not pod.deleting


def _settling_since(facts: Facts, ended: EndedRound) -> datetime:
    """An operator that restarted has to listen anew before a silence means anything."""
    return max(ended.ended_at, facts.reports.listening_since)


def _results(facts: Facts, of: RoundStatus, member: Member) -> dict[int, RankResult]:
    report = facts.report(member.uid)
    pod = facts.by_uid.get(member.uid)
    told = [*(report.results if report else ()), *(pod.exit.results if pod and pod.exit else ())]
    return {result.rank: result for result in told if result.round == of.number and result.rank in member.ranks}


def _departure(
    facts: Facts, of: RoundStatus, member: Member, results: Mapping[int, RankResult], lost: Mapping[str, str]
) -> Failure | None:
    """How the member's pod left the round, if it did."""
    pod = facts.by_uid.get(member.uid)
    at = pod.exit.at if pod is not None and pod.exit is not None else facts.now

    def left(reason: Outcome, message: str, exit_code: int | None = None) -> Failure:
        return causes.make(reason, at, of.number, message, member.index, None, exit_code)

    if member.uid in lost:
        return left(Outcome.POD_LOST, lost[member.uid])
    if pod is None:
        # Its agent said all before the pod went: then the going was not the cause.
        return None if len(results) == len(member.ranks) else left(Outcome.POD_LOST, f"pod {member.pod} is gone")
    ended = pod.exit if pod.phase in OVER else None
    if pod.preempted or (ended and ended.reason == "Evicted"):
        return left(Outcome.PREEMPTED, _pod_words(pod, "was evicted"))
    if ended and ended.reason == "OOMKilled":
        return left(Outcome.OUT_OF_MEMORY, words_of_memory(pod), ended.exit_code)
    if pod.deleting and pod.node_lost:
        return left(Outcome.POD_LOST, f"pod {pod.name} was deleted because its node is lost: {pod.node or 'unknown'}")
    if pod.deleting:
        return left(Outcome.POD_LOST, f"pod {pod.name} was deleted")
    if pod.phase in OVER:
        if any(result.outcome is not Outcome.SUCCEEDED for result in results.values()):
            return None
        reason = f" ({ended.reason})" if ended and ended.reason else ""
        code = ended.exit_code if ended else None
        return left(Outcome.POD_LOST, _pod_words(pod, f"ended without a word about its ranks{reason}"), code)
    report = facts.report(member.uid)
    if report is not None and report.draining:
        return left(Outcome.DRAINED, f"pod {pod.name} was asked to end")
    return None


def _cause(of: RoundStatus, member: Member, result: RankResult, departure: Failure | None) -> Failure:
    """A rank's end; one that drained did so because its pod was taken away, which says more than its exit code."""
    if result.outcome is Outcome.DRAINED and departure is not None and departure.reason in causes.LOSS:
        return causes.make(departure.reason, result.ended_at, of.number, departure.message, member.index)
    return causes.make(
        result.outcome, result.ended_at, of.number, result.message, member.index, result.rank, result.exit_code
    )


def _pod_words(pod: PodView, what: str) -> str:
    said = pod.exit.message.strip().splitlines() if pod.exit else []
    return f"pod {pod.name} {what}" + (f": {said[-1][:200]}" if said else "")
