"""Rank 0's dealings with the store: take over, save, record, finish.

May import checkpoint, metrics and events. On the other ranks, and in a job without `checkpoint`, every call does
nothing: the loop asks no questions.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from .assignment import Assignment
from .checkpoint import Checkpointer, CheckpointSettings, Committed, Restored, Stateful, collect
from .checkpoint.errors import StoreUnusable, UploadFailed
from .errors import NotSaved
from .events import Events
from .metrics import MetricsLog

RECORDS_LIMIT_S = 5.0


class Saver:
    """Saves one round; `active` on rank 0 only."""

    def __init__(self, assignment: Assignment, seed: int, events: Events, *, active: bool) -> None:
        self._checkpointer: Checkpointer | None = None
        self._records: MetricsLog | None = None
        self._thread: threading.Thread | None = None
        self._restored: Restored | None = None
        self._error: BaseException | None = None
        self._every_s = float("inf")
        self._saved_at = time.monotonic()
        self._limit_s = assignment.checkpoint_s
        plan = assignment.job.checkpoint
        self.keeps_best = plan is not None and plan.keep_best > 0  # on every rank
        if plan is None or not active:
            return
        self._every_s = plan.every_seconds
        settings = _settings(assignment, seed)
        checkpointer = self._checkpointer = Checkpointer(
            settings, on_commit=lambda commit: _tell(events, commit), on_warning=events.warning
        )
        self._records = MetricsLog(
            lambda key, data: checkpointer.store.put(key, data), assignment.round, events.warning
        )

    def begin(self) -> None:
        """Ask the store for the newest checkpoint, in a thread: meanwhile the ranks find each other."""
        if self._checkpointer is not None:
            self._thread = threading.Thread(target=self._take_over, name="take-over", daemon=True)
            self._thread.start()

    def restored(self) -> Restored | None:
        """What `begin` found; raises what it raised."""
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error
        restored, self._restored = self._restored, None
        self._saved_at = time.monotonic()
        return restored

    def prepare(self, parts: Mapping[str, Stateful]) -> None:
        """Make the staging buffer ready in the background, once the optimiser has its state."""
        if self._checkpointer is not None:
            self._checkpointer.prepare(collect(parts)[0])

    def due(self) -> bool:
        """Whether to save now: it is time, and no upload runs. Raises what ended checkpointing; cheap."""
        if self._checkpointer is None:
            return False
        self._checkpointer.check()
        # While an upload runs a save would only collect the state, step after step, and do nothing with it.
        return time.monotonic() - self._saved_at >= self._every_s and not self._checkpointer.busy

    def save(
        self, parts: Mapping[str, Stateful], *, step: int, samples: int, metric: float | None = None, wait: bool = False
    ) -> None:
        """Copy the state and upload it in the background; while an upload runs nothing happens, or with `wait` it is
        awaited first.
        """
        if self._checkpointer is None:
            return
        tensors, state = collect(parts)
        if self._checkpointer.save(tensors, state, step=step, samples=samples, metric=metric, wait=wait):
            self._saved_at = time.monotonic()

    def record(self, kind: str, **fields: Any) -> None:
        """A line for the metrics: train, validation or test."""
        if self._records is not None:
            self._records.write(kind, **fields)

    def finish(self, *, must_be_saved: bool) -> None:
        """Wait for what is being written; raises `NotSaved` when the last save failed and `must_be_saved`."""
        if self._checkpointer is None or self._records is None:
            return
        try:
            self._checkpointer.flush(self._limit_s)
        except (StoreUnusable, UploadFailed) as error:
            if must_be_saved:
                raise NotSaved(f"the last state could not be saved: {error}") from error
        finally:
            self._records.close(RECORDS_LIMIT_S)

    def leave(self, limit_s: float) -> None:
        """Give an upload in flight, and the records, a moment before the process ends."""
        if self._checkpointer is None or self._records is None or (self._thread and self._thread.is_alive()):
            return
        end = time.monotonic() + limit_s
        try:
            self._checkpointer.flush(limit_s)
        except Exception:
            return  # the rank ends for another reason; this was worth a try
        self._records.close(max(0.0, end - time.monotonic()))

    def _take_over(self) -> None:
        assert self._checkpointer is not None
        try:
            self._restored = self._checkpointer.take_over()
        except BaseException as error:
            self._error = error


def _tell(events: Events, commit: Committed) -> None:
    events.checkpoint(commit.step, commit.uri, commit.committed_at, commit.size_bytes)


def _settings(assignment: Assignment, seed: int) -> CheckpointSettings:
    job, plan = assignment.job, assignment.job.checkpoint
    assert plan is not None
    return CheckpointSettings(
        uri=plan.uri,
        every_seconds=plan.every_seconds,
        keep_last=plan.keep_last,
        keep_best=plan.keep_best,
        endpoint=job.store.endpoint,
        region=job.store.region,
        ca_file=job.store.ca_file,
        round=assignment.round,
        nonce=assignment.nonce,
        world_size=assignment.world_size,
        threads=assignment.threads,
        seed=seed,
        workload=job.workload,
        parameters=job.parameters,
        resume_from=job.resume_from,
        upload_limit_s=assignment.checkpoint_s,
    )
