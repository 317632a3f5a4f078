"""Rank 0's dealings with the store: take over, save, record, finish.

May import checkpoint, metrics, patience and events. On the other ranks, and in a job without `checkpoint`, every call
does nothing: the loop asks no questions. `patience` is every rank's.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .assignment import Assignment
from .checkpoint import Checkpointer, CheckpointSettings, Committed, Restored, Stateful, collect
from .checkpoint.errors import StoreUnusable, UploadFailed
from .checkpoint.trouble import UPLOAD_FAILED
from .errors import NotSaved
from .events import Events
from .metrics import MetricsLog
from .objects import Objects
from .patience import Patience
from .pictures import CONFUSION, Pictures
from .troubles import Troubles

RECORDS_LIMIT_S = 5.0
RETRY_S = 10.0  # after a failed upload the next save comes so soon, however rare saves are


class Saver:
    """Saves one round; `active` on rank 0 only."""

    def __init__(self, assignment: Assignment, seed: int, events: Events, *, active: bool) -> None:
        self._checkpointer: Checkpointer | None = None
        self._records: MetricsLog | None = None
        self._pictures: Pictures | None = None
        self._thread: threading.Thread | None = None
        self._restored: Restored | None = None
        self._parts: Mapping[str, Stateful] = {}
        self._parts_known = threading.Event()
        self._error: BaseException | None = None
        self._every_s = float("inf")
        self._saved_at = time.monotonic()
        self._limit_s = assignment.checkpoint_s
        self._events, self._troubles = events, Troubles(events, inherited=assignment.round > 1)
        self.patience = Patience(assignment, self._troubles)
        plan = assignment.job.checkpoint
        self.keeps_best = plan is not None and plan.keep_best > 0  # on every rank
        if plan is None or not active:
            return
        self._every_s = plan.every_seconds
        settings = _settings(assignment, seed)
        checkpointer = self._checkpointer = Checkpointer(
            settings,
            on_commit=self._committed,
            on_warning=self._troubles.warn,
            before_commit=self._flush_records,
        )
        self._records = MetricsLog(
            lambda key, data: checkpointer.store.put(key, data),
            assignment.round,
            self._troubles.warn,
            lambda reason: self._troubles.over(reason, "the metrics are written again"),
        )
        self._pictures = Pictures(lambda key, data: checkpointer.store.put(key, data), self._troubles.warn)

    def begin(self) -> None:
        """Ask the store for the newest checkpoint, in a thread: meanwhile the ranks find each other."""
        if self._checkpointer is not None:
            self._thread = threading.Thread(target=self._take_over, name="take-over", daemon=True)
            self._thread.start()

    def restore_into(self, parts: Mapping[str, Stateful]) -> None:
        """Say where the checkpoint belongs: it is read there in `begin`'s thread, so leave them alone until
        `restored`."""
        self._parts = parts
        self._parts_known.set()

    def restored(self) -> Restored | None:
        """What `begin` found and read into the parts; raises what it raised."""
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
        """Whether to save now, in the background: it is time, and no upload runs. Raises what ended checkpointing;
        cheap."""
        return self._due(blocks=False)

    def pause_due(self) -> bool:
        """The same for a save that keeps all ranks waiting for its upload: True once, the save itself comes later."""
        due = self._due(blocks=True)
        if due:
            self._saved_at = time.monotonic()
        return due

    def _due(self, *, blocks: bool) -> bool:
        if self._checkpointer is None:
            return False
        self._checkpointer.check()
        every_s = min(self._every_s, RETRY_S) if self._checkpointer.troubled else self._every_s
        # While an upload runs a save would only collect the state, step after step, and do nothing with it.
        due = time.monotonic() - self._saved_at >= every_s and not self._checkpointer.busy
        return due and self._checkpointer.blocks is blocks

    def save(
        self,
        parts: Mapping[str, Stateful],
        *,
        step: int,
        samples: int,
        metric: float | None = None,
        wait: bool = False,
        unless_troubled: bool = False,
    ) -> None:
        """Copy the state and upload it in the background; while an upload runs nothing happens, or with `wait` it is
        awaited first: with `unless_troubled` only as long as it gets on.
        """
        if self._checkpointer is None:
            return
        tensors, state = collect(parts)
        if self._checkpointer.save(
            tensors, state, step=step, samples=samples, metric=metric, wait=wait, unless_troubled=unless_troubled
        ):
            self._saved_at = time.monotonic()

    def record(self, kind: str, **fields: Any) -> None:
        """A line for the metrics: train, validation or test."""
        if self._records is not None:
            self._records.write(kind, **fields)

    def keep_pictures(self, pictures: Mapping[str, Tensor], epoch: int) -> None:
        """What was drawn after so many epochs."""
        if self._pictures is not None:
            self._pictures.keep(pictures, epoch)

    def keep_confusion(self, counts: Tensor | None, classes: Sequence[str], step: int) -> None:
        """How often each class (row) of the test set was taken for which (column), where that was counted."""
        if self._pictures is not None and counts is not None:
            table = {"set": "test", "step": step, "classes": list(classes), "counts": counts.long().tolist()}
            self._pictures.write(CONFUSION, json.dumps(table).encode())

    @property
    def store(self) -> Objects | None:
        """The job's prefix, on rank 0 of a job with `checkpoint`."""
        return None if self._checkpointer is None else self._checkpointer.store

    def settle(self) -> None:
        """Wait until the last save is committed; raises `NotSaved` when it failed."""
        if self._checkpointer is None:
            return
        try:
            self._checkpointer.flush(self._limit_s)
        except (StoreUnusable, UploadFailed) as error:
            raise NotSaved(f"the last state could not be saved: {error}") from error

    def finish(self, *, must_be_saved: bool) -> None:
        """Wait for what is being written; raises `NotSaved` when the last save failed and `must_be_saved`."""
        if self._checkpointer is None or self._records is None:
            return
        try:
            self.settle()
        except NotSaved:
            if must_be_saved:
                raise
        finally:
            self._records.close(RECORDS_LIMIT_S)
            if self._pictures is not None:
                self._pictures.close(RECORDS_LIMIT_S)

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
            self._restored = self.patience.insist("its checkpoint", self._go_on)
        except BaseException as error:
            self._error = error

    def _go_on(self) -> Restored | None:
        assert self._checkpointer is not None
        if not self._checkpointer.claim():
            return None
        self._parts_known.wait()
        return self._checkpointer.restore(self._parts)

    def _flush_records(self) -> None:
        # Steps before a checkpoint are never made again: records of theirs that are lost now would be lost for good.
        if self._records is not None:
            self._records.flush(RECORDS_LIMIT_S)

    def _committed(self, commit: Committed) -> None:
        self._events.checkpoint(commit.step, commit.uri, commit.committed_at, commit.size_bytes)
        self._troubles.over(UPLOAD_FAILED, f"checkpoints are saved again (step {commit.step})")


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
        encryption=job.store.encryption,
        kms_key_id=job.store.kms_key_id,
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
