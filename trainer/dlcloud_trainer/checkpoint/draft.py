"""What one save sends, and the manifest it becomes.

May import layout and settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from .layout import Manifest, Slice, TensorSpec
from .settings import CheckpointSettings


class Source(Protocol):
    """The bytes of a state, which stay as they are while the upload runs. With `waits` training has to wait for it."""

    size_bytes: int
    waits: bool

    def read(self, start: int, stop: int) -> AbstractContextManager[memoryview]:
        """The bytes from `start` to `stop`, for as long as the block lasts; any thread may ask."""


@dataclass(frozen=True)
class Draft:
    """One save."""

    specs: Mapping[str, TensorSpec]
    source: Source
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
            size_bytes=self.source.size_bytes,
            metric=self.metric,
            workload=settings.workload,
            parameters=settings.parameters,
            slices=slices,
            tensors=self.specs,
            state=self.state,
        )
