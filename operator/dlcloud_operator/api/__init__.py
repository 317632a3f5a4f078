"""The API of dlcloud: the one source of defaults, validation, docs and the CRD. May import pydantic only."""

from .base import API_VERSION, GROUP, MAX_NAME_LENGTH, VERSION, parse_duration, parse_quantity
from .problems import InvalidManifest, Problem
from .status import (
    CheckpointStatus,
    Condition,
    EndedRound,
    Failure,
    Member,
    Outcome,
    Phase,
    Progress,
    Recovery,
    RoundStatus,
    TrainingJobStatus,
    WorkerCounts,
)
from .trainingjob import CleanPods, Metadata, ObjectStore, Script, TrainingJob, TrainingJobSpec, Workers

__all__ = [
    "API_VERSION",
    "GROUP",
    "MAX_NAME_LENGTH",
    "VERSION",
    "CheckpointStatus",
    "CleanPods",
    "Condition",
    "EndedRound",
    "Failure",
    "InvalidManifest",
    "Member",
    "Metadata",
    "ObjectStore",
    "Outcome",
    "Phase",
    "Problem",
    "Progress",
    "Recovery",
    "RoundStatus",
    "Script",
    "TrainingJob",
    "TrainingJobSpec",
    "TrainingJobStatus",
    "WorkerCounts",
    "Workers",
    "parse_duration",
    "parse_quantity",
]
