"""The values that cross the core's border: what it is told (views, reports) and what it answers (actions).

May import api only. No clock, no I/O. Times are aware datetimes, durations timedelta.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from dlcloud_operator.api import (
    CheckpointStatus,
    ObjectStoreStatus,
    Outcome,
    Problem,
    Progress,
    TrainingJobSpec,
    TrainingJobStatus,
)


@dataclass(frozen=True, order=True)
class JobKey:
    """A job's address."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class JobView:
    """A TrainingJob as read from the API server. `spec` is None when it does not parse; `problems` says why."""

    key: JobKey
    uid: str
    resource_version: str
    generation: int
    created_at: datetime
    status: TrainingJobStatus
    spec: TrainingJobSpec | None
    problems: tuple[Problem, ...] = ()
    deleting: bool = False
    given_store: ObjectStoreStatus | None = None  # the operator's own, filled into `spec`; the status has to keep it


class PodPhase(StrEnum):
    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    UNKNOWN = "Unknown"


@dataclass(frozen=True)
class RankResult:
    """How one rank of one round ended, as its agent saw it. `ended_at` is on the operator's clock."""

    round: int
    rank: int
    outcome: Outcome
    ended_at: datetime
    exit_code: int | None = None
    message: str = ""


@dataclass(frozen=True)
class PodExit:
    """How a pod's container ended. `results` come from its termination message, when it could write one."""

    at: datetime
    exit_code: int | None = None
    reason: str = ""  # the kubelet's word: OOMKilled, Error, Evicted ...
    message: str = ""
    results: tuple[RankResult, ...] = ()


@dataclass(frozen=True)
class PodView:
    """A pod of the job (owned by its uid; foreign pods are not listed here)."""

    name: str
    uid: str
    index: int
    incarnation: int
    phase: PodPhase
    created_at: datetime
    deleting: bool = False
    ip: str = ""
    node: str = ""
    node_lost: bool = False  # the node is NotReady or its object is gone
    preempted: bool = False  # DisruptionTarget condition, or evicted
    waiting: str = ""  # the scheduler's or kubelet's own words while Pending
    exit: PodExit | None = None
    running_since: datetime | None = None  # when its container started (None: `limits.start` counts from `created_at`)
    waiting_reason: str = ""  # CamelCase, of `waiting`: Unschedulable, ImagePull ...; empty while all takes its course
    lingers: bool = False  # its trainer has ended, but another container of the pod still runs


class RankState(StrEnum):
    """`starting` until its first step (a script: until its first sign of life), then `running`."""

    STARTING = "starting"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True)
class RankView:
    """A rank of the agent's current round. `quiet_s`: seconds since it last made a step (None: it never tells)."""

    rank: int
    state: RankState
    quiet_s: float | None = None
    step: int | None = None
    longest_step_s: float | None = None


@dataclass(frozen=True)
class AgentWarning:
    """Something the user should know and the job survives. `reason` is CamelCase; `at` is on the operator's clock.

    `over`: it holds no more, and `message` says so.
    """

    reason: str
    message: str
    at: datetime
    over: bool = False


@dataclass(frozen=True)
class Report:
    """The last thing an agent said, and when the operator heard it."""

    pod_uid: str
    received_at: datetime
    round: int  # highest round the agent has seen, 0 before the first
    address: str
    port: int  # probed for the next round, in case this pod becomes master
    ranks: tuple[RankView, ...] = ()
    results: tuple[RankResult, ...] = ()  # of the current and the last few rounds
    progress: Progress | None = None
    checkpoint: CheckpointStatus | None = None
    draining: bool = False
    warnings: tuple[AgentWarning, ...] = ()
    heard_since: datetime | None = None  # without a silence in between; None: always


@dataclass(frozen=True)
class Reports:
    """All an operator heard. A missing report means nothing until `listening_since` is 15 s ago."""

    listening_since: datetime
    by_uid: Mapping[str, Report] = field(default_factory=dict)
    last_heard_any: datetime | None = None  # from any pod of any job: tells a silent pod from a deaf operator


# --- actions, carried out in the order given; a conflict in WriteStatus drops the rest ---


@dataclass(frozen=True)
class WriteStatus:
    """Replace the status; fenced by the job's resource version. Always before what depends on it.

    `urgent` is False when only progress changed: the engine may hold such a write back for some seconds; or (`said`)
    only the words about what is waited for: those may wait a second, because each pod's come alone.
    """

    status: TrainingJobStatus
    urgent: bool = True
    said: bool = False


@dataclass(frozen=True)
class CreatePod:
    """Create `{job}-{index}-{incarnation}`; the status that names the incarnation is already written."""

    index: int
    incarnation: int


@dataclass(frozen=True)
class DeletePod:
    """Delete by name with the uid as precondition. `grace_s` None: as the pod says; 0: now."""

    name: str
    uid: str
    grace_s: int | None = None


@dataclass(frozen=True)
class DeleteJob:
    """Its time to live is over."""

    uid: str


@dataclass(frozen=True)
class Emit:
    """A Kubernetes Event on the job."""

    reason: str
    message: str
    warning: bool = False


@dataclass(frozen=True)
class Wake:
    """Plan again at this time even if nothing happens: some wait ends then."""

    at: datetime


Action = WriteStatus | CreatePod | DeletePod | DeleteJob | Emit | Wake
