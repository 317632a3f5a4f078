"""What the training loop tells the engine, and what it gets back.

May import torch and staging.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from torch import Tensor

from .fields import Fields
from .layout import TensorSpec
from .staging import allocate, views

Place = Callable[[Mapping[str, TensorSpec], Mapping[str, Any]], dict[str, Tensor]]


@dataclass(frozen=True)
class CheckpointSettings:
    """From the round's assignment. `uri` is the job's own prefix; times in seconds."""

    uri: str
    every_seconds: float = 60.0  # the loop's: when to call `save`
    keep_last: int = 3
    keep_best: int = 1
    endpoint: str = ""
    region: str = "us-east-1"
    ca_file: str | None = None
    encryption: str = ""  # SSE-S3, SSE-KMS or SSE-C
    kms_key_id: str = ""
    round: int = 1
    nonce: str = ""
    world_size: int = 1
    threads: int = 1
    seed: int = 0
    workload: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    resume_from: str = ""
    upload_limit_s: float = (
        300.0  # retries of one upload end after this; nothing committed for three times this: an error
    )


@dataclass(frozen=True)
class Committed:
    """A checkpoint the head lists; `uri` is that of its manifest."""

    step: int
    uri: str
    committed_at: datetime
    size_bytes: int


@dataclass(frozen=True)
class Restored:
    """A verified checkpoint. `manifest` is its full URI; the tensors are where they were wanted, `specs` say where each
    lies in the row of bytes that was read."""

    step: int
    samples: int
    manifest: str
    metric: float | None
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    specs: Mapping[str, TensorSpec]

    def header(self) -> bytes:
        """All but the tensors' values, as JSON: for a process that has them sent to it."""
        header = {
            "step": self.step,
            "samples": self.samples,
            "manifest": self.manifest,
            "metric": self.metric,
            "tensors": {name: spec.as_json() for name, spec in self.specs.items()},
            "state": self.state,
        }
        return json.dumps(header, allow_nan=False).encode()

    @staticmethod
    def announced(header: bytes, place: Place) -> Restored:
        """The same from its header, with the tensors `place` gives to be filled; raises `Damaged`, and what it
        raises."""
        fields = Fields(json.loads(header), "restored state")
        specs = {name: TensorSpec.parse(spec) for name, spec in fields.mapping("tensors").members()}
        state = dict(fields.mapping("state").values)
        return Restored(
            step=fields.natural("step"),
            samples=fields.natural("samples"),
            manifest=fields.text("manifest"),
            metric=fields.optional("metric", Fields.number),
            tensors=place(specs, state),
            state=state,
            specs=specs,
        )


def in_memory(specs: Mapping[str, TensorSpec], state: Mapping[str, Any]) -> dict[str, Tensor]:
    """A `Place`: tensors of their own, in one piece of memory."""
    return views(allocate(max((spec.offset + spec.size_bytes for spec in specs.values()), default=0)), specs)
