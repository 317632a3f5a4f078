"""What a rank is told: the round's assignment (docs/protocol.md, section 2) and its own place in it.

May import the standard library only. Strict about types, blind to keys it does not know: a newer operator may say more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StoreAddress:
    """How to reach the object store; credentials are in the environment. `encryption` is empty, `SSE-S3`, `SSE-KMS` or
    `SSE-C`, for what the job writes."""

    endpoint: str = ""
    region: str = "us-east-1"
    ca_file: str | None = None
    encryption: str = ""
    kms_key_id: str = ""


@dataclass(frozen=True)
class CheckpointPlan:
    """Where and how often to save; `uri` is the job's own prefix."""

    uri: str
    every_seconds: float
    keep_last: int
    keep_best: int


@dataclass(frozen=True)
class PrunePlan:
    """`fraction` of the weights, or of the channels (`structured`), goes; then `epochs` of fine-tuning."""

    fraction: float
    structured: bool
    epochs: int


@dataclass(frozen=True)
class DistillPlan:
    """A job's prefix or one manifest, what its and our scores are divided by, and its part of the loss."""

    teacher: str
    temperature: float
    weight: float


@dataclass(frozen=True)
class ExportPlan:
    """What is made of the trained model; `quantize` is none, dynamic or static."""

    onnx: bool = True
    quantize: str = "none"
    prune: PrunePlan | None = None
    distill: DistillPlan | None = None


@dataclass(frozen=True)
class Job:
    """The job's settings, the same in every round until the job is changed."""

    namespace: str
    name: str
    uid: str
    workload: str
    parameters: Mapping[str, Any]
    data_uri: str  # empty when the job names no data
    checkpoint: CheckpointPlan | None
    resume_from: str
    store: StoreAddress
    export: ExportPlan | None = None


@dataclass(frozen=True)
class Assignment:
    """One round. `threads` is per rank; `init_s` and `checkpoint_s` are the limits of both."""

    round: int
    nonce: str
    world_size: int
    master_addr: str
    master_port: int
    threads: int
    restarts: int
    init_s: float
    checkpoint_s: float
    job: Job


@dataclass(frozen=True)
class Place:
    """Which rank this process is; `local_rank` counts the ranks of its pod."""

    rank: int
    local_rank: int
    world_size: int


def parse_assignment(text: str, ca_file: str | None = None) -> Assignment:
    """The assignment from its JSON text; raises ValueError naming the field."""
    try:
        body = _Fields(json.loads(text), "assignment")
    except json.JSONDecodeError as error:
        raise ValueError(f"assignment: not JSON: {error}") from None
    return Assignment(
        round=body.whole("round", 1),
        nonce=body.text("nonce"),
        world_size=body.whole("worldSize", 1),
        master_addr=body.text("masterAddr"),
        master_port=body.whole("masterPort", 1),
        threads=body.whole("threads", 1),
        restarts=body.whole("restarts", 0),
        init_s=body.seconds("initS"),
        checkpoint_s=body.seconds("checkpointS"),
        job=_parse_job(body.inner("job"), ca_file),
    )


def parse_place(environ: Mapping[str, str]) -> Place:
    """This rank's place from torchrun's variables; raises ValueError naming the variable."""
    try:
        rank, local_rank, world_size = (int(environ[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"))
    except (KeyError, ValueError) as error:
        raise ValueError(f"RANK, LOCAL_RANK and WORLD_SIZE must be whole numbers: {error}") from None
    if not 0 <= local_rank <= rank < world_size:
        raise ValueError(f"RANK={rank}, LOCAL_RANK={local_rank}, WORLD_SIZE={world_size} do not fit together")
    return Place(rank, local_rank, world_size)


def _parse_job(job: _Fields, ca_file: str | None) -> Job:
    data, saved, store = job.optional("data"), job.optional("checkpoint"), job.optional("objectStore")
    return Job(
        namespace=job.text("namespace"),
        name=job.text("name"),
        uid=job.text("uid"),
        workload=job.text("workload"),
        parameters=job.inner("parameters").values,
        data_uri="" if data is None else data.text("uri"),
        checkpoint=None
        if saved is None
        else CheckpointPlan(
            uri=saved.text("uri"),
            every_seconds=saved.seconds("everySeconds"),
            keep_last=saved.whole("keepLast", 1),
            keep_best=saved.whole("keepBest", 0),
        ),
        resume_from=job.text("resumeFrom", ""),
        store=StoreAddress(ca_file=ca_file) if store is None else _parse_store(store, ca_file),
        export=None if (export := job.optional("export")) is None else _parse_export(export),
    )


def _parse_export(export: _Fields) -> ExportPlan:
    prune, distill = export.optional("prune"), export.optional("distill")
    return ExportPlan(
        onnx=export.flag("onnx"),
        quantize=export.text("quantize"),
        prune=None
        if prune is None
        else PrunePlan(prune.part("fraction"), prune.flag("structured"), prune.whole("epochs", 1)),
        distill=None
        if distill is None
        else DistillPlan(distill.text("teacher"), distill.positive("temperature"), distill.part("weight")),
    )


def _parse_store(store: _Fields, ca_file: str | None) -> StoreAddress:
    encryption = store.optional("encryption")
    return StoreAddress(
        endpoint=store.text("endpoint", ""),
        region=store.text("region", "us-east-1"),
        ca_file=ca_file,
        encryption="" if encryption is None else encryption.text("type"),
        kms_key_id="" if encryption is None else encryption.text("kmsKeyId", ""),
    )


class _Fields:
    def __init__(self, values: object, where: str) -> None:
        if not isinstance(values, dict):
            raise ValueError(f"{where}: {values!r} is no JSON object")
        self.values: dict[str, Any] = values
        self._where = where

    def text(self, name: str, default: str | None = None) -> str:
        return str(self._get(name, (str,), "text", default))

    def whole(self, name: str, minimum: int) -> int:
        value = self._get(name, (int,), f"a whole number from {minimum}")
        if value < minimum:
            raise ValueError(f"{self._where}.{name}: {value} is below {minimum}")
        return int(value)

    def seconds(self, name: str) -> float:
        value = self._get(name, (int, float), "a number of seconds")
        if not 0 < value < float("inf"):
            raise ValueError(f"{self._where}.{name}: {value} is no positive number of seconds")
        return float(value)

    def flag(self, name: str) -> bool:
        if not isinstance(value := self.values.get(name), bool):
            raise ValueError(f"{self._where}.{name}: {value!r} is not true or false")
        return value

    def part(self, name: str) -> float:
        value = self._get(name, (int, float), "a number from 0 to 1")
        if not 0 <= value <= 1:
            raise ValueError(f"{self._where}.{name}: {value} is no part of a whole")
        return float(value)

    def positive(self, name: str) -> float:
        value = self._get(name, (int, float), "a number above 0")
        if not 0 < value < float("inf"):
            raise ValueError(f"{self._where}.{name}: {value} is not a number above 0")
        return float(value)

    def inner(self, name: str) -> _Fields:
        return _Fields(self._get(name, (dict,), "a JSON object"), f"{self._where}.{name}")

    def optional(self, name: str) -> _Fields | None:
        return None if self.values.get(name) is None else self.inner(name)

    def _get(self, name: str, types: tuple[type, ...], kind: str, default: Any = None) -> Any:
        value = self.values.get(name, default)
        if not isinstance(value, types) or isinstance(value, bool):
            raise ValueError(f"{self._where}.{name}: {value!r} is not {kind}")
        return value
