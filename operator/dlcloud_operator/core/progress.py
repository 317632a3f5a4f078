"""What the agents tell of the training itself: progress, checkpoints, warnings. Copied to the status, never judged.

May import api and the core's facts, draft, conditions and model. No number that is not finite leaves here,
and none with more digits than a table has room for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from dlcloud_operator.api import Phase, Progress

from .conditions import OWN, RECOVERED, find, holds, set_condition
from .draft import Draft
from .facts import Facts
from .model import AgentWarning, Report
from .time_left import seconds_left, whole_duration

LOSS_NOT_FINITE = "LossNotFinite"
_DIGITS, _RATE_DIGITS = 6, 4
_LONGEST_LEFT_S = 1000 * 86400.0  # beyond it the rate is no rate


def note_progress(facts: Facts, draft: Draft) -> None:
    """Take over the newest that worker 0 and the ranks told; nobody's silence erases anything."""
    told = _reports_of_rank_0(facts)
    warnings = [warning for report in told for warning in report.warnings]
    progress = next((report.progress for report in told if report.progress is not None), None)
    if progress is not None:
        finite, dropped = _finite(progress)
        finite = _rounded(finite)
        if dropped:
            message = f"not finite: {', '.join(dropped)}; lower the learning rate or look at the data"
            warnings.append(AgentWarning(LOSS_NOT_FINITE, message, facts.now))
        warned = any(warning.reason == LOSS_NOT_FINITE for warning in warnings)
        if finite.loss is not None and not warned and find(draft, LOSS_NOT_FINITE) is not None:
            set_condition(draft, facts.now, LOSS_NOT_FINITE, False, "LossFinite")
        if _words(finite) != _words(draft.status.progress):
            reported_at = finite.reported_at or max(report.received_at for report in told if report.progress)
            draft.update(progress=finite.model_copy(update={"reported_at": reported_at}))
    checkpoint = next((report.checkpoint for report in told if report.checkpoint is not None), None)
    if checkpoint is not None and checkpoint != draft.status.checkpoint:
        draft.update(checkpoint=checkpoint)
    _note_warnings(facts, draft, warnings)
    draft.remember(furthest_step=max(_steps(facts, draft)))


def note_time_left(draft: Draft) -> None:
    """Say how long the training will take at its present rate, while it runs: to be called when the phase is known."""
    progress = draft.status.progress
    if progress is None:
        return
    eta = _time_left(progress) if draft.status.phase is Phase.RUNNING else None
    if eta != progress.eta:
        draft.update(progress=progress.model_copy(update={"eta": eta}))


def _time_left(progress: Progress) -> str | None:
    """In words; None while it cannot be known."""
    seconds = seconds_left(progress)
    return whole_duration(seconds) if seconds is not None and seconds <= _LONGEST_LEFT_S else None


def _reports_of_rank_0(facts: Facts) -> list[Report]:
    """The reports of worker 0's pods, newest incarnation first: a predecessor's last words stand until outdone.

    Last come pods that are gone: what a pod saves when it is asked to leave is often told just before it vanishes.
    """
    pods = sorted((pod for pod in facts.pods if pod.index == 0), key=lambda pod: -pod.incarnation)
    gone = [report for uid, report in facts.reports.by_uid.items() if uid not in facts.by_uid]
    gone.sort(key=lambda report: report.received_at, reverse=True)
    return [*(report for pod in pods if (report := facts.report(pod.uid)) is not None), *gone]


def _steps(facts: Facts, draft: Draft) -> Iterable[int]:
    status = draft.status
    yield status.recovery.furthest_step
    yield (status.progress.step or 0) if status.progress else 0
    yield status.checkpoint.step if status.checkpoint else 0
    for pod in facts.pods:
        report = facts.report(pod.uid)
        yield from ((view.step or 0 for view in report.ranks) if report else ())


def _finite(progress: Progress) -> tuple[Progress, list[str]]:
    dropped = [
        name
        for name, value in (("loss", progress.loss), ("samplesPerSecond", progress.samples_per_second))
        if value is not None and not math.isfinite(value)
    ]
    bad = [f"metric {name}" for name, value in progress.metrics.items() if not math.isfinite(value)]
    if not dropped and not bad:
        return progress, []
    changes = {
        "loss": None if "loss" in dropped else progress.loss,
        "samples_per_second": None if "samplesPerSecond" in dropped else progress.samples_per_second,
        "metrics": {name: value for name, value in progress.metrics.items() if math.isfinite(value)},
    }
    return progress.model_copy(update=changes), [*dropped, *bad]


def _rounded(progress: Progress) -> Progress:
    """For readers of `kubectl get`: all digits stand in the job's metrics."""
    changes = {
        "loss": None if progress.loss is None else _significant(progress.loss, _DIGITS),
        "samples_per_second": None
        if (rate := progress.samples_per_second) is None
        else _significant(rate, _RATE_DIGITS),
        "metrics": {name: _significant(value, _DIGITS) for name, value in progress.metrics.items()},
    }
    return progress.model_copy(update=changes)


def _significant(value: float, digits: int) -> float:
    rounded = float(f"{value:.{digits}g}")
    return rounded if math.isfinite(rounded) else value  # the greatest numbers round up to infinity


def _words(progress: Progress | None) -> Progress | None:
    """All but the times: a report that repeats the last one is no news."""
    return progress.model_copy(update={"reported_at": None, "eta": None}) if progress is not None else None


def _note_warnings(facts: Facts, draft: Draft, warnings: list[AgentWarning]) -> None:
    latest = {warning.reason: warning for warning in sorted(warnings, key=lambda one: one.at)}
    for reason, warning in sorted(latest.items()):
        if reason in OWN:  # a pod tells nobody that its job is complete
            continue
        if warning.over:
            if holds(draft, reason):
                set_condition(draft, facts.now, reason, False, RECOVERED, warning.message)
                draft.emit(RECOVERED, warning.message or f"{reason} is over")
            continue
        if set_condition(draft, facts.now, reason, True, reason, warning.message) and find(draft, reason) is not None:
            draft.emit(reason, warning.message, warning=True)
