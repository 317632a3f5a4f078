"""What an agent may say, and nothing else: JSON text becomes a core Report, or a sentence on what is wrong with it.

May import pydantic, api and core. Pure: the time of arrival is passed in. Nothing trusts the agent's clock or numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, TypeVar

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from dlcloud_operator.api import CheckpointStatus, Outcome, Progress
from dlcloud_operator.core.model import AgentWarning, RankResult, RankState, RankView, Report

MAX_MESSAGE_CHARS = 1024
_MAX_AGE = timedelta(days=30)  # keeps date arithmetic in range, whatever an agent's clock says

Count = Annotated[int, Field(ge=0, le=2**53)]
RankNumber = Annotated[int, Field(ge=0, lt=1024 * 16)]
Seconds = Annotated[float, Field(ge=0, le=1e9)]
# Told apart from a broken message: a loss that is not finite is news about the training, not about the agent.
AnyFloat = Annotated[float, Field(allow_inf_nan=True)]


class BadMessage(Exception):
    """The body is no report; the message says in one sentence why."""


class _Message(BaseModel):
    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=False, extra="ignore", strict=True, frozen=True, allow_inf_nan=False
    )


M = TypeVar("M", bound=_Message)


class RankMessage(_Message):
    rank: RankNumber
    state: RankState
    step: Count | None = None
    quiet_s: Seconds | None = None
    longest_step_s: Seconds | None = None


class ResultMessage(_Message):
    round: Count
    rank: RankNumber
    outcome: Outcome
    exit_code: Annotated[int, Field(ge=-(2**31), lt=2**32)] | None = None
    ended_at: AwareDatetime
    message: Annotated[str, Field(max_length=16_384)] = ""


class ProgressMessage(_Message):
    epoch: Count | None = None
    epochs: Count | None = None
    step: Count | None = None
    total_steps: Count | None = None
    samples: Count | None = None
    loss: AnyFloat | None = None
    samples_per_second: AnyFloat | None = None
    metrics: Annotated[
        dict[Annotated[str, Field(min_length=1, max_length=63)], AnyFloat | None], Field(max_length=64)
    ] = {}


class CheckpointMessage(_Message):
    step: Count
    uri: Annotated[str, Field(min_length=1, max_length=2048)]
    committed_at: AwareDatetime
    size_bytes: Count | None = None


class WarningMessage(_Message):
    reason: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9]*$", max_length=63)]
    message: Annotated[str, Field(max_length=16_384)] = ""
    at: AwareDatetime
    over: bool = False


class ReportMessage(_Message):
    sent_at: AwareDatetime
    round: Count
    address: Annotated[str, Field(pattern=r"^[A-Za-z0-9.:_-]*$", max_length=253)]
    port: Annotated[int, Field(ge=1, le=65_535)]
    draining: bool = False
    ranks: Annotated[list[RankMessage], Field(max_length=16)] = []
    results: Annotated[list[ResultMessage], Field(max_length=64)] = []
    progress: ProgressMessage | None = None
    checkpoint: CheckpointMessage | None = None
    warnings: Annotated[list[WarningMessage], Field(max_length=32)] = []


class TerminationMessage(_Message):
    """What an agent leaves in its termination message file (docs/protocol.md, section 2)."""

    outcome: Outcome
    exit_code: Annotated[int, Field(ge=-(2**31), lt=2**32)] | None = None
    message: Annotated[str, Field(max_length=16_384)] = ""
    results: Annotated[list[ResultMessage], Field(max_length=64)] = []
    sent_at: AwareDatetime


@dataclass(frozen=True)
class Heard:
    """A report and its time on the agent's own clock, which orders the reports of one agent."""

    report: Report
    sent_at: datetime


def parse_report(body: bytes, pod_uid: str, received_at: datetime) -> Heard:
    """A report from its JSON text, with the agent's times moved onto the operator's clock. Raises BadMessage."""
    wire = _parse(ReportMessage, body)
    warnings = [
        AgentWarning(
            warning.reason, printable(warning.message), _shifted(warning.at, wire.sent_at, received_at), warning.over
        )
        for warning in wire.warnings
    ]
    progress = None
    if wire.progress is not None:
        progress, dropped = _progress(wire.progress, received_at)
        if dropped and not any(warning.reason == "LossNotFinite" for warning in warnings):
            message = f"{' and '.join(dropped)} not finite; lower the learning rate or look at the data"
            warnings.append(AgentWarning("LossNotFinite", message[:MAX_MESSAGE_CHARS], received_at))
    saved = wire.checkpoint
    report = Report(
        pod_uid=pod_uid,
        received_at=received_at,
        round=wire.round,
        address=wire.address,
        port=wire.port,
        ranks=tuple(
            RankView(rank.rank, rank.state, quiet_s=rank.quiet_s, step=rank.step, longest_step_s=rank.longest_step_s)
            for rank in wire.ranks
        ),
        results=_results(wire.results, wire.sent_at, received_at),
        progress=progress,
        checkpoint=None
        if saved is None
        else CheckpointStatus(
            step=saved.step, uri=saved.uri, committed_at=saved.committed_at, size_bytes=saved.size_bytes
        ),
        draining=wire.draining,
        warnings=tuple(warnings),
    )
    return Heard(report, wire.sent_at)


def parse_termination(text: str, read_at: datetime) -> tuple[TerminationMessage, tuple[RankResult, ...]]:
    """A pod's termination message and its results on the operator's clock. Raises BadMessage."""
    wire = _parse(TerminationMessage, text.encode("utf-8", "replace"))
    return wire, _results(wire.results, wire.sent_at, read_at)


def _parse(model: type[M], body: bytes) -> M:
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise BadMessage(
            _sentence(error.errors(include_url=False, include_context=False, include_input=True))
        ) from None
    except (ValueError, RecursionError):
        raise BadMessage("the body is not JSON") from None


def _sentence(errors: Sequence[Any]) -> str:
    first = errors[0]
    where = ".".join(map(str, first["loc"]))
    if first["type"] == "json_invalid":
        return f"the body is not JSON: {first['msg']}"[:300]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    given = repr(first["input"])
    given = given if len(given) <= 80 else given[:77] + "..."
    return f"{where or 'the body'}: {given}: {first['msg']}{more}"[:300]


def _results(wire: Sequence[ResultMessage], sent_at: datetime, received_at: datetime) -> tuple[RankResult, ...]:
    return tuple(
        RankResult(
            round=result.round,
            rank=result.rank,
            outcome=result.outcome,
            ended_at=_shifted(result.ended_at, sent_at, received_at),
            exit_code=result.exit_code,
            message=printable(result.message),
        )
        for result in wire
    )


def _shifted(at: datetime, sent_at: datetime, received_at: datetime) -> datetime:
    """`at` on the operator's clock; never in the future."""
    return received_at - min(max(sent_at - at, timedelta()), _MAX_AGE)


def _progress(wire: ProgressMessage, received_at: datetime) -> tuple[Progress, list[str]]:
    """The progress without its non-finite numbers, and the names of those that were dropped."""
    dropped = [] if _finite_or_none(wire.loss) else ["the loss is"]
    dropped += [f"metric {name} is" for name, value in wire.metrics.items() if not _finite_or_none(value)]
    progress = Progress(
        epoch=wire.epoch,
        epochs=wire.epochs,
        step=wire.step,
        total_steps=wire.total_steps,
        samples=wire.samples,
        loss=wire.loss if _finite_or_none(wire.loss) else None,
        metrics={name: value for name, value in wire.metrics.items() if value is not None and math.isfinite(value)},
        samples_per_second=wire.samples_per_second if _finite_or_none(wire.samples_per_second) else None,
        reported_at=received_at,
    )
    return progress, dropped


def _finite_or_none(value: float | None) -> bool:
    return value is None or math.isfinite(value)


def printable(message: str) -> str:
    """At most 1,024 characters, the end of them (there a traceback names its error), without control characters."""
    clean = "".join(char if char.isprintable() or char in "\n\t" else "\ufffd" for char in message)
    return clean if len(clean) <= MAX_MESSAGE_CHARS else "…" + clean[-(MAX_MESSAGE_CHARS - 1) :]
