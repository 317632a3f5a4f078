"""Objects as an API server gives them, and the values this program makes of them: what operator and command line share.

May import core, api and the engine's message parser. Pure and forgiving: whatever an object holds, nothing raises here.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from dlcloud_operator.api import ObjectStore, ObjectStoreStatus, Problem, TrainingJobSpec
from dlcloud_operator.api.reading import read_status
from dlcloud_operator.core.model import JobKey, JobView, RankResult

from .rendezvous.messages import BadMessage, parse_termination, printable

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_REGION = ObjectStore().region
Parsed = tuple[TrainingJobSpec | None, tuple[Problem, ...]]


def job_view(raw: Mapping[str, Any], parsed: Parsed, created_at: datetime = EPOCH) -> JobView:
    """A TrainingJob object with its spec as parsed; `created_at` stands in where the object does not tell."""
    metadata = mapping(raw.get("metadata"))
    spec, problems = parsed
    return JobView(
        key=JobKey(text(metadata.get("namespace")) or "default", text(metadata.get("name"))),
        uid=text(metadata.get("uid")),
        resource_version=text(metadata.get("resourceVersion")),
        generation=number(metadata.get("generation")) or 0,
        created_at=time_of(metadata.get("creationTimestamp")) or created_at,
        status=read_status(mapping(raw.get("status"))),
        spec=spec,
        problems=problems,
        deleting=bool(metadata.get("deletionTimestamp")),
    )


def on_store(spec: TrainingJobSpec, store: ObjectStoreStatus) -> TrainingJobSpec:
    """The spec on this store, if it names no endpoint of its own: credentials never go to another endpoint."""
    given = spec.object_store
    if given.endpoint or not _uses_a_server(spec):
        return spec
    changes: dict[str, Any] = {}
    if store.endpoint:
        changes["endpoint"] = store.endpoint
    if (
        store.region not in ("", _REGION) and given.region == _REGION
    ):  # the API server fills it in: not given looks like this
        changes["region"] = store.region
    if store.credentials_secret and not given.credentials_secret:
        changes["credentials_secret"] = store.credentials_secret
    if store.ca_config_map and not given.ca_config_map:
        changes["ca_config_map"] = store.ca_config_map
    return spec.model_copy(update={"object_store": given.model_copy(update=changes)}) if changes else spec


def _uses_a_server(spec: TrainingJobSpec) -> bool:
    """Whether an address of the job is on a server: a Secret that no pod needs must not be missed by any."""
    places = (spec.checkpoint.uri if spec.checkpoint else "", spec.data.uri if spec.data else "", spec.resume_from)
    return any(place.startswith("s3://") for place in places)


def last_words(message: str, read_at: datetime) -> tuple[str, tuple[RankResult, ...]]:
    """What a container left in its termination message: the agent's words and results, or else the text as it is."""
    if not message.strip():
        return "", ()
    try:
        told, results = parse_termination(message, read_at)
    except BadMessage:
        return printable(message), ()
    return printable(told.message), results


def time_of(value: Any) -> datetime | None:
    """An RFC 3339 time, None for anything else."""
    if not isinstance(value, str):
        return None
    try:
        at = datetime.fromisoformat(value)
        return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is a mapping, else an empty one."""
    if type(value) is dict:  # nearly always, and much cheaper to ask
        return value
    return value if isinstance(value, Mapping) else {}


def text(value: Any) -> str:
    """The value if it is text, else nothing."""
    return value if isinstance(value, str) else ""


def number(value: Any) -> int | None:
    """The value if it is a whole number of at most 64 bits, else None."""
    whole = isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    return value if whole else None
