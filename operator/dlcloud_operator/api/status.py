"""The status of a TrainingJob: what the operator knows, and all it needs to go on after its own restart.

May import pydantic and this package only. Every number here is finite: a NaN makes the API server refuse the patch.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import Field

from .base import StatusModel


class Phase(StrEnum):
    """Where a job stands, in one word."""

    QUEUED = "Queued"
    PENDING = "Pending"
    RUNNING = "Running"
    RESTARTING = "Restarting"
    SUSPENDED = "Suspended"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"

    @property
    def finished(self) -> bool:
        """No phase follows this one."""
        return self in (Phase.SUCCEEDED, Phase.FAILED)


class Outcome(StrEnum):
    """How one rank, one pod or one round ended. Also the reason shown in `failures` and conditions."""

    SUCCEEDED = "Succeeded"
    STOPPED = "Stopped"  # killed by its own agent because a newer round began: never a cause
    DRAINED = "Drained"  # saved and left after SIGTERM
    POD_LOST = "PodLost"  # pod deleted, failed without a word, or its node is gone
    PREEMPTED = "Preempted"  # evicted for another pod or by a drain
    OUT_OF_MEMORY = "OutOfMemory"
    SIGNAL = "Signal"  # ended by a signal nobody here sent
    ERROR = "Error"  # exit code other than 0: the user's program, or ours
    INVALID_INPUT = "InvalidInput"  # data or settings no restart can mend: the job fails at once
    STORE_UNUSABLE = "StoreUnusable"  # the checkpoint store refused or misses what is needed at the start
    STORE_AWAY = "StoreAway"  # a later round could not reach the store that has its checkpoint
    STALLED = "Stalled"  # a limit (init, step, checkpoint) ran out
    FORK_HANG = "ForkHang"  # a rank said nothing after its fork
    PORT_BUSY = "PortBusy"  # the master's port was taken
    FENCED = "Fenced"  # a newer round owns the checkpoints
    PEER_LOST = "PeerLost"  # connection error after another rank's end: never the cause by itself


class Condition(StatusModel):
    """As in every Kubernetes object; `reason` is CamelCase."""

    type: str = Field(max_length=63)
    status: Literal["True", "False", "Unknown"]
    reason: str = Field(max_length=63)
    message: str = Field("", max_length=1024)
    last_transition_time: datetime
    observed_generation: int | None = None


class WorkerCounts(StatusModel):
    """Ready means: its agent reports, and its pod is running."""

    desired: int = 0
    ready: int = 0
    text: str = Field("", max_length=32, description="ready/desired, for the WORKERS column.")


class Member(StatusModel):
    """One pod's place in a round, known by name and uid."""

    index: int
    pod: str = Field(max_length=253)
    uid: str = Field(max_length=63)
    ranks: list[int] = Field(max_length=16)


class RoundStatus(StatusModel):
    """One attempt of all ranks to train together. The operator alone decides it; numbers only grow."""

    number: int = Field(ge=1)
    nonce: str = Field(max_length=63)
    world_size: int
    master: str = Field(max_length=253)
    port: int
    threads: int
    members: list[Member] = Field(max_length=1024)
    started_at: datetime
    furthest_step_before: int = Field(0, description="The job's furthest step when this round began.")


class Progress(StatusModel):
    """The latest a rank 0 told. Non-finite values are absent."""

    epoch: int | None = None
    epochs: int | None = None
    step: int | None = None
    total_steps: int | None = None
    samples: int | None = None
    loss: float | None = None
    metrics: dict[str, float] = Field(default={})
    samples_per_second: float | None = None
    eta: str | None = Field(None, max_length=32)
    reported_at: datetime | None = None


class CheckpointStatus(StatusModel):
    """The last committed checkpoint."""

    step: int
    uri: str = Field(max_length=2048, description="The manifest's address.")
    committed_at: datetime
    size_bytes: int | None = None


class Failure(StatusModel):
    """One counted or uncounted end of a round, for `kubectl describe`."""

    time: datetime
    round: int
    worker: int | None = None
    rank: int | None = None
    reason: Outcome
    exit_code: int | None = None
    counted: bool
    message: str = Field("", max_length=1024)


class EndedRound(StatusModel):
    """A round whose cause is not yet known: some member has neither reported nor been found lost."""

    round: RoundStatus
    ended_at: datetime
    cause: Failure | None = Field(None, description="The gravest fact so far: witnesses may vanish before the verdict.")
    over: list[int] = Field(
        default=[], max_length=1024, description="Members whose pod ended by itself: that it goes later is no loss."
    )


class Recovery(StatusModel):
    """What the operator must remember across its own restart."""

    incarnations: dict[str, int] = Field(default={}, description="Worker index -> newest incarnation that may exist.")
    joined: dict[str, int] = Field(default={}, description="Worker index -> incarnation that last joined a round.")
    unsettled: list[EndedRound] = Field(default=[], max_length=16)
    counted_at: list[datetime] = Field(
        default=[], max_length=1001, description="Times of the counted failures in the window."
    )
    rounds_without_progress: int = 0
    furthest_step: int = 0
    last_round: int = Field(0, description="Highest round number ever used.")
    fruitless_rounds: int = Field(0, description="Rounds in a row that ended without progress, whatever their cause.")
    last_ended_at: datetime | None = Field(None, description="When the last round ended: pauses count from then.")
    start_failures: dict[str, int] = Field(
        default={}, description="Worker index -> deaths in a row before it joined a round."
    )
    suspects: dict[str, datetime] = Field(
        default={}, description="Pod uid -> since when it is silent while others speak."
    )


class ObjectStoreStatus(StatusModel):
    """The store a job without an endpoint of its own was given."""

    endpoint: str = Field("", max_length=512)
    region: str = Field("", max_length=64)
    credentials_secret: str = Field("", max_length=253)
    ca_config_map: str = Field("", max_length=253)


class TrainingJobStatus(StatusModel):
    """All fields are absent before the operator saw the job."""

    phase: Phase | None = None
    message: str = Field("", max_length=1024)
    conditions: list[Condition] = Field(
        default=[],
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    workers: WorkerCounts = WorkerCounts()
    restarts: int = 0
    selector: str = Field("", max_length=512)
    round: RoundStatus | None = None
    progress: Progress | None = None
    checkpoint: CheckpointStatus | None = None
    failures: list[Failure] = Field(default=[], max_length=5)
    object_store: ObjectStoreStatus | None = Field(
        None, description="The operator's own store, as it was when a job without an endpoint was first seen."
    )
    recovery: Recovery = Recovery()
    start_time: datetime | None = None
    completion_time: datetime | None = None
    observed_generation: int | None = None
