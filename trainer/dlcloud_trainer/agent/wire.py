"""JSON to values and back: instructions, rank events, reports, the termination message.

May import the standard library only. No I/O; nothing here raises on what a rank wrote, only on what the operator
sent.
"""

from __future__ import annotations

import json
import math
import time
from typing import TYPE_CHECKING, Any

from .outcome import SEVERITY, shorten
from .values import Assignment, Finished, Result

if TYPE_CHECKING:
    from collections.abc import Iterable

TERMINATION_BYTES = 4096
REPORT_BYTES = 64 * 1024
_MESSAGE_STEPS = (1024, 512, 256, 128, 64, 0)


def read_instruction(body: bytes) -> Assignment | Finished:
    """The operator's answer as a value. Raises ValueError saying what is wrong with it."""
    data = json.loads(body)
    if not isinstance(data, dict):
        raise ValueError("an instruction must be an object")
    kind = data.get("kind")
    if kind == "finished":
        return Finished(str(data.get("phase", "")))
    if kind != "round":
        raise ValueError(f"unknown kind of instruction {kind!r}")
    try:
        assignment = Assignment(
            round=int(data["round"]),
            nonce=str(data["nonce"]),
            ranks=tuple(int(rank) for rank in data["ranks"]),
            world_size=int(data["worldSize"]),
            workers=int(data["workers"]),
            worker=int(data["index"]),
            master_addr=str(data["masterAddr"]),
            master_port=int(data["masterPort"]),
            threads=max(1, int(data.get("threads", 1))),
            restarts=int(data.get("restarts", 0)),
            job=dict(data["job"]),
            text=json.dumps(data, separators=(",", ":")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"a round needs a usable {error}") from None
    if assignment.round < 1 or not assignment.ranks:
        raise ValueError("a round has a number from 1 and at least one rank")
    return assignment


def read_event(line: bytes) -> dict[str, Any] | None:
    """A rank's event without non-finite numbers, or None for a line that is none."""
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or not isinstance(data.get("event"), str):
        return None
    kept = finite(data)
    return kept if isinstance(kept, dict) else None


def finite(value: Any) -> Any:
    """The value without its NaN and infinities: entries of objects are dropped, elements of lists become null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        cleaned = {key: finite(item) for key, item in value.items()}
        return {key: item for key, item in cleaned.items() if item is not None or value[key] is None}
    if isinstance(value, list):
        return [finite(item) for item in value]
    return value


def time_text(wall: float) -> str:
    """Seconds since the epoch as RFC 3339 in UTC with microseconds."""
    micros = round(wall * 1e6)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(micros // 1_000_000)) + f".{micros % 1_000_000:06d}Z"


def result_json(result: Result, limit: int = 1024) -> dict[str, Any]:
    """A result as reports and termination messages carry it."""
    return {
        "round": result.round,
        "rank": result.rank,
        "outcome": result.outcome,
        "exitCode": result.exit_code,
        "endedAt": time_text(result.ended_at),
        "message": shorten(result.message, limit) if limit else "",
    }


def encode_report(report: dict[str, Any], wall: float) -> bytes:
    """The report's bytes, stamped now, never above 64 KiB: messages are cut first, then the oldest results dropped."""
    report = {"sentAt": time_text(wall), **report}
    body = _encode(report)
    for limit in _MESSAGE_STEPS:
        if len(body) <= REPORT_BYTES:
            return body
        report["results"] = [{**r, "message": shorten(r["message"], limit) if limit else ""} for r in report["results"]]
        body = _encode(report)
    report = {**report, "warnings": [], "progress": None}
    while len(_encode(report)) > REPORT_BYTES and report["results"]:
        report["results"] = report["results"][len(report["results"]) // 2 + 1 :]
    return _encode(report)


def termination_message(results: Iterable[Result], wall: float) -> bytes:
    """The pod's last words (at most 4 KiB): the most telling result of the newest round, then as many as fit."""
    ordered = sorted(results, key=lambda result: (-result.round, SEVERITY.index(result.outcome), result.rank))
    first = ordered[0] if ordered else Result(0, 0, "Stopped", None, wall, "no rank was started")
    for keep in (len(ordered), sum(result.round == first.round for result in ordered), 16, 4, 0):
        for limit in _MESSAGE_STEPS:
            body = _encode(
                {
                    "outcome": first.outcome,
                    "exitCode": first.exit_code,
                    "message": shorten(first.message, max(limit, 256)),
                    "results": [result_json(result, limit) for result in ordered[:keep]],
                    "sentAt": time_text(wall),
                }
            )
            if len(body) <= TERMINATION_BYTES:
                return body
    return b"{}"


def _encode(data: dict[str, Any]) -> bytes:
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace")
