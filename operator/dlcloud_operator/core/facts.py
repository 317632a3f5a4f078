"""What one call of `plan` may look at: job, pods, reports and the time, with the look-ups the decisions share.

May import api and the core's model. Decides nothing; no clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

from dlcloud_operator.api import TrainingJobSpec

from .model import JobView, PodPhase, PodView, Report, Reports

REPORT_EVERY = timedelta(seconds=5)  # an agent that has nothing to tell reports this often
SUSPECT_AFTER = timedelta(seconds=15)  # three reports missed
UNKNOWN_FOR = timedelta(seconds=15)  # an operator that just began to listen judges nobody by their silence
LOST_AFTER = timedelta(seconds=60)

LIVE = frozenset({PodPhase.PENDING, PodPhase.RUNNING, PodPhase.UNKNOWN})
OVER = frozenset({PodPhase.SUCCEEDED, PodPhase.FAILED})


@dataclass(frozen=True)
class Facts:
    """One observation of a job that is neither deleted nor finished."""

    job: JobView
    spec: TrainingJobSpec
    pods: tuple[PodView, ...]
    reports: Reports
    now: datetime

    @cached_property
    def by_uid(self) -> Mapping[str, PodView]:
        """The pods that exist, by uid."""
        return {pod.uid: pod for pod in self.pods}

    def report(self, uid: str) -> Report | None:
        """The last report of a pod, however old; it may outlive the pod."""
        return self.reports.by_uid.get(uid)

    def fresh_report(self, uid: str) -> Report | None:
        """A report that is recent enough to judge its ranks by."""
        report = self.report(uid)
        return report if report is not None and self.now - report.received_at < SUSPECT_AFTER else None

    @property
    def script(self) -> bool:
        """Whether the ranks run the user's own program, which tells nothing of its steps."""
        return self.spec.script is not None
