"""What the training loop tells the engine, and what it gets back.

May import torch and staging.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from torch import Tensor

from .fields import Fields
from .layout import TensorSpec
from .staging import Staging, views


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
    """A verified checkpoint. `manifest` is its full URI; the tensors are views of one flat uint8 tensor."""

    step: int
    samples: int
    manifest: str
    metric: float | None
    tensors: dict[str, Tensor]
    state: dict[str, Any]
    flat: Tensor | None = None
    specs: Mapping[str, TensorSpec] | None = None

    def pack(self) -> tuple[bytes, Tensor]:
        """JSON header and the flat tensor (uint8, 1-d), to broadcast."""
        specs, flat = self.specs, self.flat
        if specs is None or flat is None:
            specs, flat = Staging().copy(self.tensors)
        header = {
            "step": self.step,
            "samples": self.samples,
            "manifest": self.manifest,
            "metric": self.metric,
            "tensors": {name: spec.as_json() for name, spec in specs.items()},
            "state": self.state,
            "sizeBytes": flat.numel(),
        }
        return json.dumps(header, allow_nan=False).encode(), flat

    @staticmethod
    def unpack(header: bytes, flat: Tensor) -> Restored:
        """The same again from what `pack` gave; raises `Damaged`."""
        fields = Fields(json.loads(header), "restored state")
        specs = {name: TensorSpec.parse(spec) for name, spec in fields.mapping("tensors").members()}
        return Restored(
            step=fields.natural("step"),
            samples=fields.natural("samples"),
            manifest=fields.text("manifest"),
            metric=fields.optional("metric", Fields.number),
            tensors=views(flat, specs),
            state=dict(fields.mapping("state").values),
            flat=flat,
            specs=specs,
        )
