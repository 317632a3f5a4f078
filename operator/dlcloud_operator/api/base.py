"""What every model of the API shares: naming, strictness and the small value types.

May import pydantic only. A model is the one source of a field's default, range and text; the CRD is made from it.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.alias_generators import to_camel

GROUP = "dlcloud.dev"
VERSION = "v1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "TrainingJob"
MAX_NAME_LENGTH = 50

LABEL_JOB = f"{GROUP}/job"
LABEL_INDEX = f"{GROUP}/index"
LABEL_INCARNATION = f"{GROUP}/incarnation"

_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
DURATION_PATTERN = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"
STEP_LIMIT_PATTERN = r"^(auto|([0-9]+(\.[0-9]+)?(ms|s|m|h))+)$"
MAX_DURATION = timedelta(hours=8760)
QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|Ki|[MGTPE]i?)?$"
_QUANTITY_UNITS = {
    "": 1.0, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50, "Ei": 2.0**60,
}  # fmt: skip


class ApiModel(BaseModel):
    """camelCase outside, snake_case inside; unknown fields are refused; instances never change."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True, allow_inf_nan=False
    )

    def to_json(self) -> dict[str, Any]:
        """The object as the API server wants it: camelCase, no absent fields."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class StatusModel(ApiModel):
    """A model read back from a status: fields of a newer operator are ignored instead of refused."""

    model_config = ConfigDict(extra="ignore")


def parse_duration(text: str) -> timedelta:
    """`1h30m`, `90s`, `500ms` as a timedelta. Raises ValueError for anything else."""
    if not re.fullmatch(DURATION_PATTERN, text):
        raise ValueError(f"{text!r} is not a duration; write a number and ms, s, m or h, as in 90s or 1h30m")
    return timedelta(seconds=sum(float(n) * _SECONDS[unit] for n, unit in _DURATION_PART.findall(text)))


def parse_quantity(text: str) -> float:
    """A Kubernetes quantity (`500m`, `2Gi`, `1.5`) as a number of cores or bytes. Raises ValueError."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([A-Za-z]*)", text)
    if match is None or match[2] not in _QUANTITY_UNITS:
        raise ValueError(f"{text!r} is not a quantity; write a number and a unit, as in 500m, 2 or 2Gi")
    return float(match[1]) * _QUANTITY_UNITS[match[2]]


def _check_duration(text: str) -> str:
    try:
        duration = parse_duration(text)
    except OverflowError:
        duration = timedelta.max
    if not timedelta(0) < duration <= MAX_DURATION:
        raise ValueError(f"{text!r} is not a usable duration; give more than 0s and at most 8760h, one year")
    return text


def _check_step_limit(text: str) -> str:
    return text if text == "auto" else _check_duration(text)


def _check_quantity(text: str) -> str:
    parse_quantity(text)
    return text


def _whole_number_as_text(value: Any) -> Any:
    """YAML reads `cpu: 1` as a number; Kubernetes allows both."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _duration_rule(also: str = "") -> dict[str, Any]:
    """The same range as `_check_duration`, for the API server."""
    text = "give a duration of more than 0s and at most 8760h, for example 90s, 10m or 1h30m"
    cel = f"{also}(duration(self) > duration('0s') && duration(self) <= duration('8760h'))"
    return {"x-kubernetes-validations": [{"rule": cel, "message": text}]}


Duration = Annotated[
    str,
    Field(pattern=DURATION_PATTERN, max_length=32, json_schema_extra=_duration_rule()),
    AfterValidator(_check_duration),
]
StepLimit = Annotated[
    str,
    Field(pattern=STEP_LIMIT_PATTERN, max_length=32, json_schema_extra=_duration_rule("self == 'auto' || ")),
    AfterValidator(_check_step_limit),
]
Quantity = Annotated[
    str,
    BeforeValidator(_whole_number_as_text),
    Field(
        pattern=QUANTITY_PATTERN,
        max_length=32,
        json_schema_extra={"x-kubernetes-int-or-string": True, "pattern": QUANTITY_PATTERN},
    ),
    AfterValidator(_check_quantity),
]
