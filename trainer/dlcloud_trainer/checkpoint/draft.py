"""What one save staged, and the manifest it becomes.

May import torch and layout.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from torch import Tensor

from .layout import Manifest, Slice, TensorSpec
from .settings import CheckpointSettings


@dataclass(frozen=True)
class Draft:
    """`flat` (uint8, 1-d) belongs to the staging buffer, which stays as it is while the upload runs."""

    specs: Mapping[str, TensorSpec]
    flat: Tensor
    state: Any
    step: int
    samples: int
    metric: float | None

    def manifest(self, settings: CheckpointSettings, slices: tuple[Slice, ...], parent: str | None) -> Manifest:
        return Manifest(
            step=self.step,
            samples=self.samples,
            round=settings.round,
            parent=parent,
            created_at=datetime.now(UTC),
            world_size=settings.world_size,
            threads=settings.threads,
            seed=settings.seed,
            size_bytes=self.flat.numel(),
            metric=self.metric,
            workload=settings.workload,
            parameters=settings.parameters,
            slices=slices,
            tensors=self.specs,
            state=self.state,
        )
