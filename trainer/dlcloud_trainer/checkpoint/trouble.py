"""What is said of a store that takes no checkpoint, and when it is too long for a training to go on.

May import objects, errors, layout and watch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from ..objects import Objects
from .errors import UploadFailed
from .layout import HEAD
from .watch import Watch, Watched

UPLOAD_FAILED = "CheckpointUploadFailed"
LIMITS_WITHOUT_COMMIT = 3


class Trouble:
    """From the first failure after a commit to the next commit. `limit_s`: how long one upload tries."""

    def __init__(self, limit_s: float, warn: Callable[[str, str], None]) -> None:
        self._limit_s, self._warn = limit_s, warn
        self._since: float | None = None
        self._said: tuple[str, str] | None = None  # of the upload that runs: what is wrong, and until when it tries
        self._waited_for = False
        self._store: Watched | None = None
        self._watch: Watch | None = None

    def mind(self, store: Objects) -> Objects:
        """The store that uploads are to use."""
        self._watch = Watch(store, HEAD)
        self._store = Watched(store, self._watch)
        return self._store

    @contextmanager
    def upload(self, step: int, until: float) -> Iterator[Objects]:
        """The minded store, for a commit of `step`: what goes wrong while the block runs is told in time."""
        assert self._store is not None and self._watch is not None
        with self._watch.upload(lambda error, since: self.met(error, since, step, until)):
            yield self._store
        self.end()

    def __bool__(self) -> bool:
        return self._since is not None

    def met(self, error: Exception, since: datetime, step: int, until: float) -> None:
        """An upload gets nowhere since `since`, and goes on trying until `until` (of `time.monotonic`)."""
        self._since = time.monotonic() if self._since is None else self._since
        end = datetime.now(UTC) + timedelta(seconds=until - time.monotonic())
        what = f"the checkpoint of step {step} cannot be saved since {since:%H:%M:%S}Z: {error}"
        self._said = what, f"tried again until {end:%H:%M:%S}Z"
        self._tell()

    @contextmanager
    def waited_for(self) -> Iterator[None]:
        """Nothing goes on while the block runs: it waits for the upload."""
        self._waited_for = True
        self._tell()
        try:
            yield
        finally:
            self._waited_for = False

    def failed(self, error: Exception, began: float) -> UploadFailed | None:
        """An upload that began at `began` is given up: the error that ends training, or None and a warning."""
        self._since, self._said = began if self._since is None else self._since, None
        without_s = time.monotonic() - self._since
        if without_s >= LIMITS_WITHOUT_COMMIT * self._limit_s:
            return UploadFailed(
                f"no checkpoint could be saved for {without_s:.0f} s ({LIMITS_WITHOUT_COMMIT} x limits.checkpoint): "
                f"{error}"
            )
        self._warn(UPLOAD_FAILED, f"{error}; training goes on, the next save tries again")
        return None

    def end(self) -> None:
        """A checkpoint is committed."""
        self._since = self._said = None

    def _tell(self) -> None:
        if self._said is not None:
            meanwhile = "the job waits for it" if self._waited_for else "training goes on"
            self._warn(UPLOAD_FAILED, f"{self._said[0]} ({meanwhile}; {self._said[1]})")
