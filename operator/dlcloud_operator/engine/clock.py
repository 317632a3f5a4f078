"""The one place that reads the wall clock; everything else is passed a `now`. Standard library only."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_now() -> datetime:
    """The time now, aware, in UTC."""
    return datetime.now(UTC)
