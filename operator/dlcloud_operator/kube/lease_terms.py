"""What a lease is made of: its times, the clock they are counted by, its holders' names, and a reading of its object.

Standard library only. Values; nothing here talks to the API server.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True)
class LeaseTiming:
    """Seconds. A holder stops acting after `renew_deadline_s`; the others wait `duration_s`: the rest is safety."""

    duration_s: int = 12  # whole seconds: an integer in the object
    renew_deadline_s: float = 8.0
    retry_s: float = 2.0  # between two renewals, and at most between two attempts that failed
    poll_s: float = 1.0  # how often a standby looks: after a clean stop it takes over within this time

    def __post_init__(self) -> None:
        if not 0 < self.retry_s < self.renew_deadline_s < self.duration_s or self.poll_s <= 0:
            raise ValueError(
                f"lease timing: duration {self.duration_s} s, renew deadline {self.renew_deadline_s:g} s, retry"
                f" {self.retry_s:g} s; each must be longer than the next, and all above 0"
            )


def boottime() -> float:
    """Seconds of a clock that goes on while this process is stopped or its machine sleeps; it is never set."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


def make_identity(pod_name: str, pod_uid: str = "") -> str:
    """A holder's name, unlike any other process's, one before it in the same pod included.

    With `pod_uid` a restarted container takes over at once what the process before it held: a kubelet starts a
    container again only when the one before is gone.
    """
    return "_".join(filter(None, [pod_name or "operator", pod_uid, secrets.token_hex(8)]))


def same_pod(identity: str, other: str) -> bool:
    """Whether two identities are of one pod, by its name and uid."""
    pod = identity.rpartition("_")[0]
    return "_" in pod and other.rpartition("_")[0] == pod


@dataclass(frozen=True)
class Reading:
    """A reading of the Lease, and our clock when it first looked like this."""

    object: Mapping[str, Any] | None
    since: float

    @property
    def spec(self) -> Mapping[str, Any]:
        return (self.object or {}).get("spec") or {}

    @property
    def holder(self) -> str:
        return str(self.spec.get("holderIdentity") or "")

    def looks_like(self, other: Mapping[str, Any] | None) -> bool:
        return _version(self.object) == _version(other)


def _version(found: Mapping[str, Any] | None) -> str:
    return str(found["metadata"]["resourceVersion"]) if found is not None else ""


def now_text() -> str:
    """The time now as the object's fields spell it; nobody compares it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
