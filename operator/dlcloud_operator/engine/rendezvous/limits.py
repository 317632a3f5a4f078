"""How much one client may ask of the rendezvous server. Standard library only.

The numbers are generous for honest agents (two connections and about one request a second each) and tight for the rest.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ServerLimits:
    """Bounds of the rendezvous server; times in seconds."""

    body_bytes: int = 64 * 1024
    head_s: float = 10.0  # from connecting until a whole request head was read
    body_s: float = 10.0  # for a whole body
    idle_s: float = 75.0  # from an answer until the next request was read: also ends clients that do not read
    connections: int = 8192  # two for each of 4,096 pods
    polls_per_pod: int = 2  # one that the agent already gave up, and the one it opened after it
    poll_s: float = 25.0
    requests_per_s: float = 20.0  # of one pod
    requests_burst: float = 40.0
    stop_s: float = 0.4  # for answers under way when the server stops


class TokenBucket:
    """Allows `burst` at once and `rate_per_s` in the long run."""

    def __init__(self, rate_per_s: float, burst: float, now_s: float) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._tokens = burst
        self._at_s = now_s

    def take(self, now_s: float) -> bool:
        """Take one token; False when there is none."""
        self._tokens = min(self._burst, self._tokens + (now_s - self._at_s) * self._rate_per_s)
        self._at_s = now_s
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
