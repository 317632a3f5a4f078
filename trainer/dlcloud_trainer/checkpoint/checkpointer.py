"""The face the training loop sees, on rank 0 only: take over, save, flush, close.

May import the rest of this package. Making a `Checkpointer` starts no thread and sends nothing. Callbacks come from
the upload thread.

When training stops because of checkpoints: at once when another round owns them (`Fenced`); and when an upload fails
while `upload_limit_s` x 3 have passed since the first failed save after the last commit. Until then an upload that gets
nowhere is a warning within 10 s, and the next `save` after one that failed tries again with newer state.
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
from .copier import Copier
from .draft import Draft
from .errors import Fenced, StateNotPlain, StoreUnusable, UploadFailed
from .head import HeadFile
from .layout import Entry, attempt_folder, manifest_key
from .retention import kept
from .settings import CheckpointSettings, Committed, Place, Restored, in_memory
from .state import Stateful, Target
from .taking_over import Taken, take_over
from .trouble import Trouble
from .upload import Background, deadline, put_manifest, put_slices

CLOSE_S = 2.0
POLL_S = 0.1


class Checkpointer:
    """Saves and restores one job's training state; see the module's docstring for its rules."""

    def __init__(
        self,
        settings: CheckpointSettings,
        *,
        on_commit: Callable[[Committed], None],
        on_warning: Callable[[str, str], None],
        before_commit: Callable[[], None] = lambda: None,
    ) -> None:
        """`before_commit` is called when all is uploaded: what must be in the store before the head lists it."""
        self._settings, self._on_commit, self._warn = settings, on_commit, on_warning
        self._before_commit = before_commit
        self._copier = Copier(self._warn_safely)
        self._background = Background()
        self._stop = threading.Event()
        self._objects: Objects | None = None
        self._head: HeadFile | None = None
        self._cleaner: Cleaner | None = None
        self._fatal: BaseException | None = None  # raised by every later call
        self._failed: Exception | None = None  # of the last upload; raised by flush
        self._trouble = Trouble(settings.upload_limit_s, self._warn_safely)
        self._taken: Taken | None = None
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
    def troubled(self) -> bool:
        """Whether the store takes no checkpoints now: something failed since the last commit."""
        return bool(self._trouble)

    @property
    def blocked_s(self) -> float:
        """Seconds the last `save` kept training waiting."""
        return self._blocked_s

    @property
    def upload_s(self) -> float:
        """Seconds from the start of the last committed upload to its commit."""
        return self._upload_s

    @property
    def blocks(self) -> bool:
        """Whether a `save` keeps training waiting until its upload ends, because there is no memory for a copy."""
        return self._copier.blocks

    def claim(self) -> bool:
        """Own the prefix for this round and find its newest checkpoint, else what `resume_from` names; False when
        there is none.

        Raises `Fenced` when a newer round owns it, and `StoreUnusable` or a subclass, within about 10 s when nothing
        answers.
        """
        store = self.store
        taken = self._taken = take_over(self._settings, store, self._trouble.mind(store), self._open, self._warn_safely)
        self._head, self._cleaner = taken.head, taken.cleaner
        return taken.reading is not None

    def restore(self, parts: Mapping[str, Stateful]) -> Restored | None:
        """After `claim`: read the newest sound checkpoint into the parts, as it arrives: that takes no memory of its
        own. Raises `StateMismatch` before a part was changed, and what `claim` raises."""
        target = Target(parts)
        restored = self._restore(target.place)
        if restored is not None:
            target.finish()
        return restored

    def take_over(self) -> Restored | None:
        """`claim`, and the newest sound checkpoint in memory of its own: for tools. Raises what they raise."""
        return self._restore(in_memory) if self.claim() else None

    def prepare(self, tensors: Mapping[str, Tensor]) -> None:
        """Optional, once the optimiser has its state: make the staging buffer ready on the upload thread, so that the
        first save does not pay for fresh memory (up to 2 s per GB). Until it is, `save` answers False."""
        if not self._background.busy and self._copier.admits(tensors):
            self._background.start(lambda: self._attempt(lambda: self._copier.prepare(tensors)))

    def save(
        self,
        tensors: Mapping[str, Tensor],
        state: dict[str, Any],
        *,
        step: int,
        samples: int,
        metric: float | None = None,
        wait: bool = False,
        unless_troubled: bool = False,
    ) -> bool:
        """Copy the state and begin its upload; returns when the copy is made, or with `blocks` when the upload has
        ended. A higher `metric` is better.

        While an upload runs: False at once, or with `wait` True after it ended; with `unless_troubled`, too, False as
        soon as that upload gets nowhere. Raises `Fenced`, `UploadFailed`, `StateNotPlain`.
        """
        self.check()
        if self._background.busy:
            if not wait:
                return False
            if not unless_troubled:
                with self._trouble.waited_for():
                    self._background.wait()
            while not self._background.wait(POLL_S):
                if self._trouble:
                    return False
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
        specs, source = self._copier.take(tensors)
        draft = Draft(specs, source, state, step, samples, metric)
        self._background.start(lambda: self._attempt(lambda: self._commit(draft)))
        if source.waits:
            with self._trouble.waited_for():
                self._background.wait()
        self._blocked_s = time.perf_counter() - began
        return True

    def check(self) -> None:
        """Raise the error that ends training, if there is one: cheap, for every step."""
        if self._fatal is not None:
            raise self._fatal

    def flush(self, timeout_s: float) -> None:
        """Wait for the upload in flight; raises its error, or `UploadFailed` when it takes longer than `timeout_s`."""
        with self._trouble.waited_for():
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
            self._fatal = self._trouble.failed(error, began) or self._fatal
        except BaseException as error:  # a mistake of ours or of a callback's: it must not pass unseen
            self._fatal = error

    def _commit(self, draft: Draft) -> None:
        began = time.monotonic()
        store, settings, head, cleaner = self.store, self._settings, self._owned_head, self._cleaner
        assert cleaner is not None
        until = deadline(settings.upload_limit_s)
        folder = attempt_folder(settings.round, secrets.token_hex(4))
        cleaner.abandon(folder, manifest_key(draft.step, settings.round))  # until it is committed
        with self._trouble.upload(draft.step, until) as watched:
            slices = put_slices(watched, folder, draft.source, until=until, stop=self._stop)
            parent = head.checkpoints[0].manifest if head.checkpoints else None
            manifest = draft.manifest(settings, slices, parent)
            key = put_manifest(watched, manifest, until=until, stop=self._stop)
            entry = Entry(key, draft.step, settings.round, draft.metric)
            self._before_commit()
            committed_at = self._publish((entry, *head.checkpoints), until)
        cleaner.learn(key, manifest)
        self._upload_s = time.monotonic() - began
        self._on_commit(Committed(draft.step, store.uri(key), committed_at, manifest.size_bytes))
        cleaner.clean(head.checkpoints)

    def _measure(self, newest: Entry, metric: float) -> None:
        """The committed step was measured afterwards: only the head changes."""
        head = self._owned_head
        measured = Entry(newest.manifest, newest.step, newest.round, metric, newest.pinned)
        until = deadline(self._settings.upload_limit_s)
        with self._trouble.upload(newest.step, until):
            self._publish((measured, *head.checkpoints[1:]), until)
        if self._cleaner is not None:
            self._cleaner.clean(head.checkpoints)

    def _publish(self, entries: tuple[Entry, ...], until: float) -> datetime:
        if self._stop.is_set():
            raise UploadFailed("the upload was given up")
        keep = partial(kept, keep_last=self._settings.keep_last, keep_best=self._settings.keep_best)
        return self._owned_head.commit(entries, keep, until=until, stop=self._stop)

    # --- helpers ---

    def _restore(self, place: Place) -> Restored | None:
        if self._taken is None:
            raise RuntimeError("claim() comes before restore()")
        return self._taken.restore(place)

    @property
    def _owned_head(self) -> HeadFile:
        if self._head is None:
            raise RuntimeError("take_over() comes before save()")
        return self._head

    def _open(self, uri: str, what: str) -> Objects:
        settings = self._settings
        return open_objects(
            uri,
            endpoint=settings.endpoint,
            region=settings.region,
            ca_file=settings.ca_file,
            encryption=settings.encryption,
            kms_key_id=settings.kms_key_id,
            what=what,
        )

    def _warn_safely(self, reason: str, message: str) -> None:
        try:
            self._warn(reason, message)
        except Exception as error:
            self._fatal = self._fatal or error
