"""TrainingJob: what a user asks for. The spec only; `status.py` holds what the operator answers.

May import pydantic and this package only. Docstrings and descriptions end up in the CRD: write them for users.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from .base import (
    DURATION_PATTERN,
    QUANTITY_PATTERN,
    STEP_LIMIT_PATTERN,
    ApiModel,
    Duration,
    Quantity,
    StepLimit,
)

STORE_URI_PATTERN = r"^(s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?|file:///.*)$"
DATA_URI_PATTERN = r"^(s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?|file:///.*|builtin://[a-z0-9-]+)$"
RESUME_URI_PATTERN = r"^(s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?|file:///.*)?$"
ENDPOINT_PATTERN = r"^(https?://[^\s/?#]+[^\s?#]*)?$"
OBJECT_NAME_PATTERN = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*)?$"
KMS_KEY_PATTERN = r"^[A-Za-z0-9_./:@=+-]*$"
WORKLOAD_PATTERN = r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$"
LABEL_NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"

HINTS = {
    STORE_URI_PATTERN: "s3://bucket/prefix or file:///path",
    DATA_URI_PATTERN: "s3://bucket/prefix, file:///path or builtin://digits",
    RESUME_URI_PATTERN: "s3://bucket/prefix or file:///path",
    ENDPOINT_PATTERN: "http://host:port or https://host",
    OBJECT_NAME_PATTERN: "the name of an object: lower-case letters, digits, '-' and '.'",
    KMS_KEY_PATTERN: "the id or ARN of a key: letters, digits and _./:@=+-",
    WORKLOAD_PATTERN: "the name of a workload: lower-case letters, digits and '-'",
    LABEL_NAME_PATTERN: "lower-case letters, digits and '-', beginning and ending with a letter or digit",
    DURATION_PATTERN: "a duration, for example 90s, 10m or 1h30m",
    STEP_LIMIT_PATTERN: "auto or a duration, for example 90s or 10m",
    QUANTITY_PATTERN: "a quantity, for example 2, 500m or 2Gi",
}
"""Pattern -> what to write instead, for people."""

Argument = Annotated[str, Field(max_length=32768)]


class Script(ApiModel):
    """The user's own program, started once per rank with the environment torchrun gives."""

    image: str = Field(
        "", max_length=512, description="Image to run; empty: the trainer image. It needs python3 3.9 or newer."
    )
    command: list[Argument] = Field(
        min_length=1, max_length=64, description="Program and first arguments, for example [python, train.py]."
    )
    args: list[Argument] = Field(default=[], max_length=256, description="Further arguments.")


class Data(ApiModel):
    """Where the training data lies."""

    uri: str = Field(
        pattern=DATA_URI_PATTERN, max_length=1024, description="s3://bucket/prefix, file:///path or builtin://digits."
    )


class Workers(ApiModel):
    """The pods of a job. A pod runs one rank per GPU, or one rank when it has none."""

    count: int = Field(1, ge=1, le=1024, description="Number of worker pods.")
    gpus: int = Field(0, ge=0, le=16, description="GPUs per pod (nvidia.com/gpu); each gets its own rank.")
    cpu: Quantity = Field("1", description="CPU of a pod, request and limit.")
    memory: Quantity = Field("2Gi", description="Memory of a pod, request and limit.")


class Checkpoint(ApiModel):
    """Where and how often the state is saved."""

    uri: str = Field(
        pattern=STORE_URI_PATTERN,
        max_length=1024,
        description="s3://bucket/prefix or file:///path; the job writes below {uri}/{namespace}/{name}/{uid}/.",
    )
    every_seconds: int = Field(60, ge=1, le=86400, description="Seconds between two checkpoints.")
    keep_last: int = Field(3, ge=1, le=1000, description="Newest checkpoints that are kept.")
    keep_best: int = Field(
        1, ge=0, le=100, description="Best checkpoints (by validation metric) that are kept besides."
    )


class Prune(ApiModel):
    """Weights that are removed after the last epoch, and the training that mends what that costs."""

    fraction: float = Field(
        ge=0.01, le=0.99, description="Part of all weights, or of each layer's channels, that is removed."
    )
    structured: bool = Field(
        False,
        description="true: whole channels, the model gets smaller and faster; false: single weights become 0, it only "
        "packs better.",
    )
    epochs: int = Field(2, ge=1, le=100_000, description="Epochs of fine-tuning, after parameters.epochs.")


class Distill(ApiModel):
    """A teacher: the model learns its scores beside the labels."""

    teacher: str = Field(
        pattern=STORE_URI_PATTERN,
        max_length=1024,
        description="Prefix of another job's checkpoints, or one manifest: a classifier of the same classes.",
    )
    temperature: float = Field(
        4.0,
        ge=0.1,
        le=100,
        description="Both models' scores are divided by it: more shows what is less likely.",
    )
    weight: float = Field(0.7, ge=0, le=1, description="Of the teacher in the loss; the labels have the rest.")


class Quantize(StrEnum):
    """How the exported model is made smaller."""

    NONE = "none"
    DYNAMIC = "dynamic"
    STATIC = "static"


class Export(ApiModel):
    """What is made of the trained model for use elsewhere; see docs/export.md."""

    onnx: bool = Field(True, description="Write an ONNX file below export/, beside weights and model card.")
    quantize: Quantize = Field(
        Quantize.NONE,
        description="A second ONNX file in int8. static: for convolutions, calibrated on training samples; dynamic: "
        "weights alone, for LSTM and dense layers.",
    )
    prune: Prune | None = Field(None, description="Remove weights after the last epoch.")
    distill: Distill | None = Field(None, description="Learn from a teacher.")


class EncryptionType(StrEnum):
    """Who has the key a server encrypts objects with."""

    SSE_S3 = "SSE-S3"
    SSE_KMS = "SSE-KMS"
    SSE_C = "SSE-C"


class Encryption(ApiModel):
    """How the server encrypts what the job writes: checkpoints, metrics and logs."""

    type: EncryptionType = Field(
        description="SSE-S3: keys of the server's own; SSE-KMS: a key of its key service; SSE-C: the key in "
        "AWS_SSE_CUSTOMER_KEY_BASE64 of the credentialsSecret, 32 bytes in base64."
    )
    kms_key_id: str = Field(
        "",
        pattern=KMS_KEY_PATTERN,
        max_length=2048,
        description="Id or ARN of the key for SSE-KMS; empty: the bucket's or the server's default.",
    )


class ObjectStore(ApiModel):
    """The S3 server of `checkpoint.uri` and `data.uri`."""

    endpoint: str = Field(
        "",
        pattern=ENDPOINT_PATTERN,
        max_length=512,
        description="URL of the server; empty: the one the operator was installed with, or else AWS.",
    )
    region: str = Field("us-east-1", max_length=64, description="Region to sign requests for.")
    credentials_secret: str = Field(
        "",
        pattern=OBJECT_NAME_PATTERN,
        max_length=253,
        description="Secret with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, if they expire, AWS_SESSION_TOKEN. It "
        "is read again when it changes; empty: the pod's own identity.",
    )
    ca_config_map: str = Field(
        "",
        pattern=OBJECT_NAME_PATTERN,
        max_length=253,
        description="ConfigMap whose ca.crt signs the server's certificate.",
    )
    encryption: Encryption | None = Field(None, description="Without it the bucket's own setting holds.")


class Restart(ApiModel):
    """How many failures of the user's own are forgiven. Lost pods and preemption are free."""

    max_failures: int = Field(3, ge=0, le=1000, description="Failures within the window before the job fails.")
    window: Duration = Field("1h", description="Only failures younger than this count.")


class Limits(ApiModel):
    """How long each phase may take before the operator steps in."""

    start: Duration = Field("10m", description="From a pod's creation until its agent reports.")
    init: Duration = Field("2m", description="From a round's start until every rank made its first step.")
    step: StepLimit = Field("auto", description="Longest time without a step; auto: learned from the steps so far.")
    checkpoint: Duration = Field("5m", description="Longest time a checkpoint's upload may take.")
    drain: Duration = Field("1m", description="Time to save and stop when a pod is asked to end.")


class CleanPods(StrEnum):
    """Which pods go when the job has finished."""

    ALL = "All"
    RUNNING = "Running"
    NONE = "None"


class Scheduling(ApiModel):
    """How the pods are placed."""

    gang: Literal["auto", "none"] = Field("auto", description="auto: all pods at once where the cluster can.")
    queue: str = Field("", pattern=OBJECT_NAME_PATTERN, max_length=253, description="Name of a queue to wait in.")
    priority_class_name: str = Field(
        "", pattern=OBJECT_NAME_PATTERN, max_length=253, description="PriorityClass of the pods."
    )
    node_selector: dict[str, str] = Field(default={}, description="Labels a node must have.")
    tolerations: list[dict[str, Any]] = Field(default=[], max_length=64, description="Tolerations of the pods.")
    affinity: dict[str, Any] = Field(default={}, description="Affinity of the pods.")


class TrainingJobSpec(ApiModel):
    """A training job: a built-in workload or a script, its workers, its data and its checkpoints."""

    workload: str = Field(
        "", pattern=WORKLOAD_PATTERN, max_length=63, description="A built-in workload, for example cnn."
    )
    script: Script | None = Field(None, description="The user's own program instead of a workload.")
    parameters: dict[str, Any] = Field(default={}, description="Settings of the workload, for example epochs.")
    data: Data | None = Field(None, description="Training data of the workload.")
    workers: Workers = Workers()
    checkpoint: Checkpoint | None = Field(None, description="Without it a restarted job begins anew.")
    resume_from: str = Field(
        "",
        pattern=RESUME_URI_PATTERN,
        max_length=1024,
        description="Prefix of another job's checkpoints, or one manifest, to begin from.",
    )
    export: Export | None = Field(None, description="Hand the trained model over as ONNX; compress it before.")
    object_store: ObjectStore = ObjectStore()
    restart: Restart = Restart()
    limits: Limits = Limits()
    suspend: bool = Field(False, description="true: save, stop and keep the job; false: go on.")
    active_deadline_seconds: int | None = Field(
        None, ge=1, le=315360000, description="The job fails when it takes longer."
    )
    ttl_seconds_after_finished: int | None = Field(
        None, ge=0, le=315360000, description="The job is deleted this long after its end."
    )
    clean_pods: CleanPods = Field(CleanPods.RUNNING, description="Which pods go at the end: All, Running or None.")
    scheduling: Scheduling = Scheduling()
    pod_template: dict[str, Any] = Field(
        default={}, description="Merged strategically over the rendered pod; its container is named trainer."
    )

    @property
    def ranks_per_worker(self) -> int:
        """One rank per GPU, or one."""
        return max(1, self.workers.gpus)

    @property
    def world_size(self) -> int:
        """Ranks of the whole job."""
        return self.workers.count * self.ranks_per_worker


class Metadata(ApiModel):
    """The part of an object's metadata a manifest gives."""

    name: str = Field(pattern=LABEL_NAME_PATTERN, max_length=50)
    namespace: str = Field("default", pattern=LABEL_NAME_PATTERN, max_length=63)
    labels: dict[str, str] = Field(default={})
    annotations: dict[str, str] = Field(default={})


class TrainingJob(ApiModel):
    """A manifest as a user writes it."""

    api_version: Literal["dlcloud.dev/v1"] = "dlcloud.dev/v1"
    kind: Literal["TrainingJob"] = "TrainingJob"
    metadata: Metadata
    spec: TrainingJobSpec
