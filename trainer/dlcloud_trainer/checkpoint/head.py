"""head.json: taken over at the start of a round, changed by every commit, always under a condition.

May import objects, layout, salvage and tries. Must never write without `If-Match` or `If-None-Match`, and must never
take a lost reply for a conflict: every write has a random mark, and after a 412 the head is read back and compared.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from ..objects import AlreadyExists, ObjectMissing, Objects, PreconditionFailed, probe_conditional_writes
from .errors import Damaged, Fenced, NothingSound, UploadFailed
from .layout import ATTEMPTS, HEAD, MANIFESTS, Entry, Head, Manifest, attempt_folder, attempt_of, step_and_round
from .salvage import lineage
from .tries import persist

TAKE_OVER_S = 5.0
CONFLICTS = 20  # takeovers that meet a commit of the round before; each means that round still lives
Warn = Callable[[str, str], None]
Keep = Callable[[Sequence[Entry]], tuple[Entry, ...]]


class HeadFile:
    """The head as this round knows it. One writer at a time calls it."""

    def __init__(self, objects: Objects, *, round: int, nonce: str, warn: Warn) -> None:
        self._objects, self._round, self._nonce, self._warn = objects, round, nonce, warn
        self._etag = ""
        self.proven = False  # taking over has shown that the store does all that checkpoints need
        self.checkpoints: tuple[Entry, ...] = ()

    def take_over(self) -> None:
        """Make this round the owner; raises `Fenced` when a higher one is, and the errors of the store."""
        for _ in range(CONFLICTS):
            found = self._read_soundly()
            entries = self._first() if found is None else self._inherit(found[0])
            try:
                self._write(entries, found[1] if found else None, until=time.monotonic() + TAKE_OVER_S, stop=None)
                return
            except _Changed:
                continue
        raise Fenced(f"{self._where}: somebody changed it {CONFLICTS} times while round {self._round} took it over")

    def commit(
        self, entries: Sequence[Entry], keep: Keep, *, until: float, stop: threading.Event | None = None
    ) -> datetime:
        """Make what `keep` leaves of `entries` (newest first) the job's checkpoints; returns when. Raises `Fenced` when
        the head is no longer ours."""
        for _ in range(CONFLICTS):
            try:
                return self._write(keep(entries), self._etag, until=until, stop=stop)
            except _Changed as change:
                if change.found is None:
                    raise Fenced(f"{self._where} was removed while round {self._round} owned it") from None
                # Our round, another hand: a tool pinned or removed something. Take that over and commit again.
                found = {entry.manifest: entry for entry in self._owned(change.found[0]).checkpoints}
                known = {entry.manifest for entry in self.checkpoints}
                stay = [entry for entry in entries if entry.manifest in found or entry.manifest not in known]
                entries = [replace(e, pinned=found[e.manifest].pinned) if e.manifest in found else e for e in stay]
                self._etag = change.found[1]
        raise UploadFailed(f"{self._where}: somebody changed it {CONFLICTS} times during one commit")

    @property
    def _where(self) -> str:
        return self._objects.uri(HEAD)

    def _write(
        self, entries: tuple[Entry, ...], etag: str | None, *, until: float, stop: threading.Event | None
    ) -> datetime:
        now = datetime.now(UTC)
        data = Head(self._round, self._nonce, secrets.token_hex(8), now, entries).dump()

        def send() -> str:
            # The same bytes every time: whichever of several sends arrived, it is this commit.
            try:
                if etag is None:
                    return self._objects.put_if_absent(HEAD, data)
                return self._objects.put_if_match(HEAD, data, etag)
            except (AlreadyExists, PreconditionFailed):
                found = self._objects.get_with_etag(HEAD)
                if found is not None and found[0] == data:
                    return found[1]
                raise _Changed(found) from None

        self._etag = persist(send, until=until, stop=stop)
        self.checkpoints = entries
        return now

    def _read_soundly(self) -> tuple[bytes, str] | None:
        found = self._objects.get_with_etag(HEAD)
        try:
            if found is not None:
                Head.parse(found[0], self._where)
            return found
        except Damaged:  # perhaps only on the way
            return self._objects.get_with_etag(HEAD)

    def _inherit(self, data: bytes) -> tuple[Entry, ...]:
        try:
            head = Head.parse(data, self._where)
        except Damaged as damage:
            return self._salvage(str(damage))
        if head.round > self._round or (head.round == self._round and head.nonce != self._nonce):
            raise self._fenced(head.round)
        return head.checkpoints

    def _first(self) -> tuple[Entry, ...]:
        # Only when the head is created: an existing one proves that the store was found fit.
        probe_conditional_writes(self._objects, attempt_folder(self._round, "probe"))
        manifests = self._objects.list(MANIFESTS)
        self.proven = True
        return self._salvage(f"{self._where} is missing") if manifests else ()

    def _salvage(self, why: str) -> tuple[Entry, ...]:
        rounds = [attempt[1] for key in self._objects.list(ATTEMPTS) if (attempt := attempt_of(key))]
        keys = {key: found for key in self._objects.list(MANIFESTS) if (found := step_and_round(key))}
        highest = max([*rounds, *(round for _, round in keys.values())], default=0)
        if highest > self._round:
            raise self._fenced(highest)
        entries = lineage(keys, self._read)
        if keys and not entries:
            raise NothingSound(
                f"{why}, and none of the {len(keys)} manifests beside it can be read; put the objects back, or delete "
                f"everything below {self._objects.uri()} to begin anew"
            )
        pinned = sum(entry.pinned for entry in entries)
        self._warn(
            "CheckpointHeadDamaged",
            f"{why}; put together again from {len(entries)} of {len(keys)} manifests, pins are lost"
            + (f", and {pinned} that retention had kept are pinned" if pinned else ""),
        )
        return entries

    def _read(self, key: str) -> Manifest | None:
        try:
            return Manifest.parse(self._objects.get(key), self._objects.uri(key))
        except ObjectMissing:
            return None

    def _owned(self, data: bytes) -> Head:
        try:
            head = Head.parse(data, self._where)
        except Damaged as damage:
            raise Fenced(f"{damage}; somebody overwrote it while round {self._round} owned it") from None
        if (head.round, head.nonce) != (self._round, self._nonce):
            raise self._fenced(head.round)
        return head

    def _fenced(self, owner: int) -> Fenced:
        return Fenced(f"{self._where}: round {owner} owns the checkpoints, this process belongs to round {self._round}")


class _Changed(Exception):
    """The head is neither what we knew nor what we wrote."""

    def __init__(self, found: tuple[bytes, str] | None) -> None:
        self.found = found
