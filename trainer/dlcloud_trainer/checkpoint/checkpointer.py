"""The face the training loop sees, on rank 0 only: take over, save, flush, close.

May import the rest of this package. Making a `Checkpointer` starts no thread and sends nothing. Callbacks come from
the upload thread.

When training stops because of checkpoints: at once when another round owns them (`Fenced`); and when an upload fails
while
`upload_limit_s` x 3 have passed since the first failed save after the last commit. Until then a failed upload is a
warning, and the next
`save` tries again with newer state.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from math import isfinite
from typing import Any

from torch import Tensor

from ..objects import Objects, open_objects
from .cleaning import Cleaner
from .draft import Draft
from .errors import Fenced, NothingSound, StateNotPlain, StoreUnusable, UploadFailed
from .head import TAKE_OVER_S, HeadFile
from .layout import HEAD, Entry, attempt_folder
from .restore import Loaded, newest_sound
from .resume import read_foreign
from .retention import kept
from .settings import CheckpointSettings, Committed, Restored
from .staging import Staging
from .upload import Background, deadline, put_manifest, put_slices

LIMITS_WITHOUT_COMMIT = 3
CLOSE_S = 2.0


class Checkpointer:
    """Saves and restores one job's training state; see the module's docstring for its rules."""

    def __init__(
        self,
        settings: CheckpointSettings,
        *,
        on_commit: Callable[[Committed], None],
        on_warning: Callable[[str, str], None],
    ) -> None:
        self._settings, self._on_commit, self._warn = settings, on_commit, on_warning
        self._staging = Staging()
        self._background = Background()
        self._stop = threading.Event()
        self._objects: Objects | None = None
        self._head: HeadFile | None = None
        self._cleaner: Cleaner | None = None
        self._fatal: BaseException | None = None  # raised by every later call
        self._failed: Exception | None = None  # of the last upload; raised by flush
        self._failing_since: float | None = None
        self._blocked_s = self._upload_s = 0.0

    @property
    def store(self) -> Objects:
        """Objects under the job's prefix."""
        if self._objects is None:
            self._objects = self._open(self._settings.uri, "checkpoint.uri")
        return self._objects

    @property
    def busy(self) -> bool:
        """Whether a `save` without `wait` would be skipped now: ask before collecting a state for it."""
        return self._background.busy

    @property
    def blocked_s(self) -> float:
        """Seconds the last `save` kept training waiting."""
        return self._blocked_s

    @property
    def upload_s(self) -> float:
        """Seconds from the start of the last committed upload to its commit."""
        return self._upload_s

    def take_over(self) -> Restored | None:
        """Own the prefix for this round and restore the newest sound checkpoint, else what `resume_from` names, else
        None.

        Raises `Fenced` when a newer round owns it, and `StoreUnusable` or a subclass, within about 10 s when nothing
        answers.
        """
        settings, store = self._settings, self.store
        head = HeadFile(store, round=settings.round, nonce=settings.nonce, warn=self._warn)
        head.take_over()
        self._head = head
        self._cleaner = Cleaner(store, round=settings.round, warn=self._warn)
        if not head.checkpoints:
            if not settings.resume_from:
                return None
            loaded = read_foreign(settings.resume_from, self._open, self._warn_damaged)
            return self._restored(*loaded)
        found = newest_sound(store, head.checkpoints, self._warn_damaged)
        if found is None:
            raise NothingSound(
                f"{store.uri(HEAD)}: none of its {len(head.checkpoints)} checkpoints can be read; put "
                f"the missing objects back, or delete everything below {store.uri()} to begin anew"
            )
        own, lineage = found
        if len(lineage) < len(head.checkpoints):
            head.commit(lineage, tuple, until=deadline(TAKE_OVER_S))
        self._cleaner.learn(own.key, own.manifest)
        return self._restored(store, own)

    def prepare(self, tensors: Mapping[str, Tensor]) -> None:
        """Optional, once the optimiser has its state: make the staging buffer ready on the upload thread, so that the
        first save does not pay for fresh memory (up to 2 s per GB). Until it is, `save` answers False."""
        if not self._background.busy:
            self._background.start(lambda: self._attempt(lambda: self._staging.prepare(tensors)))

    def save(
        self,
        tensors: Mapping[str, Tensor],
        state: dict[str, Any],
        *,
        step: int,
        samples: int,
        metric: float | None = None,
        wait: bool = False,
    ) -> bool:
        """Copy the state and begin its upload; returns when the copy is made. A higher `metric` is better.

        While an upload runs: False at once, or with `wait` True after it ended. Raises `Fenced`, `UploadFailed`,
        `StateNotPlain`.
        """
        self.check()
        if self._background.busy:
            if not wait:
                return False
            self._background.wait()
            self.check()
        metric = metric if metric is not None and isfinite(metric) else None
        newest = next(iter(self._owned_head.checkpoints), None)
        if newest is not None and newest.step == step:
            if newest.metric is None and metric is not None:
                self._background.start(lambda: self._attempt(lambda: self._measure(newest, metric)))
            return True
        began = time.perf_counter()
        try:
            state = json.loads(json.dumps(state, allow_nan=False))  # a copy, like the tensors'
        except (TypeError, ValueError) as error:
            raise StateNotPlain(f"state: {error}; give what collect() returned, and plain finite values") from None
        specs, flat = self._staging.copy(tensors)
        draft = Draft(specs, flat, state, step, samples, metric)
        self._blocked_s = time.perf_counter() - began
        self._background.start(lambda: self._attempt(lambda: self._commit(draft)))
        return True

    def check(self) -> None:
        """Raise the error that ends training, if there is one: cheap, for every step."""
        if self._fatal is not None:
            raise self._fatal

    def flush(self, timeout_s: float) -> None:
        """Wait for the upload in flight; raises its error, or `UploadFailed` when it takes longer than `timeout_s`."""
        done = self._background.wait(timeout_s)
        self.check()
        if not done:
            raise UploadFailed(f"a checkpoint is still being uploaded after {timeout_s:.1f} s")
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed

    def close(self) -> None:
        """Give up an upload in flight (nothing of it is committed) and take no more."""
        self._stop.set()
        self._background.close(CLOSE_S)

    # --- on the upload thread ---

    def _attempt(self, act: Callable[[], None]) -> None:
        began = time.monotonic()
        self._failed = None
        try:
            act()
        except Fenced as error:
            self._fatal = error
        except (StoreUnusable, UploadFailed) as error:
            self._failed = error
            if self._stop.is_set():
                return
            self._failing_since = began if self._failing_since is None else self._failing_since
            without_s = time.monotonic() - self._failing_since
            if without_s >= LIMITS_WITHOUT_COMMIT * self._settings.upload_limit_s:
                self._fatal = UploadFailed(f"no checkpoint could be committed for {without_s:.0f} s: {error}")
            else:
                self._warn_safely("CheckpointUploadFailed", f"{error}; training goes on, the next save tries again")
        except BaseException as error:  # a mistake of ours or of a callback's: it must not pass unseen
            self._fatal = error

    def _commit(self, draft: Draft) -> None:
        began = time.monotonic()
        store, settings, head, cleaner = self.store, self._settings, self._owned_head, self._cleaner
        assert cleaner is not None
        until = deadline(settings.upload_limit_s)
        folder = attempt_folder(settings.round, secrets.token_hex(4))
        cleaner.abandon(folder)  # until it is committed
        slices = put_slices(store, folder, draft.flat, until=until, stop=self._stop)
        parent = head.checkpoints[0].manifest if head.checkpoints else None
        manifest = draft.manifest(settings, slices, parent)
        key = put_manifest(store, manifest, until=until, stop=self._stop)
        entry = Entry(key, draft.step, settings.round, draft.metric)
        committed_at = self._publish((entry, *head.checkpoints), until)
        cleaner.learn(key, manifest)
        self._upload_s = time.monotonic() - began
        self._on_commit(Committed(draft.step, store.uri(key), committed_at, manifest.size_bytes))
        cleaner.clean(head.checkpoints)

    def _measure(self, newest: Entry, metric: float) -> None:
        """The committed step was measured afterwards: only the head changes."""
        head = self._owned_head
        measured = Entry(newest.manifest, newest.step, newest.round, metric, newest.pinned)
        self._publish((measured, *head.checkpoints[1:]), deadline(self._settings.upload_limit_s))
        if self._cleaner is not None:
            self._cleaner.clean(head.checkpoints)

    def _publish(self, entries: tuple[Entry, ...], until: float) -> datetime:
        if self._stop.is_set():
            raise UploadFailed("the upload was given up")
        keep = partial(kept, keep_last=self._settings.keep_last, keep_best=self._settings.keep_best)
        committed_at = self._owned_head.commit(entries, keep, until=until, stop=self._stop)
        self._failing_since = None
        return committed_at

    # --- helpers ---

    @property
    def _owned_head(self) -> HeadFile:
        if self._head is None:
            raise RuntimeError("take_over() comes before save()")
        return self._head

    def _open(self, uri: str, what: str) -> Objects:
        settings = self._settings
        return open_objects(
            uri, endpoint=settings.endpoint, region=settings.region, ca_file=settings.ca_file, what=what
        )

    def _restored(self, store: Objects, loaded: Loaded) -> Restored:
        found = loaded.manifest
        if not isinstance(found.state, dict):
            raise NothingSound(f"{store.uri(loaded.key)}: its state is no JSON object")
        return Restored(
            step=found.step,
            samples=found.samples,
            manifest=store.uri(loaded.key),
            metric=found.metric,
            tensors=loaded.tensors,
            state=found.state,
            flat=loaded.flat,
            specs=found.tensors,
        )

    def _warn_damaged(self, message: str) -> None:
        self._warn_safely("CheckpointDamaged", message)

    def _warn_safely(self, reason: str, message: str) -> None:
        try:
            self._warn(reason, message)
        except Exception as error:
            self._fatal = self._fatal or error
