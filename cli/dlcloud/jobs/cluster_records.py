"""From the API server's objects to this program's values. Pure.

May import the API, the engine's reading of objects and this package. Forgiving: what a newer operator writes must not
hide a job.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from dlcloud_operator.api import Phase
from dlcloud_operator.api.validation import parse_spec
from dlcloud_operator.engine.reading import job_view, mapping, on_store, time_of

from ..view.snapshot import EventLine
from .source import JobRecord

_FINISHED = {Phase.SUCCEEDED.value, Phase.FAILED.value}
_NOT_SEEN = "no operator has seen the job yet"


@dataclass(frozen=True)
class ClusterRecord(JobRecord):
    """A TrainingJob of a cluster; `raw` is the object as the API server gave it."""

    raw: Mapping[str, Any] = field(default_factory=dict)

    @property
    def checkpoint_prefix(self) -> str:
        """As always, also when the spec is one this program does not understand."""
        uri = str(_at(self.raw, "spec", "checkpoint", "uri") or "")
        key = self.job.key
        return f"{uri.rstrip('/')}/{key.namespace}/{key.name}/{self.job.uid}/" if uri else ""

    def document(self) -> dict[str, Any]:
        """The object as `kubectl get -o json` gives it: nothing a newer operator wrote is lost."""
        metadata = {key: value for key, value in self.raw.get("metadata", {}).items() if key != "managedFields"}
        return {**self.raw, "metadata": metadata}


def record_of(raw: Mapping[str, Any]) -> ClusterRecord:
    """The job of a TrainingJob object, whatever its spec and status look like."""
    parsed = parse_spec(raw.get("spec"), ignore_unknown=True, allow_privileged=True)
    view = job_view(raw, parsed, datetime.now(UTC))
    if view.spec is not None and view.status.object_store is not None:
        view = replace(view, spec=on_store(view.spec, view.status.object_store))
    status = mapping(raw.get("status"))
    phase = str(status.get("phase") or "")
    message = str(status.get("message") or "") or (_NOT_SEEN if not phase else "")
    if view.deleting:
        message = f"is being deleted; {message}".rstrip("; ")
    return ClusterRecord(
        id=view.key.name,
        job=view,
        phase=phase or Phase.PENDING.value,
        message=message,
        running=phase not in _FINISHED,
        raw=raw,
    )


def event_lines(items: list[Mapping[str, Any]]) -> list[EventLine]:
    """Events, oldest first; one that came again says how often, at the time of the last."""
    found = []
    for item in items:
        series = item.get("series") or {}
        times = (
            series.get("lastObservedTime"),
            item.get("lastTimestamp"),
            item.get("eventTime"),
            item.get("firstTimestamp"),
            (item.get("metadata") or {}).get("creationTimestamp"),
        )
        at = next((time for time in map(time_of, times) if time is not None), None)
        if at is None:
            continue
        count = int(series.get("count") or item.get("count") or 1)
        message = str(item.get("message") or item.get("note") or "").strip()
        message += f" ({count} times)" if count > 1 else ""
        found.append(EventLine(at, str(item.get("reason") or ""), message, item.get("type") == "Warning"))
    return sorted(found, key=lambda line: line.at)


def _at(value: Any, *path: str) -> Any:
    for step in path:
        value = value.get(step) if isinstance(value, Mapping) else None
    return value
